//! Snapshots of usage over time, and the trend that they make. All dates and buckets are those of UTC.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use super::period::{Period, excerpt};
use crate::error::Error;
use crate::limit::Limit;

/// How long the buckets of a trend are. They are those of UTC, and weeks begin on Monday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// An hour.
    Hour,
    /// A day.
    #[default]
    Day,
    /// A week, from Monday on.
    Week,
    /// A calendar month.
    Month,
}

impl Granularity {
    /// The four, from short to long.
    pub const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// The most buckets that a range may have.
    pub const MAX_BUCKETS: usize = 1000;

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The start of the bucket that holds `at`.
    pub fn start(self, at: Timestamp) -> Timestamp {
        let at = utc(at);
        match self {
            Self::Hour => timestamp(at.date().at(at.hour(), 0, 0, 0)),
            Self::Day | Self::Week | Self::Month => midnight(self.first_day(at.date())),
        }
    }

    /// The starts of the buckets that hold a moment of `from..until`, in order.
    pub fn buckets(self, from: Timestamp, until: Timestamp) -> impl Iterator<Item = Timestamp> {
        let first = (from < until).then(|| self.start(from));
        std::iter::successors(first, move |start| self.next(*start).filter(|next| *next < until))
    }

    /// What a bucket is called that begins at `start`: its first day, such as `2024-01-01`, and for an hour
    /// `2024-01-01T05:00:00Z`.
    pub fn label(self, start: Timestamp) -> String {
        match self {
            Self::Hour => start.to_string(),
            Self::Day | Self::Week | Self::Month => utc(start).date().to_string(),
        }
    }

    /// From when until before when the snapshots are needed for a trend from `start` to `end`, both inclusive: the
    /// first and the last bucket are whole, so that what a bucket shows doesn't depend on the range that was asked for.
    ///
    /// # Errors
    ///
    /// When `start` is after `end`, and when there are more than [`Granularity::MAX_BUCKETS`] buckets between them; the
    /// message says what to ask for instead.
    pub fn range(self, start: Date, end: Date) -> Result<(Timestamp, Timestamp), Error> {
        if start > end {
            return Err(Error::invalid(format!(
                "`startDate` {start} is after `endDate` {end}: name the earlier day first"
            )));
        }
        let (from, until) = (midnight(start), end.tomorrow().map_or(Timestamp::MAX, midnight));
        if !self.fits(from, until) {
            let coarser = Self::ALL.into_iter().skip_while(|other| *other != self).skip(1);
            let instead = match coarser.into_iter().find(|other| other.fits(from, until)) {
                Some(other) => format!("ask for granularity `{other}`, or for fewer days"),
                None => "ask for fewer days".to_owned(),
            };
            return Err(Error::invalid(format!(
                "by {self}, there are more than {} points from {start} to {end}: {instead}",
                Self::MAX_BUCKETS
            )));
        }
        let last = self.buckets(from, until).last().and_then(|start| self.next(start));
        Ok((self.start(from), last.unwrap_or(Timestamp::MAX)))
    }

    fn fits(self, from: Timestamp, until: Timestamp) -> bool {
        self.buckets(from, until).nth(Self::MAX_BUCKETS).is_none()
    }

    /// The first day of the bucket of days that holds `date`.
    fn first_day(self, date: Date) -> Date {
        match self {
            Self::Hour | Self::Day => date,
            Self::Week => Period::Weekly.range(date).0,
            Self::Month => Period::Monthly.range(date).0,
        }
    }

    /// The start of the bucket after the one that begins at `start`; `None` at the end of time.
    fn next(self, start: Timestamp) -> Option<Timestamp> {
        let span = match self {
            Self::Hour => Span::new().hours(1),
            Self::Day => Span::new().days(1),
            Self::Week => Span::new().weeks(1),
            Self::Month => Span::new().months(1),
        };
        Offset::UTC.to_timestamp(utc(start).checked_add(span).ok()?).ok()
    }
}

fn utc(at: Timestamp) -> DateTime {
    Offset::UTC.to_datetime(at)
}

/// Days at the beginning of time begin before the first timestamp; they are taken to begin there.
fn timestamp(utc: DateTime) -> Timestamp {
    Offset::UTC.to_timestamp(utc).unwrap_or(Timestamp::MIN)
}

/// The beginning of a day.
fn midnight(date: Date) -> Timestamp {
    timestamp(date.to_datetime(Time::midnight()))
}

impl FromStr for Granularity {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|granularity| granularity.as_str() == value).ok_or_else(|| {
            Error::invalid(format!("`granularity` can't be {:?}: write hour, day, week or month", excerpt(value)))
        })
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Usage of one resource type in one bucket of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// When usage and limit were read last.
    pub at: Timestamp,
    /// Rows at that time.
    pub last: u64,
    /// The fewest rows that were read.
    pub min: u64,
    /// The most rows that were read.
    pub max: u64,
    /// The limit at that time.
    pub limit: Limit,
    /// Creations that were refused.
    pub refusals: u64,
}

impl Snapshot {
    /// Takes in a later snapshot of the same resource type, as when hours become a day.
    pub fn merge(&mut self, later: &Self) {
        *self = Self {
            at: later.at,
            last: later.last,
            min: self.min.min(later.min),
            max: self.max.max(later.max),
            limit: later.limit,
            refusals: self.refusals.saturating_add(later.refusals),
        };
    }

    /// What it says of a bucket in which nothing was read.
    fn carried(&self) -> Self {
        Self { min: self.last, max: self.last, refusals: 0, ..*self }
    }
}

/// Usage of one resource type in one bucket of a trend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TrendPoint {
    /// Where the bucket begins.
    pub start: Timestamp,
    /// What is known of it.
    pub snapshot: Snapshot,
    /// Whether nothing was read in the bucket, so that the snapshot is what was known before it.
    pub carried: bool,
}

/// The trend of one resource type: a point for each bucket that holds a moment of `from..until`, but for those before
/// the first snapshot.
///
/// `snapshots` are sorted by time. Those of a bucket are merged, also where `from` or `until` lies within it; a bucket
/// without any has what was read last before it. Check the range with [`Granularity::range`] first: there is a point
/// for each of its buckets.
pub fn trend(snapshots: &[Snapshot], granularity: Granularity, from: Timestamp, until: Timestamp) -> Vec<TrendPoint> {
    let mut points = Vec::new();
    let mut snapshots = snapshots.iter().peekable();
    let mut known: Option<Snapshot> = None;
    for start in granularity.buckets(from, until) {
        while let Some(earlier) = snapshots.next_if(|snapshot| snapshot.at < start) {
            known = Some(*earlier);
        }
        let end = granularity.next(start);
        let mut read: Option<Snapshot> = None;
        while let Some(later) = snapshots.next_if(|snapshot| end.is_none_or(|end| snapshot.at < end)) {
            match &mut read {
                Some(bucket) => bucket.merge(later),
                None => read = Some(*later),
            }
        }
        let carried = read.is_none();
        known = read.or(known.map(|before| before.carried()));
        points.extend(known.map(|snapshot| TrendPoint { start, snapshot, carried }));
    }
    points
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn snapshot(time: &str, min: u64, last: u64, max: u64) -> Snapshot {
        Snapshot { at: at(time), last, min, max, limit: Limit::of(50), refusals: 1 }
    }

    #[test]
    fn names_are_read_back_and_others_are_told_the_names() {
        for granularity in Granularity::ALL {
            assert_eq!(granularity.to_string().parse::<Granularity>().unwrap(), granularity);
            assert_eq!(serde_json::to_value(granularity).unwrap(), granularity.as_str());
        }
        for period in Period::ALL {
            assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
            assert_eq!(serde_json::to_value(period).unwrap(), period.as_str());
        }
        let error = "year".parse::<Granularity>().unwrap_err();
        assert!(error.is_invalid());
        assert_eq!(error.message(), "`granularity` can't be \"year\": write hour, day, week or month");
        let error = "x".repeat(1000).parse::<Period>().unwrap_err();
        assert_eq!(
            error.message(),
            "`period` can't be \"xxxxxxxxxxxxxxxxxxxx\": write daily, weekly or monthly",
            "not all of a huge input"
        );
    }

    #[test]
    fn a_bucket_holds_its_start_and_ends_before_the_next() {
        let cases = [
            (Granularity::Hour, "2024-02-29T05:00:00Z", "2024-02-29T06:00:00Z", "2024-02-29T05:00:00Z"),
            (Granularity::Day, "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z", "2024-02-29"),
            (Granularity::Week, "2024-02-26T00:00:00Z", "2024-03-04T00:00:00Z", "2024-02-26"),
            (Granularity::Month, "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z", "2024-02-01"),
            // Before the epoch, where seconds are negative.
            (Granularity::Hour, "1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z", "1969-12-31T23:00:00Z"),
            (Granularity::Week, "1969-12-29T00:00:00Z", "1970-01-05T00:00:00Z", "1969-12-29"),
        ];
        for (granularity, start, next, label) in cases {
            let (start, next) = (at(start), at(next));
            let last = next - Span::new().nanoseconds(1);
            assert_eq!(granularity.start(start), start, "{granularity}");
            assert_eq!(granularity.start(last), start, "{granularity}");
            assert_eq!(granularity.start(next), next, "{granularity}");
            assert_eq!(granularity.buckets(last, next + Span::new().nanoseconds(1)).collect::<Vec<_>>(), [start, next]);
            assert_eq!(granularity.buckets(last, next).collect::<Vec<_>>(), [start], "the end is exclusive");
            assert_eq!(granularity.label(start), label);
        }
    }

    #[test]
    fn months_follow_each_other_by_the_calendar() {
        let starts = Granularity::Month.buckets(at("2023-12-31T23:59:59Z"), at("2024-04-01T00:00:00Z"));
        let labels: Vec<_> = starts.map(|start| Granularity::Month.label(start)).collect();
        assert_eq!(labels, ["2023-12-01", "2024-01-01", "2024-02-01", "2024-03-01"]);
    }

    #[test]
    fn a_period_holds_its_date() {
        let range = |period: Period, day| period.range(date(day));
        assert_eq!(range(Period::Daily, "2024-02-29"), (date("2024-02-29"), date("2024-02-29")));
        assert_eq!(range(Period::Weekly, "2024-02-26"), (date("2024-02-26"), date("2024-03-03")));
        assert_eq!(range(Period::Weekly, "2024-03-03"), (date("2024-02-26"), date("2024-03-03")));
        assert_eq!(range(Period::Monthly, "2024-02-10"), (date("2024-02-01"), date("2024-02-29")));
        assert_eq!(Period::Weekly.range(Date::MAX).1, Date::MAX);
        assert_eq!(Period::Weekly.range(Date::MIN).1, date("-009999-01-07"));
    }

    #[test]
    fn a_range_is_widened_to_whole_buckets() {
        let range = |granularity: Granularity| granularity.range(date("2024-01-31"), date("2024-02-01")).unwrap();
        let day = (at("2024-01-31T00:00:00Z"), at("2024-02-02T00:00:00Z"));
        assert_eq!(range(Granularity::Hour), day);
        assert_eq!(range(Granularity::Day), day);
        assert_eq!(range(Granularity::Week), (at("2024-01-29T00:00:00Z"), at("2024-02-05T00:00:00Z")));
        assert_eq!(range(Granularity::Month), (at("2024-01-01T00:00:00Z"), at("2024-03-01T00:00:00Z")));
        let one = Granularity::Day.range(date("2024-01-31"), date("2024-01-31")).unwrap();
        assert_eq!(one, (at("2024-01-31T00:00:00Z"), at("2024-02-01T00:00:00Z")));
    }

    #[test]
    fn a_range_that_is_reversed_or_too_long_is_refused() {
        let message = |granularity: Granularity, start, end| {
            let error = granularity.range(date(start), date(end)).unwrap_err();
            assert!(error.is_invalid());
            error.message().to_owned()
        };
        assert_eq!(
            message(Granularity::Day, "2024-02-01", "2024-01-31"),
            "`startDate` 2024-02-01 is after `endDate` 2024-01-31: name the earlier day first"
        );
        // 1000 days, and one more.
        assert!(Granularity::Day.range(date("2024-01-01"), date("2026-09-26")).is_ok());
        assert_eq!(
            message(Granularity::Day, "2024-01-01", "2026-09-27"),
            "by day, there are more than 1000 points from 2024-01-01 to 2026-09-27: ask for granularity `week`, or for \
             fewer days"
        );
        // What is suggested would do.
        assert!(Granularity::Week.range(date("2024-01-01"), date("2026-09-27")).is_ok());
        assert!(message(Granularity::Hour, "1990-01-01", "2024-12-31").contains("ask for granularity `month`"));
        assert!(message(Granularity::Hour, "-009999-01-01", "9999-12-31").ends_with(": ask for fewer days"));
        assert!(message(Granularity::Month, "-009999-01-01", "9999-12-31").ends_with(": ask for fewer days"));
    }

    #[test]
    fn hours_become_a_day() {
        let mut day = snapshot("2024-01-01T01:00:00Z", 5, 9, 10);
        day.merge(&Snapshot {
            limit: Limit::Unlimited,
            refusals: u64::MAX,
            ..snapshot("2024-01-01T02:00:00Z", 7, 8, 12)
        });
        let expected = Snapshot {
            at: at("2024-01-01T02:00:00Z"),
            last: 8,
            min: 5,
            max: 12,
            limit: Limit::Unlimited,
            refusals: u64::MAX,
        };
        assert_eq!(day, expected);
        let json = serde_json::to_string(&day).unwrap();
        assert_eq!(
            json,
            r#"{"at":"2024-01-01T02:00:00Z","last":8,"min":5,"max":12,"limit":null,"refusals":18446744073709551615}"#
        );
        assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), day);
    }

    #[test]
    fn gaps_are_carried_forward_and_marked() {
        let snapshots = [
            snapshot("2024-01-02T10:00:00Z", 1, 2, 3),
            snapshot("2024-01-02T23:59:59Z", 2, 4, 9),
            snapshot("2024-01-05T00:00:00Z", 6, 7, 8),
            snapshot("2024-01-07T00:00:00Z", 0, 0, 0),
        ];
        let shown = |from, until| -> Vec<_> {
            let points = trend(&snapshots, Granularity::Day, at(from), at(until));
            let show = |point: &TrendPoint| {
                let Snapshot { min, last, max, refusals, .. } = point.snapshot;
                (Granularity::Day.label(point.start), min, last, max, refusals, point.carried)
            };
            points.iter().map(show).collect()
        };
        let whole = [
            ("2024-01-02".to_owned(), 1, 4, 9, 2, false),
            ("2024-01-03".to_owned(), 4, 4, 4, 0, true),
            ("2024-01-04".to_owned(), 4, 4, 4, 0, true),
            ("2024-01-05".to_owned(), 6, 7, 8, 1, false),
            ("2024-01-06".to_owned(), 7, 7, 7, 0, true),
        ];
        assert_eq!(shown("2024-01-01T00:00:00Z", "2024-01-07T00:00:00Z"), whole, "nothing is known before the first");
        assert_eq!(shown("2024-01-03T00:00:00Z", "2024-01-07T00:00:00Z"), whole[1..], "carried into the range");
        assert_eq!(shown("2024-01-02T12:00:00Z", "2024-01-05T00:00:00Z"), whole[..3], "a bucket is shown as a whole");
        assert_eq!(shown("2024-01-03T00:00:00Z", "2024-01-03T00:00:00Z"), []);
        assert_eq!(shown("2024-01-04T00:00:00Z", "2024-01-03T00:00:00Z"), []);
        assert_eq!(trend(&[], Granularity::Day, at("2024-01-01T00:00:00Z"), at("2024-02-01T00:00:00Z")), []);
    }

    fn timestamps() -> impl Strategy<Value = Timestamp> {
        let range = Timestamp::MIN.as_nanosecond()..=Timestamp::MAX.as_nanosecond();
        prop_oneof![8 => range, 1 => Just(Timestamp::MIN.as_nanosecond()), 1 => Just(Timestamp::MAX.as_nanosecond())]
            .prop_map(|nanosecond| Timestamp::from_nanosecond(nanosecond).unwrap())
    }

    proptest! {
        #[test]
        fn every_moment_is_in_its_bucket(moment in timestamps(), which in 0_usize..4) {
            let granularity = Granularity::ALL[which];
            let start = granularity.start(moment);
            prop_assert!(start <= moment);
            prop_assert!(granularity.next(start).is_none_or(|next| next > moment));
            prop_assert_eq!(granularity.start(start), start);
            prop_assert!(!granularity.label(start).is_empty());
        }

        #[test]
        fn nothing_that_was_read_is_lost(
            hours in proptest::collection::btree_map(0_i64..200, (0_u64..100, 0_u64..10), 1..40),
            which in 0_usize..4,
        ) {
            let granularity = Granularity::ALL[which];
            let snapshots: Vec<_> = hours
                .iter()
                .map(|(hour, (last, refusals))| Snapshot {
                    at: Timestamp::from_second(hour * 3600).unwrap(),
                    last: *last,
                    min: *last,
                    max: *last,
                    limit: Limit::Unlimited,
                    refusals: *refusals,
                })
                .collect();
            let from = snapshots[0].at;
            let until = snapshots[snapshots.len() - 1].at + Span::new().seconds(1);
            let points = trend(&snapshots, granularity, from, until);
            prop_assert_eq!(points.len(), granularity.buckets(from, until).count());
            let refusals: u64 = points.iter().map(|point| point.snapshot.refusals).sum();
            prop_assert_eq!(refusals, snapshots.iter().map(|snapshot| snapshot.refusals).sum::<u64>());
            let most = points.iter().map(|point| point.snapshot.max).max();
            prop_assert_eq!(most, snapshots.iter().map(|snapshot| snapshot.last).max());
            for point in &points {
                let before = snapshots.iter().rfind(|snapshot| granularity.start(snapshot.at) <= point.start);
                let before = before.unwrap();
                prop_assert_eq!(point.snapshot.last, before.last);
                prop_assert_eq!(point.carried, granularity.start(before.at) != point.start);
            }
        }
    }
}

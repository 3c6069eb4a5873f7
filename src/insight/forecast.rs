//! When usage will reach its limit, by exponential smoothing.

use std::collections::BTreeMap;

use augurs::ets::AutoETS;
use augurs::mstl::{MSTLModel, stlrs};
use augurs::{Fit, Predict};
use jiff::Span;
use jiff::civil::Date;
use serde::Serialize;

use crate::limit::Limit;

/// How far a forecast looks ahead, in days.
const HORIZON: usize = 365;
/// How much of the history counts, in days.
const HISTORY: i64 = 400;
/// On how many days usage must be known.
const ENOUGH: usize = 14;
/// A week, in days.
const WEEK: usize = 7;
/// From how many days on weeks are looked for.
const SEASONAL: usize = 4 * WEEK;
/// From where on a weekly season is strong enough to be told from noise, on Hyndman's scale of 0 to 1.
const STRENGTH: f64 = 0.64;
/// How likely usage is to be within the bounds of a prediction.
const LEVEL: f64 = 0.8;

/// When usage of a resource type is expected to reach its limit.
///
/// Dates and numbers are `None` where there is nothing to tell, and `reason` then says why.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Forecast {
    /// The first day on which usage is expected to be at the limit: today, where it is.
    pub projected_date: Option<Date>,
    /// Whole days from today to `projected_date`, rounded up.
    pub days_until_limit: Option<u32>,
    /// How many rows come per day, as a part of current usage: 0.02 is 2 % of it. It is the growth that is expected from
    /// the coming week to the week after it.
    pub growth_rate: Option<f64>,
    /// The first day on which the upper bound of the 80 % prediction interval is at the limit; `None` beyond a year.
    pub earliest: Option<Date>,
    /// The first day on which the lower bound of the 80 % prediction interval is at the limit; `None` beyond a year.
    pub latest: Option<Date>,
    /// Why something isn't told; `None` where there is a day to come.
    pub reason: Option<ForecastReason>,
}

/// Why a [`Forecast`] doesn't name a day to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ForecastReason {
    /// Usage is at the limit or above it already.
    AtLimit,
    /// There is no limit.
    NoLimit,
    /// Usage is known on fewer than 14 days, today included.
    TooLittleHistory,
    /// Usage doesn't grow, or by less than one row in a year.
    NoGrowth,
    /// Usage grows, but isn't expected to reach the limit within a year.
    BeyondHorizon,
    /// No model fits the history.
    NoModel,
}

impl ForecastReason {
    /// All that there are in this version.
    pub const ALL: &[Self] =
        &[Self::AtLimit, Self::NoLimit, Self::TooLittleHistory, Self::NoGrowth, Self::BeyondHorizon, Self::NoModel];
}

/// What usage is expected to be at the end of a day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Predicted {
    /// The day.
    pub date: Date,
    /// Rows.
    pub point: f64,
    /// The lower bound of the 80 % prediction interval.
    pub lower: f64,
    /// The upper bound of the 80 % prediction interval.
    pub upper: f64,
}

impl Forecast {
    const fn unknown(reason: ForecastReason) -> Self {
        Self {
            projected_date: None,
            days_until_limit: None,
            growth_rate: None,
            earliest: None,
            latest: None,
            reason: Some(reason),
        }
    }
}

/// When usage will reach `limit`, by the usage at the end of each day in `history` and `usage`, which is that of today.
///
/// Days that are missing are as the day before. Of a history that is longer than 400 days, the last 400 count; days
/// after today don't. The same arguments give the same forecast.
///
/// Levels and growth are found by exponential smoothing (the best of those without a trend, with one, and with one that
/// flattens out, by AICc), after the days of the week have been told apart where they differ enough. Growth that itself
/// grows is taken to go on as it was last, so that of exponential growth the forecast is late.
///
/// It computes and doesn't wait: a year of days takes about 20 ms in a build without optimisation, and 300 ms where it
/// is a line without any noise, of which the search for the best fit makes the most steps that it may.
///
/// ```
/// use jiff::Span;
/// use jiff::civil::date;
/// use tower_quota::{Limit, forecast};
///
/// // From 16 to 44, one more each day.
/// let days = date(2024, 1, 1).series(Span::new().days(1));
/// let history: Vec<_> = days.zip(16..45).collect();
/// let forecast = forecast(&history, 45, Limit::of(50), date(2024, 1, 30));
/// assert_eq!(forecast.projected_date, Some(date(2024, 2, 4)));
/// assert_eq!(forecast.days_until_limit, Some(5));
/// ```
pub fn forecast(history: &[(Date, u64)], usage: u64, limit: Limit, today: Date) -> Forecast {
    let Some(limit) = limit.rows() else {
        return Forecast::unknown(ForecastReason::NoLimit);
    };
    let mut days: BTreeMap<_, _> = history.iter().copied().filter(|(date, _)| *date < today).collect();
    days.insert(today, usage);
    let path = Path::of(&days, HORIZON);
    let growth_rate = path.as_ref().ok().and_then(Path::growth).map(|growth| growth / usage as f64);
    let growth_rate = growth_rate.filter(|rate| rate.is_finite());
    if usage >= limit {
        let today = Some(today);
        return Forecast {
            projected_date: today,
            days_until_limit: Some(0),
            growth_rate,
            earliest: today,
            latest: today,
            reason: Some(ForecastReason::AtLimit),
        };
    }
    let path = match path {
        Ok(path) if path.growth().is_none() => return Forecast::unknown(ForecastReason::NoGrowth),
        Ok(path) => path,
        Err(reason) => return Forecast::unknown(reason),
    };
    let day = |days: u32| today.checked_add(Span::new().days(days)).ok();
    let reaches = |bound: fn(&Rows) -> f64| path.reaches(bound, limit as f64);
    let projected = reaches(|rows| rows.point).and_then(|days| Some((days, day(days)?)));
    Forecast {
        projected_date: projected.map(|(_, date)| date),
        days_until_limit: projected.map(|(days, _)| days),
        growth_rate,
        earliest: reaches(|rows| rows.upper).and_then(day),
        latest: reaches(|rows| rows.lower).and_then(day),
        reason: projected.is_none().then_some(ForecastReason::BeyondHorizon),
    }
}

/// What usage is expected to be on each of `days` days (365 at most) after the last one in `history`, which is as for
/// [`forecast`]; nothing where usage is known on fewer than 14 days, or no model fits.
///
/// It is what [`forecast`] goes by, for charts and for tests against what came true.
pub fn predict(history: &[(Date, u64)], days: usize) -> Vec<Predicted> {
    let history: BTreeMap<_, _> = history.iter().copied().collect();
    let (Some((last, _)), Ok(path)) = (history.last_key_value(), Path::of(&history, days.min(HORIZON))) else {
        return Vec::new();
    };
    let dates = last.series(Span::new().days(1)).skip(1);
    let predicted = path.days.iter().zip(dates).map(|(rows, date)| Predicted {
        date,
        point: rows.point.max(0.0),
        lower: rows.lower.max(0.0),
        upper: rows.upper.max(0.0),
    });
    predicted.collect()
}

/// What is expected of a day, as the model has it: it doesn't know that there are no fewer than no rows.
#[derive(Debug, Clone, Copy)]
struct Rows {
    point: f64,
    lower: f64,
    upper: f64,
}

/// What is expected of the days to come.
#[derive(Debug)]
struct Path {
    days: Vec<Rows>,
    /// What is lost in computing: a limit that is missed by less is reached.
    slack: f64,
}

impl Path {
    /// The `horizon` days after the last one in `known`.
    fn of(known: &BTreeMap<Date, u64>, horizon: usize) -> Result<Self, ForecastReason> {
        let history = daily(known).ok_or(ForecastReason::TooLittleHistory)?;
        let (min, max) = history.iter().fold((f64::MAX, f64::MIN), |(min, max), y| (y.min(min), y.max(max)));
        let range = max - min;
        if range == 0.0 {
            let rows = Rows { point: min, lower: min, upper: min };
            return Ok(Self { days: vec![rows; horizon], slack: 0.0 });
        }
        // From 0 to 1, since a part of the models computes with `f32`, which has no place for a few rows of a billion.
        let scaled: Vec<_> = history.iter().map(|y| (y - min) / range).collect();
        let predicted = model(&scaled, horizon).filter(|days| days.len() == horizon);
        let unscaled = |y: f64| min + y * range;
        let days = predicted.ok_or(ForecastReason::NoModel)?.into_iter().map(|rows| Rows {
            point: unscaled(rows.point),
            lower: unscaled(rows.lower),
            upper: unscaled(rows.upper),
        });
        let days: Vec<_> = days.collect();
        if days.iter().any(|rows| !(rows.point.is_finite() && rows.lower.is_finite() && rows.upper.is_finite())) {
            return Err(ForecastReason::NoModel);
        }
        Ok(Self { days, slack: range * 1e-6 })
    }

    /// Rows per day, from the coming week to the week after it, so that it doesn't depend on the day of the week; `None`
    /// where that comes to less than one row within the horizon.
    fn growth(&self) -> Option<f64> {
        let mean = |week: &[Rows]| week.iter().map(|rows| rows.point).sum::<f64>() / WEEK as f64;
        let (coming, next) = (self.days.get(..WEEK)?, self.days.get(WEEK..2 * WEEK)?);
        let growth = (mean(next) - mean(coming)) / WEEK as f64;
        (growth * HORIZON as f64 >= 1.0).then_some(growth)
    }

    /// After how many days `bound` is at the limit.
    fn reaches(&self, bound: fn(&Rows) -> f64, limit: f64) -> Option<u32> {
        let at = self.days.iter().position(|rows| bound(rows) >= limit - self.slack)?;
        u32::try_from(at + 1).ok()
    }
}

/// Usage on each day that counts, gaps filled; `None` where too few are known.
fn daily(known: &BTreeMap<Date, u64>) -> Option<Vec<f64>> {
    let ((first, _), (last, _)) = (known.first_key_value()?, known.last_key_value()?);
    let start = last.saturating_sub(Span::new().days(HISTORY - 1)).max(*first);
    if known.range(start..).count() < ENOUGH {
        return None;
    }
    let (_, mut usage) = known.range(..=start).next_back()?;
    let days = start.series(Span::new().days(1)).take_while(|date| date <= last);
    let days = days.map(|date| {
        usage = known.get(&date).unwrap_or(usage);
        *usage as f64
    });
    Some(days.collect())
}

/// What the model that fits best predicts.
fn model(history: &[f64], horizon: usize) -> Option<Vec<Rows>> {
    let smoothing = AutoETS::new(1, "AZN").ok()?;
    let forecast = if is_weekly(history) {
        let model = MSTLModel::new(vec![WEEK], smoothing.into_trend_model());
        model.fit(history).ok()?.predict(horizon, LEVEL).ok()?
    } else {
        smoothing.fit(history).ok()?.predict(horizon, LEVEL).ok()?
    };
    let bounds = forecast.intervals?;
    let days = forecast.point.into_iter().zip(bounds.lower.into_iter().zip(bounds.upper));
    Some(days.map(|(point, (lower, upper))| Rows { point, lower, upper }).collect())
}

/// Whether usage goes by the day of the week. Where it doesn't, a season would only be noise.
fn is_weekly(history: &[f64]) -> bool {
    history.len() >= SEASONAL
        && stlrs::params().fit(history, WEEK).is_ok_and(|parts| parts.seasonal_strength() >= STRENGTH)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;

    const TODAY: Date = date(2024, 6, 30);

    /// Usage of the days before today, the last of them yesterday's.
    fn until_yesterday(usage: impl IntoIterator<Item = u64>) -> Vec<(Date, u64)> {
        let usage: Vec<_> = usage.into_iter().collect();
        let first = TODAY.saturating_sub(Span::new().days(i64::try_from(usage.len()).unwrap()));
        first.series(Span::new().days(1)).zip(usage).collect()
    }

    /// Noise that is the same in each run, of 0 to 19.
    fn noise(day: u64) -> u64 {
        (day + 1).wrapping_mul(6_364_136_223_846_793_005).rotate_left(23) % 20
    }

    fn no_forecast(reason: ForecastReason) -> Forecast {
        Forecast::unknown(reason)
    }

    #[test]
    fn a_line_reaches_its_limit_on_the_day_it_crosses_it() {
        let history = until_yesterday((0..60).map(|day| 100 + 2 * day));
        let at = |limit| forecast(&history, 220, Limit::of(limit), TODAY);
        let on_a_day = at(250);
        assert_eq!(on_a_day.projected_date, Some(date(2024, 7, 15)));
        assert_eq!(on_a_day.days_until_limit, Some(15));
        assert_eq!(on_a_day.reason, None);
        let rate = on_a_day.growth_rate.unwrap();
        assert!((rate - 2.0 / 220.0).abs() < 1e-6, "two rows a day, of 220; got {rate}");
        // 15 days and a half are 16 whole ones.
        assert_eq!((at(251).days_until_limit, at(252).days_until_limit), (Some(16), Some(16)));
        assert_eq!((at(221).projected_date, at(221).days_until_limit), (Some(date(2024, 7, 1)), Some(1)));
        // On the last day of the horizon, and a day after it.
        assert_eq!(at(220 + 730).days_until_limit, Some(365));
        let beyond = at(220 + 732);
        assert_eq!((beyond.projected_date, beyond.days_until_limit), (None, None));
        assert_eq!(beyond.reason, Some(ForecastReason::BeyondHorizon));
        assert_eq!(beyond.growth_rate, on_a_day.growth_rate);
    }

    #[test]
    fn an_interval_lies_around_the_day() {
        let history = until_yesterday((0..120).map(|day| 500 + 3 * day + noise(day)));
        let forecast = forecast(&history, 870, Limit::of(1200), TODAY);
        let (earliest, latest) = (forecast.earliest.unwrap(), forecast.latest.unwrap());
        let projected = forecast.projected_date.unwrap();
        assert!(earliest < projected && projected < latest, "{forecast:?}");
        let (from, to) = (date(2024, 10, 5), date(2024, 11, 1));
        assert!(from < earliest && latest < to, "3 rows a day, 330 to go, and noise of 20: {forecast:?}");
    }

    #[test]
    fn there_is_no_rate_of_nothing() {
        // Usage grows from week to week, but there is none on Sundays, and today is one.
        let history = until_yesterday((0..70).map(|day| if day % 7 == 0 { 0 } else { 200 + 2 * day }));
        let forecast = forecast(&history, 0, Limit::of(400), TODAY);
        assert_eq!((forecast.projected_date.is_some(), forecast.growth_rate), (true, None), "{forecast:?}");
    }

    #[test]
    fn what_can_not_be_told_has_a_reason() {
        let line = until_yesterday((0..60).map(|day| 100 + 2 * day));
        assert_eq!(forecast(&line, 220, Limit::Unlimited, TODAY), no_forecast(ForecastReason::NoLimit));
        let flat = until_yesterday([100; 60]);
        assert_eq!(forecast(&flat, 100, Limit::of(101), TODAY), no_forecast(ForecastReason::NoGrowth));
        let noisy = until_yesterday((0..60).map(|day| 100 + noise(day)));
        assert_eq!(forecast(&noisy, 110, Limit::of(130), TODAY), no_forecast(ForecastReason::NoGrowth));
        let falling = until_yesterday((0..60).map(|day| 220 - 2 * day));
        assert_eq!(forecast(&falling, 100, Limit::of(300), TODAY), no_forecast(ForecastReason::NoGrowth));
        let few = &line[line.len() - 12..];
        assert_eq!(forecast(few, 220, Limit::of(250), TODAY), no_forecast(ForecastReason::TooLittleHistory));
        assert_eq!(forecast(&[], 220, Limit::of(250), TODAY), no_forecast(ForecastReason::TooLittleHistory));
        let enough = &line[line.len() - 13..];
        assert_eq!(forecast(enough, 220, Limit::of(250), TODAY).days_until_limit, Some(15), "14 days with today");
    }

    #[test]
    fn growth_of_less_than_a_row_in_a_year_is_none() {
        let growth = |per_year: f64| {
            let days = (0..14).map(|day| 100.0 + f64::from(day) * per_year / 365.0);
            let days = days.map(|point| Rows { point, lower: point, upper: point }).collect();
            Path { days, slack: 0.0 }.growth()
        };
        assert_eq!((growth(0.99), growth(0.0), growth(-5.0)), (None, None, None));
        let row = growth(1.01).unwrap();
        assert!((row - 1.01 / 365.0).abs() < 1e-9, "{row}");
    }

    #[test]
    fn at_the_limit_the_day_is_today() {
        let line = until_yesterday((0..60).map(|day| 100 + 2 * day));
        for (usage, limit) in [(220, 220), (220, 219), (220, 0), (0, 0)] {
            let forecast = forecast(&line, usage, Limit::of(limit), TODAY);
            assert_eq!((forecast.projected_date, forecast.days_until_limit), (Some(TODAY), Some(0)));
            assert_eq!((forecast.earliest, forecast.latest), (Some(TODAY), Some(TODAY)));
            assert_eq!(forecast.reason, Some(ForecastReason::AtLimit));
            assert_eq!(forecast.growth_rate.is_some(), usage == 220, "{forecast:?}");
        }
        let unknown = forecast(&[], 50, Limit::of(50), TODAY);
        assert_eq!((unknown.days_until_limit, unknown.growth_rate), (Some(0), None));
    }

    #[test]
    fn today_is_as_the_caller_says_and_later_days_do_not_count() {
        let mut history = until_yesterday((0..60).map(|day| 100 + 2 * day));
        let expected = forecast(&history, 220, Limit::of(250), TODAY);
        history.extend(TODAY.series(Span::new().days(1)).map(|date| (date, 5000)).take(20));
        assert_eq!(forecast(&history, 220, Limit::of(250), TODAY), expected);
    }

    #[test]
    fn gaps_are_as_the_day_before() {
        let stepped = until_yesterday((0..90).map(|day| 100 + 10 * (day / 3)));
        let changes: Vec<_> = stepped.iter().copied().step_by(3).collect();
        assert!(changes.len() < stepped.len());
        let expected = forecast(&stepped, 400, Limit::of(600), TODAY);
        assert!(expected.projected_date.is_some());
        assert_eq!(forecast(&changes, 400, Limit::of(600), TODAY), expected);
    }

    #[test]
    fn of_a_long_history_the_last_400_days_count() {
        let long = until_yesterday((0..1000).map(|day| if day < 601 { 100_000 } else { day + noise(day) }));
        let short = &long[601..];
        assert_eq!(short.len(), 399, "today is one of the 400");
        let told = |history: &[(Date, u64)]| forecast(history, 1010, Limit::of(1100), TODAY);
        assert!(told(short).projected_date.is_some());
        assert_eq!(told(&long), told(short));
        assert_eq!(told(&long[..500]), no_forecast(ForecastReason::TooLittleHistory));
        // What was known last before them fills the first days, if there is a gap.
        let gap: Vec<_> = long.iter().copied().filter(|(date, _)| *date < long[600].0 || *date > long[610].0).collect();
        let days = daily(&gap.into_iter().chain([(TODAY, 1010)]).collect()).unwrap();
        assert_eq!((days.len(), days[0], days[9]), (400, 100_000.0, 100_000.0));
    }

    #[test]
    fn weeks_are_found_where_there_are_any() {
        // 2024-06-30 is a Sunday, so that the first of 70 days before it is one, too.
        let weekly =
            until_yesterday((0..70).map(|day| 200 + 2 * day + noise(day) / 4 - if day % 7 == 0 { 100 } else { 0 }));
        let predicted = predict(&weekly, 14);
        assert_eq!(predicted.len(), 14);
        for (days, came) in predicted.iter().zip((70..).map(|day| 200 + 2 * day - if day % 7 == 0 { 100 } else { 0 })) {
            let came = f64::from(came);
            assert!((days.point - came).abs() < 10.0, "{days:?}, and it is about {came}");
        }
        // It is the same far above.
        let high: Vec<_> = weekly.iter().map(|(date, usage)| (*date, usage + 1_000_000_000_000)).collect();
        for (days, high) in predicted.iter().zip(predict(&high, 14)) {
            assert!((high.point - 1e12 - days.point).abs() < 0.01, "{days:?} {high:?}");
        }
        let usage = |history: &[(Date, u64)]| -> Vec<f64> { history.iter().map(|(_, usage)| *usage as f64).collect() };
        assert!(is_weekly(&usage(&weekly)));
        assert!(!is_weekly(&usage(&weekly[weekly.len() - 27..])), "four weeks make a season");
        assert!(!is_weekly(&usage(&until_yesterday((0..70).map(|day| 200 + 2 * day + noise(day))))));
    }

    #[test]
    fn a_prediction_begins_after_the_last_known_day_and_ends_with_the_horizon() {
        let history = until_yesterday((0..30).map(|day| 100 - 3 * day));
        let predicted = predict(&history, 1000);
        assert_eq!(predicted.len(), 365);
        assert_eq!((predicted[0].date, predicted[364].date), (TODAY, date(2025, 6, 29)));
        let last = predicted[364];
        assert_eq!((last.lower, last.point), (0.0, 0.0), "no fewer than none");
        assert_eq!(predict(&history[..13], 10), []);
        assert_eq!(predict(&[], 10), []);
        assert_eq!(predict(&history, 0), []);
    }

    #[test]
    fn at_the_end_of_time_there_are_no_days_to_come() {
        let first = Date::MAX.saturating_sub(Span::new().days(30));
        let history: Vec<_> = first.series(Span::new().days(1)).zip((100..).step_by(2)).collect();
        let (_, usage) = history[history.len() - 1];
        assert_eq!(predict(&history, 10), []);
        let forecast = forecast(&history, usage, Limit::of(200), Date::MAX);
        assert_eq!((forecast.projected_date, forecast.reason), (None, Some(ForecastReason::BeyondHorizon)));
    }

    #[test]
    fn json_has_all_six_fields() {
        let known = Forecast {
            projected_date: Some(date(2024, 2, 15)),
            days_until_limit: Some(45),
            growth_rate: Some(0.02),
            earliest: Some(date(2024, 2, 10)),
            latest: None,
            reason: None,
        };
        assert_eq!(
            serde_json::to_string(&known).unwrap(),
            r#"{"projectedDate":"2024-02-15","daysUntilLimit":45,"growthRate":0.02,"earliest":"2024-02-10","latest":null,"reason":null}"#
        );
        let names = [
            (ForecastReason::AtLimit, "atLimit"),
            (ForecastReason::NoLimit, "noLimit"),
            (ForecastReason::TooLittleHistory, "tooLittleHistory"),
            (ForecastReason::NoGrowth, "noGrowth"),
            (ForecastReason::BeyondHorizon, "beyondHorizon"),
            (ForecastReason::NoModel, "noModel"),
        ];
        for (reason, name) in names {
            assert_eq!(serde_json::to_value(no_forecast(reason)).unwrap()["reason"], name);
        }
    }

    /// Usage of all kinds and sizes.
    fn histories() -> impl Strategy<Value = Vec<u64>> {
        let sizes = prop_oneof![0..5_u64, 0..1000_u64, Just(0), Just(u64::MAX), any::<u64>()];
        prop_oneof![
            2 => proptest::collection::vec(sizes, 0..60),
            2 => proptest::collection::vec(0..1000_u64, 14..60),
            1 => (any::<u64>(), 0_usize..60).prop_map(|(usage, days)| vec![usage; days]),
            3 => (0_u64..1_000_000, 0_u64..1000, proptest::collection::vec(0..50_u64, 14..80)).prop_map(
                |(first, growth, noise)| {
                    (0..).zip(noise).map(|(day, noise)| first + day * growth + noise).collect()
                }
            ),
            1 => (any::<u64>(), any::<u64>(), 14_usize..40).prop_map(|(first, growth, days)| {
                std::iter::successors(Some(first), |usage| Some(usage.saturating_add(growth))).take(days).collect()
            }),
            1 => (any::<u64>(), 1_u64..20, 14_usize..40).prop_map(|(first, part, days)| {
                std::iter::successors(Some(first), |usage| Some(usage - usage / part)).take(days).collect()
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn a_forecast_agrees_with_itself(
            usages in histories(),
            missing in proptest::collection::vec(proptest::bool::weighted(0.1), 80),
            limits in (0..=Limit::MAX, 1_u64..5000, any::<bool>()),
        ) {
            let usage = usages.last().copied().unwrap_or(7);
            let history: Vec<_> = until_yesterday(usages).into_iter().zip(missing).collect();
            let history: Vec<_> = history.into_iter().filter(|(_, missing)| !missing).map(|(day, _)| day).collect();
            let (far, more, near) = limits;
            let rows = if near { usage.saturating_add(more).min(Limit::MAX) } else { far };
            let limit = Limit::finite(rows).unwrap();
            let told = forecast(&history, usage, limit, TODAY);
            prop_assert_eq!(told, forecast(&history, usage, limit, TODAY), "there is no chance in it");

            let days = |date: Date| (date - TODAY).get_days();
            prop_assert_eq!(told.projected_date.map(days), told.days_until_limit.map(|days| i32::try_from(days).unwrap()));
            prop_assert!(told.growth_rate.is_none_or(|rate| rate.is_finite() && rate > 0.0));
            match told.reason {
                Some(ForecastReason::AtLimit) => prop_assert!(usage >= rows && told.projected_date == Some(TODAY)),
                Some(ForecastReason::BeyondHorizon) => prop_assert!(usage < rows && told.projected_date.is_none()),
                Some(reason) => prop_assert!(usage < rows && told == no_forecast(reason)),
                None => {
                    prop_assert!(usage < rows);
                    let date = told.projected_date.unwrap();
                    prop_assert!((1..=365).contains(&days(date)));
                    prop_assert!(told.earliest.is_some_and(|earliest| TODAY < earliest && earliest <= date));
                    prop_assert!(told.latest.is_none_or(|latest| date <= latest && days(latest) <= 365));
                    prop_assert_eq!(told.growth_rate.is_some(), usage > 0);
                    // It is the day of the path, and a higher limit isn't reached before.
                    let path = predict(&[&history[..], &[(TODAY, usage)]].concat(), 365);
                    let before = path.iter().take_while(|predicted| predicted.date < date);
                    prop_assert!(before.clone().all(|predicted| predicted.point < rows as f64));
                    let higher = Limit::finite((rows + 1 + rows / 10).min(Limit::MAX)).unwrap();
                    let later = forecast(&history, usage, higher, TODAY).projected_date;
                    prop_assert!(later.is_none_or(|later| later >= date));
                }
            }
        }

        #[test]
        fn a_path_is_of_numbers_in_order(usages in histories(), days in 0_usize..400) {
            let history = until_yesterday(usages);
            let path = predict(&history, days);
            prop_assert_eq!(path.len(), if history.len() < ENOUGH { 0 } else { days.min(HORIZON) });
            for predicted in &path {
                prop_assert!(0.0 <= predicted.lower && predicted.lower <= predicted.point);
                prop_assert!(predicted.point <= predicted.upper && predicted.upper.is_finite());
            }
            let dates = TODAY.series(Span::new().days(1)).take(path.len());
            prop_assert!(path.iter().map(|predicted| predicted.date).eq(dates));
        }
    }
}

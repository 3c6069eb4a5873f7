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
/// [`forecast`]; nothing where usage is known on fewer than 14 days.
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
    ///
    /// A fit of 365 days takes some ... in a build without optimisation.
    fn of(known: &BTreeMap<Date, u64>, horizon: usize) -> Result<Self, ForecastReason> {
        let history = daily(known).ok_or(ForecastReason::TooLittleHistory)?;
        let (min, max) = history.iter().fold((f64::MAX, f64::MIN), |(min, max), y| (y.min(min), y.max(max)));
        let range = max - min;
        if range == 0.0 {
            let rows = Rows { point: min, lower: min, upper: min };
            return Ok(Self { days: vec![rows; horizon], slack: 0.0 });
        }
        // The models know no scale of their own, but compute with limited precision, and in part with `f32`.
        let scaled: Vec<_> = history.iter().map(|y| (y - min) / range).collect();
        let predicted = model(&scaled, horizon).filter(|days| days.len() == horizon);
        let unscaled = |y: f64| min + y * range;
        let days = predicted.ok_or(ForecastReason::NoModel)?.into_iter().map(|rows| Rows {
            point: unscaled(rows.point),
            lower: unscaled(rows.lower.min(rows.point)),
            upper: unscaled(rows.upper.max(rows.point)),
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

//! What snapshots of usage say: trends, forecasts and reports. Pure values, no clock, no I/O.

mod forecast;
mod report;
mod series;

pub use forecast::{Forecast, ForecastReason, Predicted, forecast, predict};
pub use report::ReportRow;
pub use series::{Granularity, Period, Snapshot, TrendPoint, trend};

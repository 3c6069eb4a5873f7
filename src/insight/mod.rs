//! What snapshots of usage say: trends, forecasts and reports. Pure values, no clock, no I/O.

#[cfg(feature = "insight")]
mod forecast;
mod period;
#[cfg(feature = "insight")]
mod report;
#[cfg(feature = "insight")]
mod series;

#[cfg(feature = "insight")]
pub use forecast::{Forecast, ForecastReason, Predicted, forecast, predict};
pub use period::Period;
#[cfg(feature = "insight")]
pub use report::ReportRow;
#[cfg(feature = "insight")]
pub use series::{Granularity, Snapshot, TrendPoint, trend};

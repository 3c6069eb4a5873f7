//! What a report covers: known to those who write reports, and to those who ask for them.

use std::fmt;
use std::str::FromStr;

use jiff::Span;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What a report covers: a day, a week from Monday on, or a calendar month, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// A day.
    Daily,
    /// A week, from Monday on.
    Weekly,
    /// A calendar month.
    Monthly,
}

impl Period {
    /// The three, from short to long.
    pub const ALL: [Self; 3] = [Self::Daily, Self::Weekly, Self::Monthly];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }

    /// The first and the last day of the period that holds `date`.
    pub fn range(self, date: Date) -> (Date, Date) {
        match self {
            Self::Daily => (date, date),
            Self::Weekly => {
                let monday = date.saturating_sub(Span::new().days(date.weekday().to_monday_zero_offset()));
                (monday, monday.saturating_add(Span::new().days(6)))
            }
            Self::Monthly => (date.first_of_month(), date.last_of_month()),
        }
    }
}

impl FromStr for Period {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|period| period.as_str() == value).ok_or_else(|| {
            Error::invalid(format!("`period` can't be {:?}: write daily, weekly or monthly", excerpt(value)))
        })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first characters of `value`: a message must not repeat a caller's (possibly huge) input.
pub(super) fn excerpt(value: &str) -> String {
    value.chars().take(20).collect()
}

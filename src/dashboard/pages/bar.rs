//! How full something is, as a bar and in words.

use maud::{Markup, html};

use crate::dashboard::text;
use crate::decision::Usage;
use crate::store::fullness;

/// How near a limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::dashboard) enum Severity {
    Calm,
    Warning,
    Critical,
    Full,
    Over,
}

impl Severity {
    /// By the percentages from which on it is told.
    pub(in crate::dashboard) fn of(usage: Usage, [warning, critical, exceeded]: [u32; 3]) -> Self {
        let percent = fullness(usage);
        match usage.limit.rows() {
            None => Self::Calm,
            Some(limit) if usage.current > limit => Self::Over,
            Some(limit) if usage.current > 0 && usage.current == limit => Self::Full,
            Some(_) if percent >= exceeded.into() => Self::Full,
            Some(_) if percent >= critical.into() => Self::Critical,
            Some(_) if percent >= warning.into() => Self::Warning,
            Some(_) => Self::Calm,
        }
    }

    /// Its class in the stylesheet.
    pub(in crate::dashboard) fn class(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Full => "full",
            Self::Over => "over",
        }
    }

    /// In words; nothing where there is nothing to be said.
    pub(in crate::dashboard) fn words(self) -> Option<&'static str> {
        match self {
            Self::Calm => None,
            Self::Warning => Some("Near limit"),
            Self::Critical => Some("Critical"),
            Self::Full => Some("At limit"),
            Self::Over => Some("Over limit"),
        }
    }
}

/// The share of a limit, for drawing: 100 where it is full.
fn share(usage: Usage) -> f64 {
    match usage.limit.rows() {
        None => 0.0,
        Some(0) if usage.current > 0 => 100.0,
        Some(0) => 0.0,
        Some(limit) => (usage.current as f64 * 100.0 / limit as f64).min(100.0),
    }
}

/// A bar with marks where somebody is told. What it shows stands beside it in words.
pub(in crate::dashboard) fn bar(usage: Usage, marks: [u32; 3]) -> Markup {
    let severity = Severity::of(usage, marks).class();
    let limited = usage.limit.rows().is_some();
    html! {
        svg class=(format!("bar {severity}")) viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            rect class="track" width="100" height="8" {}
            @if limited {
                rect class="fill" width=(format!("{:.2}", share(usage))) height="8" {}
                @for mark in marks.into_iter().filter(|mark| *mark < 100) {
                    line class="mark" x1=(mark) x2=(mark) y1="0" y2="8" {}
                }
            }
        }
    }
}

/// A percentage, and what it means.
pub(in crate::dashboard) fn percent(usage: Usage, marks: [u32; 3]) -> Markup {
    let severity = Severity::of(usage, marks);
    html! {
        @if usage.limit.rows().is_some() {
            span class="percent" { (text::number(fullness(usage))) " %" }
        } @else {
            span class="percent quiet" { "no limit" }
        }
        @if let Some(words) = severity.words() { " " span class=(format!("pill {}", severity.class())) { (words) } }
    }
}

/// Rows beside the limit.
pub(in crate::dashboard) fn figures(usage: Usage) -> Markup {
    html! {
        span class="figures" {
            b { (text::number(usage.current)) }
            @match usage.limit.rows() {
                Some(limit) => { " / " (text::number(limit)) },
                None => " / ∞",
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Limit;

    #[test]
    fn what_is_full_and_what_is_over_are_told_apart() {
        let of = |current, limit| Severity::of(Usage { current, limit }, [90, 95, 100]);
        assert_eq!(of(89, Limit::of(100)), Severity::Calm);
        assert_eq!(of(90, Limit::of(100)), Severity::Warning);
        assert_eq!(of(95, Limit::of(100)), Severity::Critical);
        assert_eq!(of(100, Limit::of(100)), Severity::Full);
        assert_eq!(of(101, Limit::of(100)), Severity::Over);
        assert_eq!((of(0, Limit::of(0)), of(1, Limit::of(0))), (Severity::Calm, Severity::Over));
        assert_eq!(of(u64::MAX, Limit::Unlimited), Severity::Calm);
        let late = Severity::of(Usage { current: 120, limit: Limit::of(100) }, [90, 95, 150]);
        assert_eq!(late, Severity::Over);
    }

    #[test]
    fn a_bar_is_full_at_the_limit_and_not_longer_above_it() {
        let of = |current, limit| bar(Usage { current, limit }, [90, 95, 100]).into_string();
        assert!(of(1, Limit::of(3)).contains(r#"width="33.33""#));
        assert!(of(7, Limit::of(3)).contains(r#"class="fill" width="100.00""#));
        assert!(!of(7, Limit::Unlimited).contains("fill"));
    }
}

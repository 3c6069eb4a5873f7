//! When somebody is told that a limit comes near.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::EventKind;
use crate::decision::Usage;
use crate::error::Error;
use crate::workspace::WorkspaceId;

/// How near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Threshold {
    /// From 90 % on, by default.
    Warning,
    /// From 95 % on, by default.
    Critical,
    /// From 100 % on, by default: nothing more can be created.
    Exceeded,
}

impl Threshold {
    /// All, the lowest first.
    pub const ALL: [Self; 3] = [Self::Warning, Self::Critical, Self::Exceeded];

    /// As it is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Exceeded => "exceeded",
        }
    }

    /// The event that tells of it.
    pub fn event(self) -> EventKind {
        match self {
            Self::Warning | Self::Critical => EventKind::Warning,
            Self::Exceeded => EventKind::Exceeded,
        }
    }
}

/// At which usage notices are given, in percent of the limit in force without grace.
///
/// A threshold is reached at exactly its percentage. Each is told once when it is reached, and is armed again when usage has
/// fallen below it by [`rearm_below`](Self::rearm_below). Where it is reached again within
/// [`min_interval`](Self::min_interval) of its last notice, the next one is given at the end of that time, if it is still
/// reached then.
///
/// A limit of 0 is exceeded by the first row, and not by there being none.
///
/// ```
/// use std::time::Duration;
/// use tower_quota::Thresholds;
///
/// let thresholds = Thresholds::new(80, 90, 100)?.rearm_below(5).min_interval(Duration::from_secs(3600));
/// # Ok::<(), tower_quota::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds {
    percent: [u32; 3],
    rearm_below: u32,
    min_interval: Duration,
}

impl Default for Thresholds {
    /// 90, 95 and 100 %, armed again one percentage point below, at most every five minutes.
    fn default() -> Self {
        Self { percent: [90, 95, 100], rearm_below: 1, min_interval: Duration::from_secs(300) }
    }
}

impl Thresholds {
    /// Thresholds for warning, critical and exceeded, in percent of the limit.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] unless each is higher than the one before, from 1 to 1000.
    pub fn new(warning: u32, critical: u32, exceeded: u32) -> Result<Self, Error> {
        if !(1 <= warning && warning < critical && critical < exceeded && exceeded <= 1000) {
            return Err(Error::config(format!(
                "thresholds are percentages of 1 to 1000, each higher than the one before, such as 90, 95 and 100; got \
                 {warning}, {critical} and {exceeded}"
            )));
        }
        Ok(Self { percent: [warning, critical, exceeded], ..Self::default() })
    }

    /// How far usage has to fall below a threshold to arm it again, in percentage points; 1 by default. With 0, one row less is
    /// enough.
    #[must_use]
    pub fn rearm_below(mut self, points: u32) -> Self {
        self.rearm_below = points;
        self
    }

    /// The least time between two notices of one threshold; five minutes by default.
    #[must_use]
    pub fn min_interval(mut self, time: Duration) -> Self {
        self.min_interval = time;
        self
    }

    pub(crate) fn percent(&self, threshold: Threshold) -> u32 {
        self.percent[threshold as usize]
    }

    fn reached(&self, threshold: Threshold, usage: Usage) -> bool {
        match usage.limit.rows() {
            None => false,
            Some(0) => usage.current > 0,
            Some(limit) => at_least(usage.current, limit, self.percent(threshold)),
        }
    }

    /// Whether a threshold that was reached isn't any more.
    fn left(&self, threshold: Threshold, usage: Usage) -> bool {
        match usage.limit.rows() {
            None => true,
            // However far below it is to fall: there is nothing below this.
            Some(_) if usage.current == 0 => true,
            Some(limit) => {
                !self.reached(threshold, usage)
                    && !at_least(usage.current, limit, self.percent(threshold).saturating_sub(self.rearm_below))
            }
        }
    }

    /// Whether there is something to do about where usage is, as far as `marks` are known.
    pub(crate) fn differ(&self, marks: &Marks, usage: Usage, now: Timestamp) -> bool {
        let mut after = *marks;
        self.judge(&mut after, usage, now);
        after != *marks
    }

    /// Whether something is to be told that was told too short a time ago.
    pub(crate) fn waits(&self, marks: &Marks, usage: Usage) -> bool {
        Threshold::ALL
            .into_iter()
            .any(|threshold| !marks.0[threshold as usize].reached && self.reached(threshold, usage))
    }

    /// Brings `marks` to where usage is; answers what is to be told, the lowest first.
    pub(crate) fn judge(&self, marks: &mut Marks, usage: Usage, now: Timestamp) -> Vec<Threshold> {
        let mut told = Vec::new();
        for threshold in Threshold::ALL {
            let mark = &mut marks.0[threshold as usize];
            if mark.reached {
                mark.reached = !self.left(threshold, usage);
            } else if self.reached(threshold, usage) && mark.noticed_at.is_none_or(|at| self.is_over(at, now)) {
                *mark = Mark { reached: true, noticed_at: Some(now) };
                told.push(threshold);
            }
        }
        told
    }

    fn is_over(&self, noticed_at: Timestamp, now: Timestamp) -> bool {
        let since = now.duration_since(noticed_at);
        // A clock that was set back must not keep anybody from being told.
        since.is_negative() || since.unsigned_abs() >= self.min_interval
    }
}

fn at_least(usage: u64, limit: u64, percent: u32) -> bool {
    u128::from(usage) * 100 >= u128::from(limit) * u128::from(percent)
}

/// Which thresholds a resource type of a workspace has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks([Mark; 3]);

impl Marks {
    /// Whether any threshold is reached.
    pub(crate) fn any(&self) -> bool {
        self.0.iter().any(|mark| mark.reached)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    reached: bool,
    noticed_at: Option<Timestamp>,
}

/// A threshold was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// Its own id (a UUID of version 7), which all deliveries of it have.
    pub id: Uuid,
    /// Whose rows.
    pub workspace: WorkspaceId,
    /// The name of the resource type.
    pub resource_type: String,
    /// Which threshold.
    pub threshold: Threshold,
    /// Rows and limit, without grace, when it was found to be reached.
    pub usage: Usage,
    /// When it was (UTC).
    pub at: Timestamp,
}

impl Notice {
    pub(crate) fn new(
        workspace: &WorkspaceId,
        resource_type: &str,
        threshold: Threshold,
        usage: Usage,
        at: Timestamp,
    ) -> Self {
        let (workspace, resource_type) = (workspace.clone(), resource_type.to_owned());
        Self { id: Uuid::now_v7(), workspace, resource_type, threshold, usage, at }
    }

    /// What webhooks are sent, as JSON.
    pub fn body(&self) -> String {
        json!({
            "event": self.threshold.event().as_str(),
            "workspace_id": self.workspace.as_str(),
            "timestamp": format!("{:.0}", self.at),
            "data": {
                "resource_type": self.resource_type,
                "current_usage": self.usage.current,
                "limit": self.usage.limit,
                "percent_used": self.usage.percent(),
                "threshold": self.threshold.as_str(),
            },
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Limit;
    use Threshold::{Critical, Exceeded, Warning};
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn of(current: u64, limit: u64) -> Usage {
        Usage { current, limit: Limit::finite(limit).unwrap() }
    }

    /// What is told of one usage after the other, an hour apart.
    fn told(thresholds: &Thresholds, usages: &[Usage]) -> Vec<Vec<Threshold>> {
        let mut marks = Marks::default();
        let hours = (0..).map(|hour| at(hour * 3600));
        usages.iter().zip(hours).map(|(usage, now)| thresholds.judge(&mut marks, *usage, now)).collect()
    }

    #[test]
    fn a_threshold_is_reached_at_exactly_its_percentage() {
        let thresholds = Thresholds::default();
        let of = |current| of(current, 1000);
        let steps = [of(899), of(900), of(949), of(950), of(999), of(1000), of(1001)];
        let expected = [vec![], vec![Warning], vec![], vec![Critical], vec![], vec![Exceeded], vec![]];
        assert_eq!(told(&thresholds, &steps), expected);
    }

    #[test]
    fn what_is_not_a_whole_number_of_rows_is_reached_by_the_next() {
        // 90 % of 55 are 49.5 rows.
        assert_eq!(told(&Thresholds::default(), &[of(49, 55), of(50, 55)]), [vec![], vec![Warning]]);
    }

    #[test]
    fn a_jump_over_several_tells_all_of_them_in_order() {
        let all = vec![Warning, Critical, Exceeded];
        assert_eq!(told(&Thresholds::default(), &[of(10, 100), of(100, 100)]), [vec![], all.clone()]);
        // So does a limit that is lowered below what is there.
        assert_eq!(told(&Thresholds::default(), &[of(50, 100), of(50, 40)]), [vec![], all]);
    }

    #[test]
    fn a_limit_of_zero_is_exceeded_by_rows_only() {
        let all = vec![Warning, Critical, Exceeded];
        assert_eq!(
            told(&Thresholds::default(), &[of(0, 0), of(1, 0), of(0, 0), of(1, 0)]),
            [vec![], all.clone(), vec![], all]
        );
    }

    #[test]
    fn without_a_limit_nothing_is_told_and_all_are_armed() {
        let unlimited = Usage { current: 100, limit: Limit::Unlimited };
        let steps = [unlimited, of(90, 100), unlimited, of(90, 100)];
        assert_eq!(told(&Thresholds::default(), &steps), [vec![], vec![Warning], vec![], vec![Warning]]);
    }

    #[test]
    fn one_is_told_again_only_after_usage_was_well_below_it() {
        let thresholds = Thresholds::default().rearm_below(5);
        let of = |current| of(current, 100);
        let steps = [of(90), of(89), of(90), of(85), of(90), of(84), of(90)];
        let expected = [vec![Warning], vec![], vec![], vec![], vec![], vec![], vec![Warning]];
        assert_eq!(told(&thresholds, &steps), expected);
        // Further than there is.
        let thresholds = Thresholds::default().rearm_below(200);
        assert_eq!(
            told(&thresholds, &[of(90), of(1), of(90), of(0), of(90)]),
            [vec![Warning], vec![], vec![], vec![], vec![Warning]]
        );
    }

    #[test]
    fn what_comes_again_too_soon_is_told_later_unless_it_is_over() {
        let thresholds = Thresholds::default().min_interval(Duration::from_secs(60));
        let mut marks = Marks::default();
        let mut judge = |second, current| thresholds.judge(&mut marks, of(current, 100), at(second));
        assert_eq!(judge(0, 90), [Warning]);
        assert_eq!(judge(1, 80), []);
        assert_eq!(judge(2, 90), []);
        // What is worse is told at once.
        assert_eq!(judge(3, 95), [Critical]);
        assert_eq!(judge(59, 95), []);
        assert_eq!(judge(60, 95), [Warning]);
        assert_eq!(judge(61, 80), []);
        assert_eq!(judge(62, 90), []);
        assert_eq!(judge(63, 80), []);
        assert_eq!(judge(600, 80), []);
        // A clock that is set back keeps nobody waiting.
        assert_eq!(judge(-1000, 90), [Warning]);
    }

    #[test]
    fn odd_percentages_are_refused() {
        for (warning, critical, exceeded) in
            [(0, 95, 100), (95, 95, 100), (90, 100, 100), (90, 95, 1001), (95, 90, 100)]
        {
            let error = Thresholds::new(warning, critical, exceeded).unwrap_err();
            assert!(error.is_config() && error.message().contains("each higher"), "{error}");
        }
    }

    #[test]
    fn the_body_is_that_of_the_contract() {
        let workspace = WorkspaceId::canonical("acme");
        let body = |threshold| {
            let notice =
                Notice::new(&workspace, "segments", threshold, of(45, 50), "2024-01-30T10:00:00.25Z".parse().unwrap());
            serde_json::from_str::<serde_json::Value>(&notice.body()).unwrap()
        };
        let expected = json!({
            "event": "quota.warning", "workspace_id": "acme", "timestamp": "2024-01-30T10:00:00Z",
            "data": {"resource_type": "segments", "current_usage": 45, "limit": 50, "percent_used": 90, "threshold": "warning"},
        });
        assert_eq!(body(Warning), expected);
        assert_eq!(
            (&body(Critical)["event"], &body(Exceeded)["event"]),
            (&json!("quota.warning"), &json!("quota.exceeded"))
        );
    }

    proptest! {
        #[test]
        fn each_crossing_is_told_once(limit in 1_u64..1000, usages in proptest::collection::vec(0_u64..1100, 1..60)) {
            let thresholds = Thresholds::default().rearm_below(0).min_interval(Duration::ZERO);
            let usages: Vec<_> = usages.into_iter().map(|current| of(current, limit)).collect();
            let mut before = of(0, limit);
            for (usage, told) in usages.iter().zip(told(&thresholds, &usages)) {
                let crossed: Vec<_> = Threshold::ALL
                    .into_iter()
                    .filter(|threshold| !thresholds.reached(*threshold, before) && thresholds.reached(*threshold, *usage))
                    .collect();
                prop_assert_eq!(told, crossed);
                before = *usage;
            }
        }
    }
}

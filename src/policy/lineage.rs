//! A workspace with all that its limits depend on, and what follows from it.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::{Plan, Settings, percent_of};
use crate::limit::Limit;
use crate::mode::EnforcementMode;
use crate::resource::{ResourceCatalog, ResourceId, ResourceType};
use crate::store::QuotaRecord;
use crate::workspace::WorkspaceId;

/// The record of a workspace with its plan, and those of its ancestors, from the nearest up. Empty where there is no record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    kin: Vec<Kin>,
}

/// One of a lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kin {
    /// Its record.
    pub record: QuotaRecord,
    /// The plan that is assigned to it.
    pub plan: Option<Plan>,
}

impl Kin {
    /// A record and the plan that it names.
    pub fn new(record: QuotaRecord, plan: Option<Plan>) -> Self {
        Self { record, plan }
    }
}

/// What a limit comes from. The first of them that says something wins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitSource {
    /// A temporary override that is in force now.
    TemporaryOverride {
        /// Its id.
        id: Uuid,
        /// Until when.
        expires_at: Timestamp,
        /// Why it was made.
        reason: String,
    },
    /// The limit that was set for the workspace itself.
    Override,
    /// The plan.
    Plan {
        /// Its name.
        name: Arc<str>,
    },
    /// A share of the parent's limit.
    Inherited {
        /// The parent.
        parent: WorkspaceId,
        /// How much of it.
        percent: u32,
        /// The parent's own limit.
        of: Limit,
    },
    /// The catalog's default.
    Default,
}

/// One of the things that a limit may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceStep {
    /// Which.
    pub source: LimitSource,
    /// What it says.
    pub limit: Limit,
}

/// Why a limit is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trace {
    /// Of what.
    pub resource: Arc<ResourceType>,
    /// The limit in force, without grace.
    pub limit: Limit,
    /// All that says something about it, the one that wins first, the default last.
    pub steps: Vec<TraceStep>,
    /// The limit with grace, and until when, where that has begun.
    pub grace: Option<(Limit, Timestamp)>,
    /// The caps under which the workspace stands, the nearest first.
    pub caps: Vec<CapOver>,
}

/// A cap on a workspace and all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapOver {
    /// Whose cap it is.
    pub workspace: WorkspaceId,
    /// How many rows all of them may have together.
    pub cap: Limit,
    /// Whether the limit is above the cap, and can't be used up for that.
    pub exceeded: bool,
}

/// What follows from a lineage at a time.
#[derive(Debug, Clone)]
pub(crate) struct Resolution {
    /// By resource type, in the catalog's order.
    pub(crate) limits: Arc<[Limit]>,
    /// The same without grace.
    pub(crate) bases: Arc<[Limit]>,
    /// By resource type: its mode; none where that of all is in force.
    pub(crate) modes: Option<Arc<[Option<EnforcementMode>]>>,
    /// The workspaces with caps above, itself included, the nearest first.
    pub(crate) above: Arc<[Above]>,
    /// When something of it changes by itself.
    pub(crate) until: Option<Timestamp>,
    /// A grace has begun, and is not armed again.
    pub(crate) in_grace: bool,
}

/// A workspace whose subtree has caps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Above {
    pub(crate) workspace: WorkspaceId,
    /// By resource type: whether it has one.
    pub(crate) capped: Arc<[bool]>,
}

impl Lineage {
    /// The lineage of `kin`: a workspace, its parent, and so on.
    pub fn new(kin: Vec<Kin>) -> Self {
        Self { kin }
    }

    /// The workspace and its ancestors.
    pub fn kin(&self) -> &[Kin] {
        &self.kin
    }

    /// The workspace's own record.
    pub fn record(&self) -> Option<&QuotaRecord> {
        self.kin.first().map(|kin| &kin.record)
    }

    /// Whether something that `workspace` has is of consequence here.
    pub(crate) fn has(&self, workspace: &str) -> bool {
        self.kin.iter().any(|kin| kin.record.workspace.as_str() == workspace)
    }

    /// Whether there is nothing but the limits of the workspace itself.
    pub(crate) fn is_plain(&self) -> bool {
        let plain =
            |kin: &Kin| kin.plan.is_none() && kin.record.parent.is_none() && kin.record.settings == Settings::default();
        self.kin.iter().all(plain)
    }

    /// Whether the plan is of consequence here.
    pub(crate) fn has_plan(&self, name: &str) -> bool {
        self.kin.iter().any(|kin| kin.record.plan.as_deref() == Some(name))
    }

    /// The ids from the workspace up, for messages.
    pub(crate) fn path(&self) -> Vec<&str> {
        self.kin.iter().map(|kin| kin.record.workspace.as_str()).collect()
    }

    /// The limit of a resource type, without grace.
    pub(crate) fn limit(&self, resource: &ResourceType, at: Timestamp) -> Limit {
        self.limit_from(0, resource, at)
    }

    /// The same without what was set for a time for the workspace itself.
    fn lasting(&self) -> Self {
        let mut lasting = self.clone();
        if let Some(own) = lasting.kin.first_mut() {
            own.record.settings.overrides.clear();
        }
        lasting
    }

    /// The limit without what was set for a time for the workspace itself.
    pub(crate) fn lasting_limit(&self, resource: &ResourceType, at: Timestamp) -> Limit {
        self.lasting().limit(resource, at)
    }

    /// The same where something says what it is; `None` where the default is in force.
    pub(crate) fn lasting_limit_set(&self, resource: &Arc<ResourceType>, at: Timestamp) -> Option<Limit> {
        let trace = self.lasting().trace(resource, at);
        trace.steps.first().filter(|step| step.source != LimitSource::Default).map(|step| step.limit)
    }

    // From the top down, so that no chain is too long for the stack.
    fn limit_from(&self, index: usize, resource: &ResourceType, at: Timestamp) -> Limit {
        let kin = self.kin.get(index..).unwrap_or_default();
        kin.iter()
            .rev()
            .fold(None, |parent, kin| Some(first(kin, parent, resource, at)))
            .unwrap_or(resource.default_limit())
    }

    /// All that follows at a time. `grace` says whether there is any for a resource type, by the workspace's own mode for it.
    pub(crate) fn resolve(
        &self,
        catalog: &ResourceCatalog,
        at: Timestamp,
        grace: impl Fn(Option<EnforcementMode>, ResourceId) -> bool,
    ) -> Resolution {
        let Some(own) = self.kin.first().map(|kin| &kin.record) else {
            let limits = catalog.default_limits();
            let bases = Arc::clone(&limits);
            return Resolution { limits, bases, modes: None, above: Arc::default(), until: None, in_grace: false };
        };
        let settings = &own.settings;
        let mode = |resource: &ResourceType| settings.mode_of(resource.name());
        let has_modes = settings.mode.is_some() || !settings.modes.is_empty();
        let bases: Arc<[Limit]> = catalog.iter().map(|resource| self.limit(resource, at)).collect();
        let limits = if settings.grace_uses.is_empty() {
            Arc::clone(&bases)
        } else {
            let with_grace = |(resource, base): (&Arc<ResourceType>, &Limit)| {
                let used = settings.grace_uses.get(resource.name()).filter(|used| used.is_active(at));
                let used = used.filter(|_| grace(mode(resource), resource.id()));
                used.map_or(*base, |used| raised(*base, used.percentage))
            };
            catalog.iter().zip(bases.iter()).map(with_grace).collect()
        };
        let modes = has_modes.then(|| catalog.iter().map(|resource| mode(resource)).collect());
        let above = self.kin.iter().map(|kin| Above {
            workspace: kin.record.workspace.clone(),
            capped: kin.record.caps(catalog).iter().map(|cap| cap.rows().is_some()).collect(),
        });
        let above = above.filter(|above| above.capped.contains(&true));
        Resolution {
            limits,
            bases,
            modes,
            above: above.collect(),
            until: self.changes_after(at),
            in_grace: !settings.grace_uses.is_empty(),
        }
    }

    /// When something begins or ends by itself.
    fn changes_after(&self, at: Timestamp) -> Option<Timestamp> {
        let overrides = self.kin.iter().flat_map(|kin| &kin.record.settings.overrides);
        let moments = overrides.flat_map(|temporary| [temporary.starts_at, temporary.expires_at]);
        let graces =
            self.record().into_iter().flat_map(|own| own.settings.grace_uses.values()).map(|grace| grace.ends_at);
        moments.chain(graces).filter(|moment| *moment > at).min()
    }

    /// Why a limit is what it is.
    pub fn trace(&self, resource: &Arc<ResourceType>, at: Timestamp) -> Trace {
        let mut steps = Vec::new();
        if let Some(own) = self.kin.first() {
            let id = resource.id();
            let overrides = own.record.settings.overrides.iter();
            steps.extend(overrides.filter(|of| of.resource_type == resource.name() && of.is_active(at)).map(|of| {
                TraceStep {
                    source: LimitSource::TemporaryOverride {
                        id: of.id,
                        expires_at: of.expires_at,
                        reason: of.reason.clone(),
                    },
                    limit: of.limit,
                }
            }));
            steps.extend(own.record.limits.get(id).map(|limit| TraceStep { source: LimitSource::Override, limit }));
            steps.extend(own.plan.as_ref().and_then(|plan| {
                let source = LimitSource::Plan { name: Arc::clone(&plan.name) };
                Some(TraceStep { source, limit: plan.limits.get(id)? })
            }));
            // A parent whose record is gone has nothing to share.
            steps.extend(self.kin.get(1).and_then(|parent| {
                let percent = *own.record.settings.shares.get(resource.name())?;
                let of = self.limit_from(1, resource, at);
                let parent = parent.record.workspace.clone();
                let source = LimitSource::Inherited { parent, percent, of };
                Some(TraceStep { source, limit: percent_of(of, percent) })
            }));
        }
        steps.push(TraceStep { source: LimitSource::Default, limit: resource.default_limit() });
        let limit = self.limit(resource, at);
        let uses = self.record().and_then(|own| own.settings.grace_uses.get(resource.name()));
        let grace = uses.filter(|grace| grace.is_active(at));
        let caps = self.kin.iter().filter_map(|kin| {
            let cap = *kin.record.settings.caps.get(resource.name())?;
            let exceeded = cap.rows().is_some_and(|cap| limit.rows().is_none_or(|limit| limit > cap));
            Some(CapOver { workspace: kin.record.workspace.clone(), cap, exceeded })
        });
        Trace {
            resource: Arc::clone(resource),
            limit,
            steps,
            grace: grace.map(|grace| (raised(limit, grace.percentage), grace.ends_at)),
            caps: caps.collect(),
        }
    }
}

/// The limit of one whose parent has `parent`.
fn first(kin: &Kin, parent: Option<Limit>, resource: &ResourceType, at: Timestamp) -> Limit {
    let settings = &kin.record.settings;
    let temporary = settings.overrides.iter().find(|of| of.resource_type == resource.name() && of.is_active(at));
    let inherited = || Some(percent_of(parent?, *settings.shares.get(resource.name())?));
    temporary
        .map(|temporary| temporary.limit)
        .or_else(|| kin.record.limits.get(resource.id()))
        .or_else(|| kin.plan.as_ref()?.limits.get(resource.id()))
        .or_else(inherited)
        .unwrap_or(resource.default_limit())
}

/// A limit with a percentage on top, rounded down.
pub(crate) fn raised(base: Limit, percentage: u32) -> Limit {
    percent_of(base, percentage.saturating_add(100))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limit::LimitSet;
    use crate::policy::{GraceUse, TemporaryOverride};
    use crate::resource::ResourceSpec;
    use crate::workspace::WorkspaceFormat;

    fn second(number: i64) -> Timestamp {
        Timestamp::from_second(number).unwrap()
    }

    /// One of a family: each part of what says something about its limit, and whose child it is.
    #[derive(Debug, Clone)]
    struct Member {
        own: Option<Limit>,
        plan: Option<Limit>,
        share: Option<u32>,
        temporary: Option<(Limit, i64, i64)>,
        has_parent: bool,
    }

    fn limits() -> impl Strategy<Value = Limit> {
        prop_oneof![
            4 => (0_u32..2000).prop_map(Limit::of),
            1 => Just(Limit::Unlimited),
            1 => (0_u64..10).prop_map(|less| Limit::finite(Limit::MAX - less).unwrap()),
        ]
    }

    fn member() -> impl Strategy<Value = Member> {
        (
            proptest::option::weighted(0.3, limits()),
            proptest::option::weighted(0.3, limits()),
            proptest::option::weighted(0.8, 0_u32..=100),
            proptest::option::weighted(0.2, (limits(), 0_i64..10, 1_i64..10)),
            proptest::bool::weighted(0.8),
        )
            .prop_map(|(own, plan, share, temporary, has_parent)| Member {
                own,
                plan,
                share,
                temporary,
                has_parent,
            })
    }

    /// As the rule is told: override, else plan, else inherited from the parent, else default.
    fn plain(family: &[Member], at: i64, default: Limit) -> Limit {
        let Some((member, parents)) = family.split_first() else { return default };
        if let Some((limit, from, long)) = member.temporary
            && from <= at
            && at < from + long
        {
            return limit;
        }
        if let Some(limit) = member.own.or(member.plan) {
            return limit;
        }
        if !member.has_parent || parents.is_empty() {
            return default;
        }
        match (member.share, plain(parents, at, default).rows()) {
            (None, _) => default,
            (Some(0), _) => Limit::of(0),
            (Some(_), None) => Limit::Unlimited,
            (Some(share), Some(of)) => {
                let part = u128::from(of) * u128::from(share) / 100;
                Limit::finite(u64::try_from(part).unwrap()).unwrap()
            }
        }
    }

    fn lineage(catalog: &ResourceCatalog, family: &[Member]) -> Lineage {
        let cats = catalog.by_name("cats").unwrap().id();
        let id = |at: usize| WorkspaceFormat::Verbatim.parse(&format!("w{at}")).unwrap();
        let mut kin = Vec::new();
        for (at, member) in family.iter().enumerate() {
            let limits = member.own.into_iter().map(|limit| (cats, limit)).collect();
            let mut record = QuotaRecord::new(Uuid::nil(), id(at), 1, limits, second(0), second(0));
            record.parent = (member.has_parent && at + 1 < family.len()).then(|| id(at + 1));
            record.settings.shares.extend(member.share.map(|share| ("cats".to_owned(), share)));
            record.settings.overrides.extend(member.temporary.map(|(limit, from, long)| {
                TemporaryOverride::new("cats", limit, second(from), second(from + long), "because")
            }));
            let plan = |limit| Plan::new("p".into(), 1, LimitSet::new().with(cats, limit), second(0), second(0));
            kin.push(Kin::new(record, member.plan.map(plan)));
            if !member.has_parent {
                break;
            }
        }
        Lineage::new(kin)
    }

    fn catalog() -> ResourceCatalog {
        ResourceCatalog::empty().resource(ResourceSpec::new("cats", "maxCats", Limit::of(7))).build().unwrap()
    }

    proptest! {
        #[test]
        fn limits_are_those_of_the_plain_rule(family in proptest::collection::vec(member(), 0..9), at in 0_i64..20) {
            let catalog = catalog();
            let cats = catalog.by_name("cats").unwrap();
            let lineage = lineage(&catalog, &family);
            let expected = plain(&family, at, Limit::of(7));
            prop_assert_eq!(lineage.resolve(&catalog, second(at), |_, _| true).limits[0], expected);
            let trace = lineage.trace(cats, second(at));
            prop_assert_eq!(trace.limit, expected);
            prop_assert_eq!(trace.steps[0].limit, expected);
            prop_assert_eq!(&trace.steps.last().unwrap().source, &LimitSource::Default);
        }

        #[test]
        fn nothing_changes_before_it_is_told(family in proptest::collection::vec(member(), 1..9), at in 0_i64..20) {
            let catalog = catalog();
            let lineage = lineage(&catalog, &family);
            let now = lineage.resolve(&catalog, second(at), |_, _| true);
            let until = now.until.map_or(40, Timestamp::as_second);
            prop_assert!(until > at);
            for later in at..until {
                prop_assert_eq!(&lineage.resolve(&catalog, second(later), |_, _| true).limits, &now.limits);
            }
        }
    }

    #[test]
    fn grace_is_on_top_of_the_limit_and_never_in_strict() {
        let catalog = catalog();
        let mut record = lineage(
            &catalog,
            &[Member { own: Some(Limit::of(15)), plan: None, share: None, temporary: None, has_parent: false }],
        )
        .kin
        .remove(0)
        .record;
        let grace = GraceUse { started_at: second(0), ends_at: second(10), percentage: 10 };
        record.settings.grace_uses.insert("cats".to_owned(), grace);
        let lineage = Lineage::new(vec![Kin::new(record, None)]);
        let at = |second_at, strict: bool| lineage.resolve(&catalog, second(second_at), |_, _| !strict);
        // 16.5, rounded down.
        assert_eq!((at(9, false).limits[0], at(9, false).bases[0]), (Limit::of(16), Limit::of(15)));
        assert_eq!(at(9, false).until, Some(second(10)));
        assert_eq!((at(9, true).limits[0], at(10, false).limits[0]), (Limit::of(15), Limit::of(15)));
    }
}

//! From a rule as it is written to a rule as it is applied; everything that can't work is found here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "authz")]
use http::HeaderName;
use http::Method;

use super::path::{PathReading, Template};
use super::resolve::merge;
use super::rule::{
    Amount, Charge, OnFailure, Operation, Predicate, Probe, ProbeSource, Resource, Rule, WorkspaceSource,
};
use crate::body::check_pointer;
use crate::decision::{Demand, ResolvedCharge};
use crate::error::Error;
use crate::resource::{ResourceCatalog, ResourceId, check_identifier};

/// What holds for all rules of a map that don't say otherwise.
#[derive(Debug, Clone)]
pub(super) struct Defaults {
    pub(super) reading: PathReading,
    pub(super) workspace: Vec<WorkspaceSource>,
    pub(super) body_cap: usize,
    pub(super) doubles: bool,
}

/// A rule of a [`RouteMap`](super::RouteMap).
#[derive(Debug)]
pub struct MappedRule {
    name: Arc<str>,
    operation: Operation,
    on_failure: OnFailure,
    body_cap: usize,
    charges_read_body: bool,
    /// Its body is counted by lines, and is no JSON.
    pub(super) counts_lines: bool,
    late_rows: Option<Duration>,
    /// Numbers are doubles to the service behind.
    pub(super) doubles: bool,
    pub(super) workspace: Vec<WorkspaceSource>,
    pub(super) charges: Vec<MappedCharge>,
    pub(super) templates: Vec<Template>,
    pub(super) direct: Option<DirectPlan>,
}

/// For a rule that needs only the path: all that can be known before there is a request.
#[derive(Debug)]
pub(super) struct DirectPlan {
    pub(super) param: String,
    pub(super) charges: Vec<ResolvedCharge>,
}

#[derive(Debug)]
pub(super) struct MappedCharge {
    pub(super) resource: MappedResource,
    pub(super) amount: Amount,
    pub(super) when: Vec<Predicate>,
    pub(super) when_each: Vec<Predicate>,
    pub(super) probes: Vec<Probe>,
    pub(super) null_is_empty: bool,
}

#[derive(Debug)]
pub(super) enum MappedResource {
    Fixed(ResourceId),
    Chosen { field: String, values: BTreeMap<String, ResourceId> },
}

impl MappedResource {
    /// All that it may be.
    fn all(&self) -> Vec<ResourceId> {
        match self {
            Self::Fixed(resource) => vec![*resource],
            Self::Chosen { values, .. } => values.values().copied().collect(),
        }
    }
}

impl MappedRule {
    /// The name, for log lines and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its requests do. Those of an [`Operation::Ignore`] rule are not to be resolved.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The resource types that its requests may be charged for, in the order of its charges; one that several charges are
    /// for is named as often.
    pub fn resources(&self) -> impl Iterator<Item = ResourceId> + '_ {
        self.charges.iter().flat_map(|charge| charge.resource.all())
    }

    /// The resource types of which its requests look rows up, each with the column.
    pub fn lookups(&self) -> impl Iterator<Item = (ResourceId, &str)> + '_ {
        self.charges.iter().flat_map(|charge| {
            let unknown = match &charge.amount {
                Amount::DistinctUnknown { column, .. } => Some(column),
                _ => None,
            };
            let columns: Vec<&str> =
                charge.probes.iter().map(|probe| &probe.column).chain(unknown).map(|column| &**column).collect();
            let resources = charge.resource.all();
            resources
                .into_iter()
                .flat_map(move |resource| columns.clone().into_iter().map(move |column| (resource, column)))
        })
    }

    /// What happens to its requests when the quota can't be checked.
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// The longest body that may be read for it, in bytes.
    pub fn body_cap(&self) -> usize {
        self.body_cap
    }

    /// How long after the response its rows may come to exist, where they do.
    pub fn late_rows(&self) -> Option<Duration> {
        self.late_rows
    }

    /// Whether a [`WorkspaceClaim`](super::WorkspaceClaim) says whose its requests are.
    pub fn takes_claims(&self) -> bool {
        self.workspace.iter().any(|source| matches!(source, WorkspaceSource::Extension))
    }

    /// Whether [`Match::resolve`](super::Match::resolve) wants the body.
    pub fn needs_body(&self) -> bool {
        self.charges_read_body || self.workspace.iter().any(|source| matches!(source, WorkspaceSource::Body(_)))
    }

    /// Whether only an extension, which the host puts into the request itself, says whose its requests are.
    pub fn needs_extension(&self) -> bool {
        !self.workspace.is_empty() && self.workspace.iter().all(|source| matches!(source, WorkspaceSource::Extension))
    }

    /// The headers that may say whose its requests are.
    #[cfg(feature = "authz")]
    pub(crate) fn workspace_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.workspace.iter().filter_map(|source| match source {
            WorkspaceSource::Header(name) => Some(name),
            _ => None,
        })
    }

    /// Whether it wants the body even where a trusted source has named the workspace.
    pub(super) fn charges_read_body(&self) -> bool {
        self.charges_read_body
    }

    pub(super) fn compile(rule: Rule, catalog: &ResourceCatalog, defaults: &Defaults) -> Result<Self, String> {
        if rule.name.is_empty() {
            return Err("a rule needs a name".into());
        }
        for method in &rule.methods {
            if matches!(*method, Method::OPTIONS | Method::HEAD) {
                return Err(format!("{method} creates nothing and can't be mapped"));
            }
        }
        let templates =
            rule.paths.iter().map(|path| Template::parse(path, defaults.reading)).collect::<Result<Vec<_>, _>>()?;
        let body_cap = rule.body_cap.unwrap_or(defaults.body_cap);
        if body_cap == 0 {
            return Err("`body_cap` is 1 or more bytes".into());
        }
        let mut workspace = rule.workspace;
        if workspace.is_empty() && rule.operation != Operation::Ignore {
            workspace.clone_from(&defaults.workspace);
        }
        check_workspace(&workspace, &templates)?;
        match rule.operation {
            Operation::Ignore if !rule.charges.is_empty() => return Err("an `ignore` rule has no charges".into()),
            Operation::Ignore => {}
            _ if rule.charges.is_empty() => return Err("it has no charge: add one, or make it an `ignore` rule".into()),
            _ if workspace.is_empty() => return Err("nothing says where its workspace is named".into()),
            _ => {}
        }
        let mut charges = Vec::with_capacity(rule.charges.len());
        for charge in rule.charges {
            charges.push(MappedCharge::compile(charge, rule.operation, catalog, &templates)?);
        }
        let counts_lines = charges.iter().any(|charge| matches!(charge.amount, Amount::LinesAfter(_)));
        let from_body = workspace.iter().any(|source| matches!(source, WorkspaceSource::Body(_)));
        if counts_lines && (from_body || charges.iter().any(MappedCharge::reads_json)) {
            return Err(
                "a body of which lines are counted is no JSON: give it places of its own for the workspace, and no \
                        condition, probe or amount that reads a field"
                    .into(),
            );
        }
        if rule.late_rows.is_some_and(|late| late.is_zero()) {
            return Err("rows that come late come a second or more after the response".into());
        }
        Ok(Self {
            name: rule.name.into(),
            operation: rule.operation,
            on_failure: rule.on_failure,
            body_cap,
            charges_read_body: counts_lines || charges.iter().any(MappedCharge::reads_json),
            counts_lines,
            // What is left to do after the response isn't done at once.
            direct: if rule.late_rows.is_none() { DirectPlan::of(&workspace, &charges) } else { None },
            late_rows: rule.late_rows,
            doubles: defaults.doubles,
            workspace,
            charges,
            templates,
        })
    }
}

impl DirectPlan {
    fn of(workspace: &[WorkspaceSource], charges: &[MappedCharge]) -> Option<Self> {
        let [WorkspaceSource::Path(param)] = workspace else { return None };
        if charges.is_empty() {
            return None;
        }
        let constant = charges.iter().map(MappedCharge::constant).collect::<Option<Vec<_>>>()?;
        Some(Self { param: param.clone(), charges: merge(constant) })
    }
}

impl MappedCharge {
    fn compile(
        charge: Charge,
        operation: Operation,
        catalog: &ResourceCatalog,
        templates: &[Template],
    ) -> Result<Self, String> {
        let id = |name: &str| match catalog.by_name(name) {
            Ok(resource) => Ok(resource.id()),
            Err(error) => Err(error.to_string()),
        };
        let resource = match charge.resource {
            Resource::Fixed(name) => MappedResource::Fixed(id(&name)?),
            Resource::Chosen { values, .. } if values.is_empty() => {
                return Err("a resource type chosen by a field needs at least one value".into());
            }
            Resource::Chosen { field, values } => {
                check_pointer(&field)?;
                let values = values.into_iter().map(|(value, name)| Ok((value, id(&name)?)));
                MappedResource::Chosen { values: values.collect::<Result<_, String>>()?, field }
            }
        };
        check_amount(&charge.amount)?;
        for predicate in charge.when.iter().chain(&charge.when_each) {
            check_pointer(&predicate.field)?;
        }
        if !charge.when_each.is_empty() && !counts_elements(&charge.amount) {
            return Err("only the elements of an array have conditions of their own: its amount is none of one".into());
        }
        for probe in &charge.probes {
            check_probe(probe, templates)?;
        }
        let looks_up = matches!(charge.amount, Amount::DistinctUnknown { .. });
        match operation {
            _ if looks_up && !charge.probes.is_empty() => {
                return Err("an amount of distinct unknown values looks rows up itself: it has no probe".into());
            }
            Operation::Create if !charge.probes.is_empty() => {
                return Err("a `create` has no probe: what may exist already is an `upsert`".into());
            }
            Operation::Upsert | Operation::Restore if charge.probes.is_empty() && !looks_up => {
                return Err("an `upsert` or `restore` needs a probe, to tell a new row from one that is there".into());
            }
            _ => {}
        }
        let Charge { amount, when, when_each, probes, null_is_empty, .. } = charge;
        Ok(Self { resource, amount, when, when_each, probes, null_is_empty })
    }

    /// Whether it goes by a field of the body.
    fn reads_json(&self) -> bool {
        matches!(self.resource, MappedResource::Chosen { .. })
            || counts_elements(&self.amount)
            || !self.when.is_empty()
            || self.probes.iter().any(|probe| matches!(probe.source, ProbeSource::Body(_)))
    }

    /// The charge, where it is the same for every request and nothing has to be counted after it.
    fn constant(&self) -> Option<ResolvedCharge> {
        let MappedResource::Fixed(resource) = self.resource else { return None };
        let Amount::Constant(units) = self.amount else { return None };
        let fixed = self.when.is_empty() && self.probes.is_empty();
        fixed.then(|| ResolvedCharge::new(Demand::new(resource, units)))
    }
}

fn check_workspace(sources: &[WorkspaceSource], templates: &[Template]) -> Result<(), String> {
    for source in sources {
        match source {
            WorkspaceSource::Path(param) => check_param(param, templates)?,
            WorkspaceSource::Body(pointer) => check_pointer(pointer)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_probe(probe: &Probe, templates: &[Template]) -> Result<(), String> {
    check_column(&probe.column)?;
    match &probe.source {
        ProbeSource::Body(pointer) => check_pointer(pointer),
        ProbeSource::Path(param) => check_param(param, templates),
        ProbeSource::Query(_) => Ok(()),
    }
}

fn counts_elements(amount: &Amount) -> bool {
    matches!(amount, Amount::Length(_) | Amount::Distinct { .. } | Amount::DistinctUnknown { .. })
}

fn check_amount(amount: &Amount) -> Result<(), String> {
    match amount {
        Amount::Constant(0) | Amount::AtMost(0) => Err("an amount is 1 or more".into()),
        Amount::Constant(_) | Amount::AtMost(_) | Amount::LinesAfter(_) => Ok(()),
        Amount::Length(array) => check_pointer(array),
        Amount::Distinct { array, element } => check_distinct(array, element),
        Amount::DistinctUnknown { array, element, column } => {
            check_distinct(array, element)?;
            check_column(column)
        }
    }
}

fn check_distinct(array: &str, element: &[String]) -> Result<(), String> {
    if element.is_empty() {
        return Err("nothing says where in the elements of an array the value is".into());
    }
    check_pointer(array)?;
    element.iter().try_for_each(|pointer| check_pointer(pointer))
}

fn check_column(column: &str) -> Result<(), String> {
    check_identifier("column", column).map_err(|error: Error| error.to_string())
}

fn check_param(param: &str, templates: &[Template]) -> Result<(), String> {
    match templates.iter().find(|template| !template.has_param(param)) {
        Some(without) => Err(format!("the path {:?} has no parameter `{{{param}}}`", without.written())),
        None => Ok(()),
    }
}

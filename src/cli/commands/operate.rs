//! What concerns all workspaces.

use serde_json::json;
use tower_quota::ImportSummary;
use tower_quota::client::{Enforcement, ImportProposal, ImportStart, Named, SettingsChange, ShadowStatus};

use super::{Context, Progress};
use crate::args::{Import, Migrate, Mode, Shadow};
use crate::failure::{Failure, Outcome};
use crate::output::{Cell, Shown, Tone, warn};

fn modes(context: &Context, enforcement: &Enforcement) -> Result<Outcome, Failure> {
    let source = json!(enforcement.source);
    let mut shown = Shown::fields(
        enforcement,
        [
            ("mode", Cell::text(enforcement.mode)),
            ("source", Cell::text(source.as_str().unwrap_or_default())),
            ("promise", Cell::text(json!(enforcement.promise).as_str().unwrap_or("-"))),
        ],
    )?;
    for (resource, mode) in enforcement.types.iter() {
        shown.row([Cell::text(resource), Cell::text(mode)]);
    }
    context.show(&shown)
}

pub(super) async fn mode(context: &Context, mode: Mode) -> Result<Outcome, Failure> {
    let client = &context.client;
    let settings = match mode {
        Mode::Show { workspace: None } => return modes(context, &client.enforcement().await?),
        Mode::Show { workspace: Some(workspace) } => client.settings(&workspace).await?,
        Mode::Set { mode, workspace: None, resource: None, .. } => {
            let Some(mode) = mode else {
                return Err(Failure::usage(
                    "there is nothing that all could inherit: write off, warn, enforce or strict",
                ));
            };
            return modes(context, &client.set_enforcement(Some(mode), &Named::default()).await?);
        }
        Mode::Set { mode, workspace: None, resource: Some(resource), .. } => {
            let types = [(resource, mode)].into_iter().collect();
            return modes(context, &client.set_enforcement(None, &types).await?);
        }
        Mode::Set { mode, workspace: Some(workspace), resource, reason } => {
            let change = SettingsChange::new();
            let change = match resource {
                Some(resource) => change.mode_of(&resource, mode),
                None => change.mode(mode),
            };
            let change = match reason {
                Some(reason) => change.reason(&reason),
                None => change,
            };
            client.change_settings(&workspace, &change, None).await?
        }
    };
    let settings = &settings.settings;
    let own = settings.mode.map_or_else(|| "that of all".to_owned(), |mode| mode.to_string());
    let mut shown =
        Shown::fields(&json!({"mode": settings.mode, "modes": settings.modes}), [("mode", Cell::text(own))])?;
    for (resource, mode) in &settings.modes {
        shown.row([Cell::text(resource), Cell::text(mode)]);
    }
    context.show(&shown)
}

/// What all steps of a run have come to.
fn add(total: &mut ImportSummary, step: &ImportSummary) {
    total.workspaces += step.workspaces;
    total.set += step.set;
    total.raised += step.raised;
    total.lowered += step.lowered;
    total.kept += step.kept;
    total.invalid += step.invalid;
    total.invalid_ids.extend(step.invalid_ids.iter().cloned());
}

fn summed(shown: &mut Shown, summary: &ImportSummary, applied: bool) {
    let ImportSummary { workspaces, set, raised, lowered, kept, .. } = summary;
    let would = if applied { "" } else { "would be " };
    shown.note(format!(
        "{workspaces} workspaces; limits: {set} {would}set, {raised} {would}raised, {lowered} {would}lowered, {kept} kept"
    ));
    if summary.invalid > 0 {
        let first: Vec<_> = summary.invalid_ids.iter().take(5).map(String::as_str).collect();
        warn(&format!("{} ids in the rows are none of a workspace, such as {}", summary.invalid, first.join(", ")));
    }
}

fn propose(shown: &mut Shown, proposal: &ImportProposal) {
    let existing = match &proposal.existing {
        serde_json::Value::Null => "unlimited".to_owned(),
        other => other.as_str().map_or_else(|| other.to_string(), str::to_owned),
    };
    shown.row([
        Cell::text(&proposal.workspace_id),
        Cell::text(&proposal.resource_type),
        Cell::number(proposal.usage),
        Cell::number(existing),
        Cell::number(proposal.proposed),
        if proposal.taken { Cell::text("yes").tone(Tone::Good) } else { Cell::text("no") },
    ]);
}

const PROPOSAL: [&str; 6] = ["workspace", "resource", "used", "existing", "proposed", "taken"];

pub(super) async fn migrate(context: &Context, migrate: Migrate) -> Result<Outcome, Failure> {
    let start = |how: Import| ImportStart {
        percent: Some(how.percent),
        floor: how.floor,
        allow_lowering: how.allow_lowering,
        ..ImportStart::default()
    };
    let progress = Progress::new();
    match migrate {
        Migrate::Analyze { how, show } => {
            let mut start = start(how);
            let mut total = ImportSummary::default();
            let mut proposals = Vec::new();
            loop {
                let step = context.client.import(&start).await?;
                add(&mut total, &step.summary);
                proposals.extend(step.proposals.into_iter().take(show.saturating_sub(proposals.len())));
                progress.tell(&format!("{} workspaces looked at", total.workspaces));
                // Each step of an analysis begins anew, behind the last workspace of the step before.
                if step.summary.done || step.summary.after == start.after {
                    break;
                }
                start.after = step.summary.after;
            }
            let readiness = context.client.readiness().await?;
            drop(progress);
            total.done = true;
            let json = json!({"summary": total, "proposals": proposals, "readiness": readiness});
            let mut shown = Shown::table(&json, PROPOSAL)?;
            proposals.iter().for_each(|proposal| propose(&mut shown, proposal));
            summed(&mut shown, &total, false);
            for (resource, of) in readiness.types.iter().filter(|(_, of)| of.full > 0 || of.over > 0) {
                let (full, over) = (of.full, of.over);
                shown.note(format!("{resource}: {full} workspaces are at their limit now, and {over} above it"));
            }
            shown.note(match readiness.would_refuse {
                true => "with the limits of now, mode `enforce` would refuse creations",
                false => "with the limits of now, mode `enforce` would refuse nobody yet",
            });
            context.show(&shown)
        }
        Migrate::Apply { how, name } => {
            let start = ImportStart { apply: true, name: Some(name), ..start(how) };
            let summary = loop {
                let step = context.client.import(&start).await?;
                progress.tell(&format!("{} workspaces done", step.summary.workspaces));
                if step.summary.done {
                    break step.summary;
                }
            };
            drop(progress);
            let mut shown = Shown::table(&summary, [])?;
            summed(&mut shown, &summary, true);
            shown.note(
                "next: `quotactl mode set warn`, and then `quotactl migrate analyze` tells whom `enforce` would refuse",
            );
            context.show(&shown)
        }
    }
}

fn shadowed(context: &Context, status: &ShadowStatus, word: &str) -> Result<Outcome, Failure> {
    let mut shown = Shown::table(status, ["workspace", "resource", "refusals", "used", "limit"])?;
    for of in &status.workspaces {
        shown.row([
            Cell::text(&of.workspace_id),
            Cell::text(&of.resource_type),
            Cell::number(of.refusals).tone(Tone::Warning),
            Cell::number(of.usage),
            Cell::number(of.limit),
        ]);
    }
    let ShadowStatus { since, evaluated, would_refuse, .. } = status;
    shown.note(format!("{word} since {since:.0}: {would_refuse} of {evaluated} creations would have been refused"));
    context.show(&shown)
}

pub(super) async fn shadow(context: &Context, shadow: Shadow) -> Result<Outcome, Failure> {
    match shadow {
        Shadow::Start { workspaces } => {
            let only = (!workspaces.is_empty()).then_some(workspaces.as_slice());
            let status = context.client.start_shadow(&context.limits.guessed(), only).await?;
            shadowed(context, &status, "tried out")
        }
        Shadow::Show => shadowed(context, &context.client.shadow().await?, "tried out"),
        Shadow::Stop => shadowed(context, &context.client.stop_shadow().await?, "ended; tried out"),
    }
}

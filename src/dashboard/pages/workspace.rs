//! One workspace: how full it is, how it got there, and what can be done about it.

use std::sync::Arc;

use axum::response::Response;
use jiff::tz::Offset;
use jiff::{Span, Timestamp};
use maud::{Markup, html};

use super::bar::{self, Severity};
use super::layout::{Place, page, token};
use super::{audit, modes, or_none, requests};
use crate::api::{above_caps, below_usage};
use crate::dashboard::chart::Chart;
use crate::dashboard::session::Flash;
use crate::dashboard::text;
use crate::dashboard::visitor::{Fault, Form, Visitor, sentence};
use crate::decision::Usage;
use crate::engine::{Analytics, PolicyChange, TypeAnalytics};
use crate::error::Error;
use crate::insight::{Forecast, ForecastReason, Granularity, predict};
use crate::limit::LimitSet;
use crate::policy::{AuditFilter, LimitSource, Plan, RequestStatus, Trace};
use crate::resource::ResourceType;
use crate::store::{Expect, QuotaRecord, fullness};
use crate::workspace::WorkspaceId;

/// How many days of the past a chart shows, and how many to come.
const PAST: i64 = 90;
const TO_COME: usize = 45;

/// In how many days a limit has to be reached to be told beside its level.
const SOON: u32 = 120;

/// How many entries of the audit log and of requests are shown.
const ENTRIES: usize = 20;

/// The version that a form stands for where there is no record yet.
const NONE: u64 = 0;

fn version(record: Option<&QuotaRecord>) -> u64 {
    record.map_or(NONE, |record| record.version)
}

/// What a form expects of the record; `None` where it can't be met any more.
async fn expected(form: &Form, workspace: &WorkspaceId) -> Result<Option<Expect>, Error> {
    match form.field("version").parse() {
        Ok(NONE) => {
            let record = form.visitor.quota().record_if_any(workspace).await?;
            Ok(record.is_none().then_some(Expect::Anything))
        }
        Ok(version) => Ok(Some(Expect::Versions(vec![version]))),
        Err(_) => Err(Error::invalid("the form doesn't say what it changes: open the page again")),
    }
}

/// Where a limit comes from.
fn source(trace: &Trace) -> Markup {
    html! {
        @match trace.steps.first().map(|step| &step.source) {
            Some(LimitSource::TemporaryOverride { expires_at, reason, .. }) => {
                "for a time, it ends " (text::ago(*expires_at)) " (" (reason) ")"
            },
            Some(LimitSource::Override) => "set for this workspace",
            Some(LimitSource::Plan { name }) => { "by the plan " (name) },
            Some(LimitSource::Inherited { parent, percent, of }) => {
                (percent) " % of " (parent) "'s " (text::limit(*of))
            },
            Some(LimitSource::Default) | None => "the default",
        }
        @if let Some((limit, until)) = &trace.grace {
            " · grace up to " (text::limit(*limit)) ", it ends " (text::ago(*until))
        }
        @for cap in &trace.caps {
            " · counts in " (cap.workspace.as_str()) "'s cap of " (text::limit(cap.cap))
        }
    }
}

/// When a limit is reached, in a line.
fn expectation(forecast: &Forecast) -> Option<Markup> {
    let soon = forecast.days_until_limit.filter(|days| *days <= SOON)?;
    let date = forecast.projected_date?;
    Some(match forecast.reason {
        Some(ForecastReason::AtLimit) => return None,
        _ => html! {
            "Full " @if soon == 1 { "tomorrow" } @else { "in " (text::count(soon.into(), "day", "days")) } " (" (date) ")"
        },
    })
}

/// One resource type: its level, and the form that changes its limit.
fn resource_type(
    visitor: &Visitor,
    workspace: &WorkspaceId,
    (resource, usage, trace): (&Arc<ResourceType>, Usage, &Trace),
    (version, expectation): (u64, Option<Markup>),
) -> Markup {
    let name = resource.name();
    let marks = visitor.quota().threshold_percents(resource.id());
    let title = text::title(name);
    html! {
        li class="level-row" {
            div id=(format!("type-{name}")) class="level" data-live {
                div class="name" { b { (title) } span class="quiet" { (source(trace)) } }
                (bar::bar(usage, marks))
                (bar::figures(usage))
                span class="state" { (bar::percent(usage, marks)) }
            }
            @if let Some(expectation) = expectation { p class="expectation quiet" { (expectation) } }
            @if visitor.principal.is_admin() {
                details class="change" {
                    summary { "Change" span class="unseen" { " the limit of " (title.to_lowercase()) } }
                    form id=(format!("limit-{name}")) method="post" action=(format!("{}/limits", visitor.to_workspace(workspace.as_str()))) data-send {
                        (token(visitor))
                        input type="hidden" name="version" value=(version);
                        input type="hidden" name="resource" value=(name);
                        div class="field" {
                            label for=(format!("new-{name}")) { "New limit" }
                            input id=(format!("new-{name}")) name="limit" value=(text::limit(trace.limit)) required inputmode="numeric" autocomplete="off" spellcheck="false" maxlength="30";
                        }
                        div class="field wide" {
                            label for=(format!("why-{name}")) { "Reason" }
                            input id=(format!("why-{name}")) name="reason" required maxlength="2000" autocomplete="off" placeholder="Why it changes; the audit log keeps it";
                        }
                        button type="submit" { "Save" }
                    }
                }
            }
        }
    }
}

/// The form in which somebody asks for more.
fn ask(visitor: &Visitor, workspace: &WorkspaceId) -> Markup {
    html! {
        details class="ask" {
            summary { "Ask for more" }
            form id="ask" class="stack" method="post" action=(format!("{}/requests", visitor.to_workspace(workspace.as_str()))) data-send {
                (token(visitor))
                div class="field" {
                    label for="ask-resource" { "Of what" }
                    select id="ask-resource" name="resource" {
                        @for resource in visitor.quota().catalog().iter() { option value=(resource.name()) { (text::title(resource.name())) } }
                    }
                }
                div class="field" {
                    label for="ask-amount" { "How many more" }
                    input id="ask-amount" name="amount" required inputmode="numeric" autocomplete="off" maxlength="26";
                }
                div class="field wide" {
                    label for="ask-reason" { "Reason" }
                    input id="ask-reason" name="reason" required maxlength="2000" autocomplete="off";
                }
                button type="submit" { "Send the request" }
            }
        }
    }
}

/// Plan and mode.
fn settings(visitor: &Visitor, workspace: &WorkspaceId, record: Option<&QuotaRecord>, plans: &[Plan]) -> Markup {
    let plan = record.and_then(|record| record.plan.as_deref());
    let mode = record.and_then(|record| record.settings.mode);
    html! {
        section class="card" aria-labelledby="settings-title" {
            h2 id="settings-title" { "Settings" }
            form id="settings" class="stack" method="post" action=(format!("{}/settings", visitor.to_workspace(workspace.as_str()))) data-send {
                (token(visitor))
                input type="hidden" name="version" value=(version(record));
                div class="field" {
                    label for="plan" { "Plan" }
                    select id="plan" name="plan" {
                        option value="" selected[plan.is_none()] { "none" }
                        @for of in plans { option value=(of.name) selected[plan == Some(&*of.name)] { (of.name) } }
                    }
                }
                div class="field" {
                    label for="mode" { "Mode" }
                    (modes::options("mode", "mode", mode, "that of all"))
                }
                div class="field wide" {
                    label for="settings-reason" { "Reason" }
                    input id="settings-reason" name="reason" maxlength="2000" autocomplete="off";
                }
                button type="submit" { "Save the settings" }
            }
        }
    }
}

/// What was read of a resource type, as a chart.
async fn chart(of: &TypeAnalytics) -> Chart {
    let day = |at: Timestamp| Offset::UTC.to_datetime(at).date();
    let history: Vec<_> = of.trend.iter().map(|point| (day(point.start), point.snapshot.last)).collect();
    let limits = of.trend.iter().map(|point| (day(point.start), point.snapshot.limit.rows())).collect();
    // Days before the first that was read are no history; neither are those that nobody looked at.
    let read: Vec<_> =
        of.trend.iter().filter(|point| !point.carried).map(|point| (day(point.start), point.snapshot.last)).collect();
    // It computes for some milliseconds, and waits for nothing.
    let predicted = tokio::task::spawn_blocking(move || predict(&read, TO_COME)).await.unwrap_or_default();
    Chart { history, limits, predicted, limit: of.usage.limit.rows() }
}

/// What the forecast says, in a sentence.
fn outlook(of: &TypeAnalytics) -> Markup {
    let Forecast { projected_date, days_until_limit, growth_rate, earliest, latest, reason, .. } = of.forecast;
    html! {
        p class="outlook" {
            @match (reason, projected_date, days_until_limit) {
                (Some(ForecastReason::AtLimit), ..) => b { "The limit is reached." },
                (Some(ForecastReason::NoLimit), ..) => "There is no limit to reach.",
                (Some(ForecastReason::TooLittleHistory), ..) => "There is too little history for a forecast: it takes 14 days.",
                (Some(ForecastReason::NoGrowth), ..) => "Usage doesn't grow.",
                (Some(ForecastReason::BeyondHorizon), ..) => "Usage grows, but doesn't reach the limit within a year.",
                (_, Some(date), Some(days)) => {
                    b { "The limit is reached in " (text::count(days.into(), "day", "days")) }
                    ", on " (date)
                    @match (earliest, latest) {
                        (Some(earliest), Some(latest)) => { " (80 %: from " (earliest) " to " (latest) ")" },
                        (Some(earliest), None) => { " (80 %: not before " (earliest) ")" },
                        _ => {},
                    }
                    "."
                },
                _ => "No forecast fits the history.",
            }
            @if let Some(rate) = growth_rate.filter(|rate| rate.abs() >= 0.0005) {
                " " span class="quiet" { "It grows by " (format!("{:.1}", rate * 100.0)) " % a day." }
            }
        }
    }
}

/// The trend of one resource type, and refusals of all.
async fn insight(visitor: &Visitor, workspace: &WorkspaceId, analytics: &Analytics) -> Markup {
    let asked = visitor.asked("type");
    let level = |of: &&TypeAnalytics| (fullness(of.usage), std::cmp::Reverse(of.resource.id()));
    let fullest = || analytics.types.iter().max_by_key(level);
    let Some(shown) = analytics.types.iter().find(|of| Some(of.resource.name()) == asked).or_else(fullest) else {
        return html! {};
    };
    let title = text::title(shown.resource.name());
    let drawn = chart(shown).await.markup(&format!("{title} over time, with the limit and a forecast"));
    let here = visitor.to_workspace(workspace.as_str());
    let today = Timestamp::now();
    let refused = |days: i64, of: &TypeAnalytics| {
        let since = today.checked_sub(Span::new().hours(24 * days)).unwrap_or(Timestamp::MIN);
        let refusals = of.trend.iter().filter(|point| point.start > since).map(|point| point.snapshot.refusals);
        refusals.fold(0, u64::saturating_add)
    };
    let refusals: Vec<_> = analytics
        .types
        .iter()
        .map(|of| (of, [1, 7, 30].map(|days| refused(days, of))))
        .filter(|(_, of)| of[2] > 0)
        .collect();
    html! {
        section class="card" id="trend" aria-labelledby="trend-title" {
            h2 id="trend-title" { "Trend and forecast" }
            nav class="sort types" aria-label="Resource type" {
                @for of in &analytics.types {
                    @let name = of.resource.name();
                    a href=(format!("{here}?type={name}#trend")) aria-current=[(name == shown.resource.name()).then_some("true")] { (text::title(name)) }
                }
            }
            (outlook(shown))
            @match drawn {
                Some(drawn) => (drawn),
                None => div class="empty" { p { b { "No history yet." } } p class="quiet" { "Usage is noted every hour." } },
            }
        }
        section class="card" aria-labelledby="refusals-title" {
            h2 id="refusals-title" { "Refusals" }
            @if refusals.is_empty() {
                p class="quiet" { "Nothing was refused in the last 30 days." }
            } @else {
                div class="scroll" tabindex="0" role="region" aria-labelledby="refusals-title" {
                    table {
                        thead { tr {
                            th scope="col" { "Resource type" } th scope="col" class="number" { "Today" }
                            th scope="col" class="number" { "7 days" } th scope="col" class="number" { "30 days" }
                        } }
                        tbody {
                            @for (of, [day, week, month]) in &refusals {
                                tr {
                                    th scope="row" { (text::title(of.resource.name())) }
                                    td class="number" { (text::number(*day)) }
                                    td class="number" { (text::number(*week)) }
                                    td class="number" { (text::number(*month)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Usage over time; `None` where the store keeps none.
async fn analytics(visitor: &Visitor, workspace: &WorkspaceId) -> Result<Option<Analytics>, Fault> {
    let today = Offset::UTC.to_datetime(Timestamp::now()).date();
    let first = today.saturating_sub(Span::new().days(PAST));
    match visitor.quota().analytics(workspace, first, today, Granularity::Day).await {
        Ok(analytics) => Ok(Some(analytics)),
        Err(error) if error.is_config() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(in crate::dashboard) async fn show(visitor: Visitor) -> Result<Response, Fault> {
    let workspace = visitor.workspace()?;
    let (quota, id, admin) = (visitor.quota(), workspace.as_str(), visitor.principal.is_admin());
    let usage = quota.look(&workspace).await?;
    let traces = quota.explain(&workspace).await?;
    let record = quota.record_if_any(&workspace).await?;
    let version = version(record.as_ref());
    // What takes longest changes least: a page that brings itself up to date does without.
    let analytics = if visitor.live { None } else { analytics(&visitor, &workspace).await? };
    let found = or_none(quota.requests(Some(&workspace), None, None, ENTRIES).await)?;
    let log = match admin {
        true => {
            let filter = AuditFilter { workspace: Some(id.to_owned()), limit: ENTRIES, ..AuditFilter::default() };
            let log = quota.audit(&filter).await.map(|page| page.entries);
            Some(or_none(log)?)
        }
        false => None,
    };
    let plans = if admin { or_none(quota.plans().await)? } else { Vec::new() };
    let waiting = found.iter().filter(|request| request.status == RequestStatus::Pending).count();
    let severities = usage.iter().zip(quota.catalog().iter());
    let severities =
        severities.map(|(usage, resource)| (Severity::of(*usage, quota.threshold_percents(resource.id())), resource));
    let near: Vec<_> = severities.filter_map(|(severity, resource)| Some((severity.words()?, resource))).collect();
    let say = match near.as_slice() {
        [] => "All resource types have room".to_owned(),
        near => {
            let each = near
                .iter()
                .map(|(words, resource)| format!("{}: {}", text::title(resource.name()), words.to_lowercase()));
            each.collect::<Vec<_>>().join(", ")
        }
    };
    let main = html! {
        p class="crumb" { a href=(visitor.to("/")) { "Workspaces" } }
        div class="head" {
            h1 class="id" { (id) }
            @if admin {
                form method="post" action=(format!("{}/recalculate", visitor.to_workspace(id))) data-send {
                    (token(&visitor))
                    button class="quiet" type="submit" title="Counts all rows anew, and corrects what was believed" { "Recalculate" }
                }
            }
        }
        div id="about" class="lead" data-live {
            span class="unseen" data-say { (say) }
            @match record.as_ref().and_then(|record| record.plan.as_deref()) {
                Some(plan) => { "Plan " b { (plan) } },
                None => "No plan",
            }
            @if let Some(parent) = record.as_ref().and_then(|record| record.parent.as_ref()) {
                " · below "
                @if visitor.principal.may_access(parent.as_str()) { a href=(visitor.to_workspace(parent.as_str())) { (parent) } } @else { (parent) }
            }
            " · mode " b { (record.as_ref().and_then(|record| record.settings.mode).unwrap_or(quota.mode())) }
            @if let Some(record) = &record { " · changed " (text::ago(record.updated_at)) } @else { " · nothing was set yet" }
        }
        section class="card levels" aria-labelledby="levels-title" {
            h2 id="levels-title" { "Usage" }
            ul {
                @for ((resource, usage), trace) in quota.catalog().iter().zip(&usage).zip(&traces) {
                    @let forecast = analytics.as_ref().and_then(|all| all.types.iter().find(|of| of.resource.id() == resource.id()));
                    (resource_type(&visitor, &workspace, (resource, *usage, trace), (version, forecast.and_then(|of| expectation(&of.forecast)))))
                }
            }
        }
        @if let Some(analytics) = &analytics { (insight(&visitor, &workspace, analytics).await) }
        section class="card" aria-labelledby="requests-title" {
            h2 id="requests-title" { "Requests for more" }
            div id="requests" data-live {
                @if waiting > 0 { span class="unseen" data-say { (text::count(waiting.try_into().unwrap_or(u64::MAX), "request waits", "requests wait")) } }
                (requests::requests(&visitor, &found, false))
            }
            (ask(&visitor, &workspace))
        }
        @if admin { (settings(&visitor, &workspace, record.as_ref(), &plans)) }
        @if let Some(log) = &log {
            section class="card" aria-labelledby="audit-title" {
                h2 id="audit-title" { "Audit log" }
                div id="audit" data-live { (audit::entries(&visitor, log, false)) }
            }
        }
    };
    Ok(page(&visitor, Place::Workspaces, id, &main))
}

/// What somebody is told whose form is older than what is set.
fn conflict() -> Flash {
    Flash::Failed(
        "Somebody else has changed this workspace meanwhile, and nothing was saved. Look at what it says now, then send it again."
            .to_owned(),
    )
}

pub(in crate::dashboard) async fn set_limit(form: Form) -> Result<Response, Fault> {
    let workspace = form.visitor.own_workspace()?;
    let set = set(&form, &workspace).await;
    let page = form.visitor.to_workspace(workspace.as_str());
    form.then(&page, set)
}

async fn set(form: &Form, workspace: &WorkspaceId) -> Result<Flash, Fault> {
    let visitor = &form.visitor;
    let quota = visitor.quota();
    let resource = quota.catalog().by_name(form.field("resource"))?;
    let limit = text::parse_limit(form.field("limit"))?;
    let reason =
        form.filled("reason").ok_or_else(|| Error::invalid("the reason is missing: say why the limit changes"))?;
    let changes = LimitSet::new().with(resource.id(), limit);
    let Some(expect) = expected(form, workspace).await? else { return Ok(conflict()) };
    let admin = quota.admin(visitor.actor.clone());
    let view = match admin.set_limits(workspace, &changes, &expect, Some(reason.to_owned())).await {
        Err(error) if error.is_conflict() => return Ok(conflict()),
        view => view?,
    };
    tracing::info!(%workspace, caller = %visitor.principal, version = view.record.version, "quota limits set");
    let mut told =
        format!("The limit of {} is {} now.", text::title(resource.name()).to_lowercase(), text::limit(limit));
    // The change stands whether or not rows can be counted now.
    let usage = quota.look(workspace).await.unwrap_or_default();
    let traces = quota.explain(workspace).await.unwrap_or_default();
    for warning in below_usage(quota.catalog(), &changes, &usage).into_iter().chain(above_caps(&changes, &traces)) {
        told.push(' ');
        told.push_str(&sentence(&warning));
    }
    Ok(Flash::Done(told))
}

pub(in crate::dashboard) async fn configure(form: Form) -> Result<Response, Fault> {
    let workspace = form.visitor.own_workspace()?;
    let configured = async {
        let visitor = &form.visitor;
        let mut change = PolicyChange::new().plan(form.filled("plan")).mode(modes::chosen(form.field("mode"))?);
        if let Some(reason) = form.filled("reason") {
            change = change.reason(reason);
        }
        let Some(expect) = expected(&form, &workspace).await? else { return Ok(conflict()) };
        let admin = visitor.quota().admin(visitor.actor.clone());
        match admin.configure(&workspace, change, &expect).await {
            Err(error) if error.is_conflict() => return Ok(conflict()),
            view => view?,
        };
        Ok(Flash::Done("The settings are saved.".to_owned()))
    };
    let configured = configured.await;
    let page = form.visitor.to_workspace(workspace.as_str());
    form.then(&page, configured)
}

pub(in crate::dashboard) async fn recalculate(form: Form) -> Result<Response, Fault> {
    let workspace = form.visitor.own_workspace()?;
    let recounted = async {
        let visitor = &form.visitor;
        let recount = visitor.quota().admin(visitor.actor.clone()).recount(&workspace).await?;
        let corrections = recount.corrections.len();
        tracing::info!(%workspace, caller = %visitor.principal, corrections, "usage recalculated");
        let each = recount.corrections.iter().map(|wrong| {
            format!(
                "{} {} instead of {}",
                text::title(wrong.resource.name()).to_lowercase(),
                text::number(wrong.actual),
                text::number(wrong.cached)
            )
        });
        let each: Vec<_> = each.collect();
        Ok(Flash::Done(match each.as_slice() {
            [] => "All rows were counted: what was believed is right.".to_owned(),
            each => format!("All rows were counted, and put right: {}.", each.join(", ")),
        }))
    };
    let recounted = recounted.await;
    let page = form.visitor.to_workspace(workspace.as_str());
    form.then(&page, recounted)
}

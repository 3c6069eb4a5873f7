//! How strictly limits are kept.

use axum::response::Response;
use maud::{Markup, html};

use super::layout::{Place, page, token};
use crate::api::operators_only;
use crate::dashboard::session::Flash;
use crate::dashboard::text;
use crate::dashboard::visitor::{Fault, Form, Visitor};
use crate::error::Error;
use crate::mode::{EnforcementMode, ModeSource, Promise};

/// What a mode means.
fn meaning(mode: EnforcementMode) -> &'static str {
    match mode {
        EnforcementMode::Off => "Nothing is checked. For emergencies: it goes above all other modes.",
        EnforcementMode::Warn => "Passes at the limit, and warns.",
        EnforcementMode::Enforce => "Refuses what would be one too many.",
        EnforcementMode::Strict => "The same without grace; refuses as well where the quota can't be checked.",
    }
}

fn source(source: ModeSource) -> &'static str {
    match source {
        ModeSource::Default => "It is the default.",
        ModeSource::Environment => "It was set by QUOTA_ENFORCEMENT_MODE.",
        ModeSource::Code => "It was set by the host's code.",
        ModeSource::Runtime => "It was set at run time, and ends with the process.",
    }
}

fn choice(name: &str, mode: EnforcementMode, now: EnforcementMode) -> Markup {
    html! {
        label class="choice" {
            input type="radio" name=(name) value=(mode) checked[mode == now] required;
            span { b { (mode) } span class="quiet" { (meaning(mode)) } }
        }
    }
}

/// Modes to choose from, or that of all.
pub(in crate::dashboard) fn options(id: &str, name: &str, now: Option<EnforcementMode>, none: &str) -> Markup {
    html! {
        select id=(id) name=(name) {
            option value="" selected[now.is_none()] { (none) }
            @for mode in EnforcementMode::ALL { option value=(mode) selected[now == Some(mode)] { (mode) } }
        }
    }
}

pub(in crate::dashboard) async fn show(visitor: Visitor) -> Result<Response, Fault> {
    let quota = visitor.quota();
    let (mode, types) = (quota.mode(), quota.modes_by_type());
    let promise = match quota.promise() {
        Promise::Exact => "Exact: rows never exceed the limit in force when the last unit was granted.",
        Promise::Bounded => {
            "Bounded: rows exceed limits by no more than what was in flight when a replica stood still for longer than its leases last."
        }
    };
    let breaches = quota.breaches();
    let main = html! {
        h1 { "Modes" }
        div id="now" class="card" data-live {
            dl class="pairs" {
                div { dt { "Mode of all workspaces" } dd { b { (mode) } } }
                div { dt { "Where it comes from" } dd { (source(quota.mode_source())) } }
                div { dt { "What is promised" } dd { (promise) } }
                div { dt { "Rows found that nobody allowed" } dd {
                    @if breaches > 0 { span class="pill over" { (text::number(breaches)) } } @else { "none" }
                } }
            }
        }
        @if visitor.is_operator() {
            form id="modes" class="card stack" method="post" action=(visitor.to("/modes")) data-send {
                (token(&visitor))
                p class="quiet" { "Changes are made in this process: where several serve, set the mode in each, or by QUOTA_ENFORCEMENT_MODE." }
                fieldset {
                    legend { "Mode of all workspaces" }
                    @for of in EnforcementMode::ALL { (choice("mode", of, mode)) }
                }
                fieldset {
                    legend { "Modes of resource types" }
                    div class="limits" {
                        @for (resource, mode) in quota.catalog().iter().zip(&types) {
                            @let id = format!("mode-{}", resource.name());
                            div class="field" {
                                label for=(id) { (text::title(resource.name())) }
                                (options(&id, &format!("type-{}", resource.name()), *mode, "that of all"))
                            }
                        }
                    }
                }
                button type="submit" { "Save the modes" }
            }
        } @else {
            div class="card" {
                h2 { "Modes of resource types" }
                dl class="pairs" {
                    @for (resource, mode) in quota.catalog().iter().zip(&types) {
                        div { dt { (text::title(resource.name())) } dd { (mode.map_or_else(|| "that of all".to_owned(), |mode| mode.to_string())) } }
                    }
                }
            }
        }
    };
    Ok(page(&visitor, Place::Modes, "Modes", &main))
}

/// A mode that was chosen, or that of all.
pub(in crate::dashboard) fn chosen(text: &str) -> Result<Option<EnforcementMode>, Error> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| Error::invalid("a mode is one of off, warn, enforce and strict")),
    }
}

pub(in crate::dashboard) async fn set(form: Form) -> Result<Response, Fault> {
    operators_only(&form.visitor.principal)?;
    let set = async {
        let visitor = &form.visitor;
        let quota = visitor.quota();
        let mode = chosen(form.field("mode"))?;
        let mut types = Vec::new();
        for resource in quota.catalog().iter() {
            types.push((resource.id(), chosen(form.field(&format!("type-{}", resource.name())))?));
        }
        let admin = quota.admin(visitor.actor.clone());
        if let Some(mode) = mode.filter(|mode| *mode != quota.mode()) {
            admin.set_mode(mode).await?;
            tracing::info!(caller = %visitor.principal, %mode, "enforcement mode set");
        }
        let before = quota.modes_by_type();
        for (resource, mode) in types {
            if before.get(resource.index()).copied().flatten() != mode {
                admin.set_mode_of(resource, mode).await?;
            }
        }
        Ok(Flash::Done("The modes are saved.".to_owned()))
    };
    let set = set.await;
    let page = form.visitor.to("/modes");
    form.then(&page, set)
}

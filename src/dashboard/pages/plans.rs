//! Plans and their limits.

use axum::response::Response;
use maud::{Markup, html};

use super::layout::{Place, page, token};
use crate::api::operators_only;
use crate::dashboard::session::Flash;
use crate::dashboard::text;
use crate::dashboard::visitor::{Fault, Form, Visitor, encoded};
use crate::limit::LimitSet;
use crate::policy::Plan;
use crate::resource::ResourceCatalog;
use crate::store::Expect;

/// The fields of a plan's limits.
fn fields(catalog: &ResourceCatalog, plan: Option<&Plan>) -> Markup {
    let prefix = plan.map_or("new", |plan| &plan.name);
    html! {
        div class="limits" {
            @for resource in catalog.iter() {
                @let id = format!("{prefix}-{}", resource.name());
                @let limit = plan.and_then(|plan| plan.limits.get(resource.id()));
                div class="field" {
                    label for=(id) { (text::title(resource.name())) }
                    input id=(id) name=(resource.limit_field()) value=(limit.map(text::limit).unwrap_or_default()) placeholder="not in the plan" autocomplete="off" spellcheck="false";
                }
            }
        }
        p class="quiet" { "A whole number, “unlimited”, or nothing where the plan doesn't say." }
    }
}

fn plan_card(visitor: &Visitor, plan: &Plan) -> Markup {
    let catalog = visitor.quota().catalog();
    let operator = visitor.is_operator();
    html! {
        section class="card plan" aria-labelledby=(format!("plan-{}", plan.name)) {
            div class="head" {
                h2 id=(format!("plan-{}", plan.name)) { (plan.name) }
                span class="quiet" { "Changed " (text::ago(plan.updated_at)) }
            }
            @if plan.limits.is_empty() {
                p class="quiet" { "No limits: what comes after plans says them." }
            } @else {
                dl class="pairs" {
                    @for (id, limit) in plan.limits.iter() {
                        div { dt { (text::title(catalog.get(id).name())) } dd { (text::limit(limit)) } }
                    }
                }
            }
            @if operator {
                details {
                    summary { "Change or delete" }
                    form id=(format!("put-{}", plan.name)) class="stack" method="post" action=(visitor.to("/plans")) data-send {
                        (token(visitor))
                        input type="hidden" name="name" value=(plan.name);
                        input type="hidden" name="version" value=(plan.version);
                        (fields(catalog, Some(plan)))
                        button type="submit" { "Save the plan" }
                    }
                    form class="stack" method="post" action=(format!("{}/{}/delete", visitor.to("/plans"), encoded(&plan.name))) data-send {
                        (token(visitor))
                        label class="check" { input type="checkbox" name="sure" required; " No workspace needs it any more" }
                        button class="danger" type="submit" { "Delete the plan" }
                    }
                }
            }
        }
    }
}

pub(in crate::dashboard) async fn list(visitor: Visitor) -> Result<Response, Fault> {
    let plans = visitor.quota().plans().await?;
    let main = html! {
        h1 { "Plans" }
        p class="lead" { "Workspaces have the limits of their plan where they have none of their own." }
        @if plans.is_empty() {
            div class="card empty" { p { b { "There are no plans yet." } } p class="quiet" { "Without one, workspaces have their own limits, or the defaults." } }
        }
        div class="grid" { @for plan in &plans { (plan_card(&visitor, plan)) } }
        @if visitor.is_operator() {
            details class="card" {
                summary { "Make a plan" }
                form id="put-new" class="stack" method="post" action=(visitor.to("/plans")) data-send {
                    (token(&visitor))
                    div class="field" {
                        label for="plan-name" { "Name" }
                        input id="plan-name" name="name" required maxlength="63" autocomplete="off" spellcheck="false";
                    }
                    (fields(visitor.quota().catalog(), None))
                    button type="submit" { "Make the plan" }
                }
            }
        }
    };
    Ok(page(&visitor, Place::Plans, "Plans", &main))
}

pub(in crate::dashboard) async fn put(form: Form) -> Result<Response, Fault> {
    operators_only(&form.visitor.principal)?;
    let put = async {
        let (visitor, name) = (&form.visitor, form.field("name"));
        let quota = visitor.quota();
        let mut limits = LimitSet::new();
        for resource in quota.catalog().iter() {
            if let Some(text) = form.filled(resource.limit_field()) {
                limits.set(resource.id(), text::parse_limit(text)?);
            }
        }
        let expect = match form.filled("version") {
            Some(version) => Expect::Versions(version.parse().into_iter().collect()),
            None if quota.plans().await?.iter().any(|plan| *plan.name == *name) => {
                return Err(
                    crate::error::Error::invalid(format!("there is a plan {name} already: change that one")).into()
                );
            }
            None => Expect::Anything,
        };
        let plan = quota.admin(visitor.actor.clone()).put_plan(name, &limits, &expect).await;
        match plan {
            Err(error) if error.is_conflict() => Ok(Flash::Failed(format!(
                "Somebody else has changed the plan {name} meanwhile. Look at what it says now, then try again."
            ))),
            plan => Ok(Flash::Done(format!("The plan {} is saved.", plan?.name))),
        }
    };
    let put = put.await;
    let page = form.visitor.to("/plans");
    form.then(&page, put)
}

pub(in crate::dashboard) async fn delete(form: Form) -> Result<Response, Fault> {
    operators_only(&form.visitor.principal)?;
    let deleted = async {
        let (visitor, name) = (&form.visitor, form.visitor.param("name"));
        if !form.ticked("sure") {
            return Ok(Flash::Failed("Tick the box to say that no workspace needs the plan any more.".to_owned()));
        }
        visitor.quota().admin(visitor.actor.clone()).delete_plan(name).await?;
        Ok(Flash::Done(format!("The plan {name} is deleted.")))
    };
    let deleted = deleted.await;
    let page = form.visitor.to("/plans");
    form.then(&page, deleted)
}

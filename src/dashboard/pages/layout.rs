//! What all pages have around them.

use axum::response::{Html, IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use maud::{DOCTYPE, Markup, html};

use crate::dashboard::Desk;
use crate::dashboard::session::Flash;
use crate::dashboard::visitor::{Base, Fault, Visitor, encoded, see, sentence};
use crate::problem::ErrorCode;

/// Where a page stands in the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dashboard) enum Place {
    Workspaces,
    Requests,
    Plans,
    #[cfg(feature = "webhooks")]
    Webhooks,
    Modes,
    Audit,
}

impl Place {
    /// The menu: what it says, where it leads, and whether it is for those only who see all workspaces.
    const MENU: &[(Self, &str, &str, bool)] = &[
        (Self::Workspaces, "Workspaces", "/", false),
        (Self::Requests, "Requests", "/requests", false),
        (Self::Plans, "Plans", "/plans", false),
        #[cfg(feature = "webhooks")]
        (Self::Webhooks, "Webhooks", "/webhooks", true),
        (Self::Modes, "Modes", "/modes", false),
        (Self::Audit, "Audit log", "/audit", true),
    ];
}

fn document(desk: &Desk, base: &Base, title: &str, body: &Markup) -> Markup {
    let asset = |file| base.to(&desk.assets().path(file));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · Quotas" }
                link rel="icon" type="image/svg+xml" href=(asset("icon.svg"));
                link rel="stylesheet" href=(asset("dashboard.css"));
                script src=(asset("dashboard.js")) defer {}
            }
            (body)
        }
    }
}

fn mark() -> Markup {
    html! {
        svg class="mark" viewBox="0 0 24 24" aria-hidden="true" focusable="false" {
            rect x="3" y="13" width="4.5" height="8" rx="1.2" {}
            rect x="9.75" y="8" width="4.5" height="13" rx="1.2" {}
            rect x="16.5" y="3" width="4.5" height="18" rx="1.2" {}
        }
    }
}

/// A page of somebody who is signed in.
pub(in crate::dashboard) fn page(visitor: &Visitor, place: Place, title: &str, main: &Markup) -> Response {
    let operator = visitor.is_operator();
    let menu = Place::MENU.iter().filter(|(_, _, _, all)| operator || !all);
    // A page that brings itself up to date leaves what is to be told to the next one that somebody looks at.
    let flash = if visitor.live { None } else { visitor.session.told() };
    let body = html! {
        body {
            a class="skip" href="#main" { "Skip to content" }
            header class="top" {
                a class="brand" href=(visitor.to("/")) { (mark()) span { "Quotas" } }
                nav aria-label="Main" {
                    ul {
                        @for (of, name, path, _) in menu {
                            li { a href=(visitor.to(path)) aria-current=[(*of == place).then_some("page")] { (name) } }
                        }
                    }
                }
                div class="who" {
                    span class="subject" title="Signed in as" { (visitor.principal.subject()) }
                    form method="post" action=(visitor.to("/sign-out")) {
                        (token(visitor))
                        button class="plain" type="submit" { "Sign out" }
                    }
                }
            }
            main id="main" tabindex="-1" data-page {
                div id="flash" { @if let Some(flash) = flash { (told(&flash)) } }
                (main)
            }
            p id="status" class="unseen" role="status" {}
        }
    };
    Html(document(&visitor.desk, &visitor.base, title, &body).into_string()).into_response()
}

/// What makes a form one of this session.
pub(in crate::dashboard) fn token(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name="form" value=(visitor.session.form); }
}

fn told(flash: &Flash) -> Markup {
    match flash {
        Flash::Done(text) => html! { p class="flash done" role="status" { (text) } },
        Flash::Failed(text) => html! { p class="flash failed" role="alert" { (text) } },
        #[cfg(feature = "webhooks")]
        Flash::Secret(text) => html! {
            div class="flash done" role="status" {
                p { "The signing secret is shown this once. Keep it where the receiver can read it:" }
                p { code { (text) } }
            }
        },
    }
}

/// A page of nobody in particular.
pub(in crate::dashboard) fn bare(desk: &Desk, base: &Base, title: &str, main: &Markup) -> Markup {
    document(desk, base, title, &html! { body class="bare" { main id="main" { (main) } } })
}

/// The name above a page that has no menu.
pub(in crate::dashboard) fn brand() -> Markup {
    html! { p class="brand" { (mark()) span { "Quotas" } } }
}

/// The page that tells why there is none.
pub(in crate::dashboard) fn fault(desk: &Desk, base: &Base, fault: Fault) -> Response {
    let problem = match fault {
        Fault::SignIn { then, ended } => {
            let ended = if ended { "&ended" } else { "" };
            let mut response = see(&format!("{}?then={}{ended}", base.to("/sign-in"), encoded(&then)));
            if !ended.is_empty() {
                let gone = HeaderValue::try_from(base.cookie(None, false));
                gone.into_iter().for_each(|gone| drop(response.headers_mut().insert(header::SET_COOKIE, gone)));
            }
            return response;
        }
        Fault::Problem(problem) => problem,
    };
    let title = match problem.code() {
        ErrorCode::InsufficientPermissions => "Not allowed",
        ErrorCode::NotFound | ErrorCode::QuotaNotFound => "Not found",
        ErrorCode::QuotaUnavailable => "Not available now",
        ErrorCode::PayloadTooLarge => "Too large",
        _ => "That can't be done",
    };
    let text = match problem.code() {
        ErrorCode::QuotaUnavailable => "The quota's database doesn't answer now. Try again in a moment.".to_owned(),
        _ => sentence(problem.message()),
    };
    let page = bare(
        desk,
        base,
        title,
        &html! {
            (brand())
            h1 { (title) }
            p { (text) }
            p { a class="button" href=(base.to("/")) { "To the workspaces" } }
        },
    );
    let status = problem.code().status();
    let mut response = (status, Html(page.into_string())).into_response();
    if let Some(seconds) = problem.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        // RFC 9110, 15.5.6: each of the paths is either a page, or where a form goes.
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
    }
    response
}

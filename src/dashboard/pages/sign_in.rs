//! Signing in and out.

use axum::extract::{Request, State};
use axum::response::{Html, IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use maud::{Markup, html};

use super::layout;
use crate::dashboard::Desk;
use crate::dashboard::session::Throttle;
use crate::dashboard::visitor::{Base, Fault, Form, fields, over_https, see, session_id, whose};
use crate::problem::ErrorCode;

/// The page, with what went wrong before.
fn sign_in_page(desk: &Desk, base: &Base, then: &str, wrong: Option<&str>, note: Option<&str>) -> Markup {
    layout::bare(
        desk,
        base,
        "Sign in",
        &html! {
            // Where a link of another site has led here, the browser kept the cookie to itself: the script looks again.
            div class="card sign-in" data-resume=[wrong.is_none().then_some(then)] {
                (layout::brand())
                h1 { "Sign in" }
                @if let Some(note) = note { p class="flash" role="status" { (note) } }
                form method="post" action=(base.to("/sign-in")) {
                    input type="hidden" name="then" value=(then);
                    label for="token" { "Token" }
                    input id="token" name="token" type="password" autocomplete="current-password" required autofocus
                        spellcheck="false" aria-describedby=(if wrong.is_some() { "wrong hint" } else { "hint" })
                        aria-invalid=[wrong.map(|_| "true")];
                    @if let Some(wrong) = wrong { p id="wrong" class="wrong" role="alert" { (wrong) } }
                    p id="hint" class="quiet" { "The same token that you use with the quota API." }
                    button type="submit" { "Sign in" }
                }
            }
        },
    )
}

pub(in crate::dashboard) async fn show(State(desk): State<Desk>, base: Base, uri: Uri) -> Response {
    let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let (mut then, mut ended) = (base.to("/"), false);
    for (name, value) in query {
        match &*name {
            "then" => then = base.within(&value).map_or(then, str::to_owned),
            "ended" => ended = true,
            _ => {}
        }
    }
    let note = ended.then_some("Your session has ended. Sign in to go on.");
    Html(sign_in_page(&desk, &base, &then, None, note).into_string()).into_response()
}

pub(in crate::dashboard) async fn sign_in(
    State(desk): State<Desk>,
    base: Base,
    request: Request,
) -> Result<Response, Fault> {
    let (parts, body) = request.into_parts();
    let fields = fields(body).await?;
    let field = |name: &str| fields.iter().find(|(given, _)| given == name).map_or("", |(_, value)| value.trim());
    let home = base.to("/");
    let then = base.within(field("then")).unwrap_or(&home);
    let client = desk.origin(&parts);
    let refused = |status: StatusCode, why: &str| {
        let page = sign_in_page(&desk, &base, then, Some(why), None);
        (status, Html(page.into_string())).into_response()
    };
    if !desk.throttle().lets(&client) {
        let why = "There were too many wrong tokens. Wait a minute, then try again.";
        let mut response = refused(StatusCode::TOO_MANY_REQUESTS, why);
        response.headers_mut().insert(header::RETRY_AFTER, Throttle::wait().into());
        return Ok(response);
    }
    let token = field("token");
    match whose(&desk, &parts, token).await {
        Ok(principal) => tracing::info!(caller = %principal, client, "signed in to the dashboard"),
        Err(problem) if problem.code() == ErrorCode::Unauthenticated => {
            desk.throttle().failed(&client);
            let mut response = refused(StatusCode::UNAUTHORIZED, "This token is not valid. Check it and try again.");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return Ok(response);
        }
        Err(problem) => return Err(problem.into()),
    }
    end(&desk, &parts.headers);
    let id = desk.sessions().begin(token)?;
    Ok(with_cookie(see(then), &base.cookie(Some(&id), over_https(&parts.headers))))
}

pub(in crate::dashboard) async fn sign_out(State(desk): State<Desk>, headers: HeaderMap, form: Form) -> Response {
    end(&desk, &headers);
    let base = &form.visitor.base;
    with_cookie(see(&base.to("/sign-in")), &base.cookie(None, over_https(&headers)))
}

/// The session that there was until now.
fn end(desk: &Desk, headers: &HeaderMap) {
    session_id(headers).into_iter().for_each(|id| desk.sessions().end(id));
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    let cookie = HeaderValue::try_from(cookie);
    cookie.into_iter().for_each(|cookie| drop(response.headers_mut().insert(header::SET_COOKIE, cookie)));
    response
}

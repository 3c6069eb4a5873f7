//! Who asks for a page, from where, and with which form.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, OriginalUri, RawPathParams, Request};
use axum::response::{IntoResponse, Response};
use form_urlencoded::parse;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use uuid::Uuid;

use super::Desk;
use super::session::{Flash, Session};
use crate::api::{admins_only, open_workspace, operators_only};
use crate::body;
use crate::engine::Quota;
use crate::error::Error;
use crate::policy::Actor;
use crate::principal::Principal;
use crate::problem::{ErrorCode, Problem};
use crate::workspace::WorkspaceId;

/// The cookie that has a session's id.
const COOKIE: &str = "tower_quota_session";

/// The largest form that is read, in bytes.
const LARGEST: usize = 64 * 1024;

/// What a script sends with a request by which a page brings itself up to date.
const LIVE: HeaderName = HeaderName::from_static("x-live");

/// What stays as it is in a part of a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A part of a path or of a query.
pub(super) fn encoded(part: &str) -> String {
    utf8_percent_encode(part, PLAIN).to_string()
}

/// Why there is no page.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Nobody is signed in.
    SignIn {
        /// Where to go then.
        then: String,
        /// There was a session, and it is over.
        ended: bool,
    },
    Problem(Problem),
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let problem = problem(&error);
        if problem.code().status().is_server_error() {
            // The page hides the cause, so that this is the only place that tells it.
            tracing::error!(error = &error as &(dyn StdError + 'static), "the dashboard can't answer");
        }
        Self::Problem(problem)
    }
}

/// What somebody is told of an error.
fn problem(error: &Error) -> Problem {
    if error.is_config() {
        // What this set-up can't do, however often it is asked for.
        return Problem::new(ErrorCode::InvalidRequest, error.message());
    }
    Problem::from(error)
}

/// It travels in the extensions of an empty response, up to the gate.
impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = ().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Where the dashboard is mounted: what its paths begin with.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) path: String,
}

impl Base {
    fn of(parts: &Parts) -> Self {
        let inner = parts.uri.path();
        let whole = parts.extensions.get::<OriginalUri>().map_or(inner, |OriginalUri(uri)| uri.path());
        let path = whole.strip_suffix(inner).unwrap_or(if inner == "/" { whole } else { "" });
        Self { path: path.trim_end_matches('/').to_owned() }
    }

    /// A path of the dashboard.
    pub(super) fn to(&self, path: &str) -> String {
        match path {
            "/" if !self.path.is_empty() => self.path.clone(),
            path => format!("{}{path}", self.path),
        }
    }

    /// `then`, where it is a page of the dashboard.
    pub(super) fn within<'a>(&self, then: &'a str) -> Option<&'a str> {
        let rest = then.strip_prefix(self.path.as_str())?;
        let here = rest.is_empty() || rest.starts_with(['/', '?']);
        // What a browser might take for another host, or for an end of the line.
        let odd = then.is_empty()
            || then.starts_with("//")
            || then.contains('\\')
            || then.chars().any(|letter| letter.is_control() || !letter.is_ascii());
        (here && !odd).then_some(then)
    }

    /// The cookie of a session, or one that takes it away.
    pub(super) fn cookie(&self, id: Option<&str>, https: bool) -> String {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        let secure = if https { "; Secure" } else { "" };
        let ends = if id.is_none() { "; Max-Age=0" } else { "" };
        format!("{COOKIE}={}; Path={path}; HttpOnly; SameSite=Strict{secure}{ends}", id.unwrap_or_default())
    }
}

impl<S: Sync> FromRequestParts<S> for Base {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}

/// The id of the session that a browser says it has.
pub(super) fn session_id(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut ids = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    ids.find(|(name, _)| *name == COOKIE).map(|(_, id)| id)
}

/// Whether the browser sees the page over https, by what it says of a form: a proxy may have ended that before.
pub(super) fn over_https(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

/// Asks the authenticator who has a token, by a request as it would be with it.
pub(super) async fn whose(desk: &Desk, parts: &Parts, token: &str) -> Result<Principal, Problem> {
    let mut asked = parts.clone();
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| Problem::new(ErrorCode::Unauthenticated, "the token is not valid"))?;
    value.set_sensitive(true);
    asked.headers.remove(header::COOKIE);
    asked.headers.insert(header::AUTHORIZATION, value);
    desk.authenticator().authenticate(&asked).await
}

/// Somebody who is signed in.
pub(super) struct Visitor {
    pub(super) desk: Desk,
    pub(super) base: Base,
    pub(super) session: Arc<Session>,
    pub(super) principal: Principal,
    pub(super) actor: Actor,
    /// A page brings itself up to date.
    pub(super) live: bool,
    /// The path of the page, below the mount point, and its query.
    pub(super) path: String,
    query: Vec<(String, String)>,
    params: Vec<(String, String)>,
}

impl FromRequestParts<Desk> for Visitor {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, desk: &Desk) -> Result<Self, Fault> {
        let base = Base::of(parts);
        let safe = parts.method.is_safe();
        let page = parts.uri.path_and_query().map_or("/", |page| page.as_str());
        // Where a form would have gone is no place to come back to.
        let then = if safe { base.to(page) } else { base.to("/") };
        let live = parts.headers.contains_key(LIVE);
        let id = session_id(&parts.headers).filter(|id| !id.is_empty()).map(str::to_owned);
        let Some(session) = id.as_deref().and_then(|id| desk.sessions().find(id, !live)) else {
            return Err(Fault::SignIn { then, ended: id.is_some() });
        };
        let principal = match whose(desk, parts, &session.token).await {
            Ok(principal) => principal,
            Err(problem) if problem.code() == ErrorCode::Unauthenticated => {
                id.as_deref().into_iter().for_each(|id| desk.sessions().end(id));
                return Err(Fault::SignIn { then, ended: true });
            }
            Err(problem) => return Err(problem.into()),
        };
        let params = RawPathParams::from_request_parts(parts, desk)
            .await
            .map_err(|_| Problem::new(ErrorCode::InvalidRequest, "the path is not valid UTF-8 once it is decoded"))?;
        let params = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let query = parse(parts.uri.query().unwrap_or_default().as_bytes());
        Ok(Self {
            actor: Actor::new(principal.subject(), desk.origin(parts)),
            query: query.map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
            path: parts.uri.path().to_owned(),
            params,
            desk: desk.clone(),
            base,
            session,
            principal,
            live,
        })
    }
}

impl Visitor {
    pub(super) fn quota(&self) -> &Quota {
        self.desk.quota()
    }

    /// A path of the dashboard.
    pub(super) fn to(&self, path: &str) -> String {
        self.base.to(path)
    }

    /// The page of a workspace.
    pub(super) fn to_workspace(&self, workspace: &str) -> String {
        self.to(&format!("/workspaces/{}", encoded(workspace)))
    }

    /// A value of the query, unless it is empty.
    pub(super) fn asked(&self, name: &str) -> Option<&str> {
        let mut given = self.query.iter().filter(|(given, _)| given == name).map(|(_, value)| value.trim());
        given.next().filter(|value| !value.is_empty())
    }

    /// A parameter of the path.
    pub(super) fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// An id in the path: one that isn't a UUID names nothing.
    pub(super) fn id(&self, name: &str) -> Result<Uuid, Fault> {
        let id = Uuid::try_parse(self.param(name));
        id.map_err(|_| Problem::new(ErrorCode::NotFound, "there is nothing with this id").into())
    }

    /// The path's workspace, which is open to the visitor.
    pub(super) fn workspace(&self) -> Result<WorkspaceId, Fault> {
        Ok(open_workspace(self.quota(), &self.principal, self.param("workspaceId"))?)
    }

    /// The path's workspace, of which the visitor is an admin.
    pub(super) fn own_workspace(&self) -> Result<WorkspaceId, Fault> {
        let workspace = self.workspace()?;
        admins_only(&self.principal)?;
        Ok(workspace)
    }

    /// Lets an admin of all workspaces pass.
    pub(super) fn operator(&self) -> Result<(), Fault> {
        Ok(operators_only(&self.principal)?)
    }

    pub(super) fn is_operator(&self) -> bool {
        self.principal.is_operator()
    }
}

/// A form that somebody who is signed in has sent.
pub(super) struct Form {
    pub(super) visitor: Visitor,
    fields: Vec<(String, String)>,
}

impl FromRequest<Desk> for Form {
    type Rejection = Fault;

    async fn from_request(request: Request, desk: &Desk) -> Result<Self, Fault> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, desk).await?;
        let form = Self { fields: fields(body).await?, visitor };
        if !form.visitor.session.made(form.field("form")) {
            let message = "this form is of another session, or of none: open the page again and send it from there";
            return Err(Problem::new(ErrorCode::InsufficientPermissions, message).into());
        }
        Ok(form)
    }
}

/// The fields of a form.
pub(super) async fn fields(body: axum::body::Body) -> Result<Vec<(String, String)>, Problem> {
    let body = body::read(body, LARGEST).await?.to_bytes();
    Ok(parse(&body).map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
}

impl Form {
    /// What a field has, without space around it.
    pub(super) fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(given, _)| given == name).map_or("", |(_, value)| value.trim())
    }

    /// The same, or nothing where it is empty.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        Some(self.field(name)).filter(|value| !value.is_empty())
    }

    /// Whether a box is ticked.
    pub(super) fn ticked(&self, name: &str) -> bool {
        self.fields.iter().any(|(given, _)| given == name)
    }

    /// All values of a field.
    #[cfg(feature = "webhooks")]
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Goes on to a page, which tells what became of the form. What the visitor can put right is told there, too.
    pub(super) fn then(self, page: &str, done: Result<Flash, Fault>) -> Result<Response, Fault> {
        let flash = match done {
            Ok(flash) => flash,
            Err(Fault::Problem(problem)) if !problem.code().status().is_server_error() => {
                Flash::Failed(sentence(problem.message()))
            }
            Err(fault) => return Err(fault),
        };
        self.visitor.session.tell(flash);
        Ok(see(page))
    }
}

/// A message as a sentence of a page. Names stay as they are.
pub(super) fn sentence(message: &str) -> String {
    let message = message.replace('`', "");
    let end = if message.ends_with(['.', '?', '!']) { "" } else { "." };
    let word = message.split(' ').next().unwrap_or_default();
    if word.chars().any(char::is_uppercase) || word.contains("://") {
        return format!("{message}{end}");
    }
    let mut letters = message.chars();
    let begin: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{begin}{}{end}", letters.as_str())
}

/// Sends the browser on, with GET.
pub(super) fn see(page: &str) -> Response {
    axum::response::Redirect::to(page).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_site() {
        let base = Base { path: "/dashboard".to_owned() };
        for then in ["/dashboard", "/dashboard/plans", "/dashboard?q=a", "/dashboard/workspaces/a%2Fb?type=users"] {
            assert_eq!(base.within(then), Some(then));
        }
        let elsewhere = [
            "",
            "/",
            "/dashboards",
            "//evil.example",
            "https://evil.example/dashboard",
            "/dashboard\\evil",
            "/dashboard/\n",
        ];
        for then in elsewhere {
            assert_eq!(base.within(then), None, "{then:?}");
        }
        let base = Base { path: String::new() };
        assert_eq!(base.within("/plans"), Some("/plans"));
        for then in ["", "//evil.example", "/\\evil.example", "evil"] {
            assert_eq!(base.within(then), None, "{then:?}");
        }
    }

    #[test]
    fn cookies_are_for_the_mount_point() {
        let base = Base { path: "/dashboard".to_owned() };
        assert_eq!(
            base.cookie(Some("id"), true),
            "tower_quota_session=id; Path=/dashboard; HttpOnly; SameSite=Strict; Secure"
        );
        let base = Base { path: String::new() };
        assert_eq!(base.cookie(None, false), "tower_quota_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    }

    #[test]
    fn messages_become_sentences() {
        assert_eq!(sentence("`reason` is empty: say why"), "Reason is empty: say why.");
        assert_eq!(sentence("élan."), "Élan.");
        assert_eq!(sentence("maxSegments is 9"), "maxSegments is 9.");
    }
}

//! What operations need from a request. Each extractor is a step of the way in, and handlers list them in its order:
//! who calls (401), for which workspace (400, 403), in which role (403), under which conditions (400), and last the body.

use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use http::request::Parts;
use jiff::Timestamp;

use super::Api;
use super::dto::Object;
use super::etag;
use super::failure::{Failure, RequestSpan};
use crate::body;
use crate::engine::Quota;
use crate::policy::Actor;
use crate::principal::Principal;
use crate::problem::{ErrorCode, Problem};
use crate::resource::shown;
use crate::spans;
use crate::store::Expect;
use crate::workspace::WorkspaceId;

/// The name of the path's parameter.
const WORKSPACE_PARAMETER: &str = "workspaceId";

/// Anybody who is authenticated.
pub(super) struct Caller {
    pub(super) principal: Principal,
    /// The same for the audit log.
    pub(super) actor: Actor,
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let principal = api.authenticator().authenticate(parts).await?;
        let actor = Actor::new(principal.subject(), api.origin(parts));
        Ok(Self { principal, actor })
    }
}

/// A caller to whom the path's workspace is open.
pub(super) struct Reader {
    pub(super) caller: Caller,
    pub(super) workspace: WorkspaceId,
}

impl FromRequestParts<Api> for Reader {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let caller = Caller::from_request_parts(parts, api).await?;
        let parameters = parameters(parts, api).await?;
        let raw = parameters.iter().find(|(name, _)| *name == WORKSPACE_PARAMETER).map_or("", |(_, value)| value);
        let workspace = open_workspace(api.quota(), &caller.principal, raw)?;
        if let Some(RequestSpan(span)) = parts.extensions.get() {
            spans::about(span, workspace.as_str());
        }
        Ok(Self { caller, workspace })
    }
}

/// The parameters of the path, decoded.
async fn parameters(parts: &mut Parts, api: &Api) -> Result<RawPathParams, Failure> {
    let parameters = RawPathParams::from_request_parts(parts, api).await;
    Ok(parameters.map_err(|_| invalid("the path is not valid UTF-8 once it is decoded"))?)
}

/// What the path names behind the workspace, or without one.
pub(super) struct Named(pub(super) String);

impl FromRequestParts<Api> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let [name] = names(parts, api).await?;
        Ok(Self(name))
    }
}

/// The same where it names something of that, too.
#[cfg(feature = "webhooks")]
pub(super) struct NamedTwice(pub(super) String, pub(super) String);

#[cfg(feature = "webhooks")]
impl FromRequestParts<Api> for NamedTwice {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let [name, second] = names(parts, api).await?;
        Ok(Self(name, second))
    }
}

async fn names<const N: usize>(parts: &mut Parts, api: &Api) -> Result<[String; N], Failure> {
    let parameters = parameters(parts, api).await?;
    let mut names = parameters.iter().filter(|(name, _)| *name != WORKSPACE_PARAMETER).map(|(_, value)| value);
    Ok(std::array::from_fn(|_| names.next().unwrap_or_default().to_owned()))
}

/// An admin of the path's workspace.
pub(super) struct Admin {
    pub(super) caller: Caller,
    pub(super) workspace: WorkspaceId,
}

impl FromRequestParts<Api> for Admin {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let Reader { caller, workspace } = Reader::from_request_parts(parts, api).await?;
        admins_only(&caller.principal)?;
        Ok(Self { caller, workspace })
    }
}

/// Somebody who may change what all workspaces share.
pub(super) struct Operator(pub(super) Caller);

impl FromRequestParts<Api> for Operator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let caller = Caller::from_request_parts(parts, api).await?;
        operators_only(&caller.principal)?;
        Ok(Self(caller))
    }
}

/// The workspace of that name, where it is open to the caller.
pub(crate) fn open_workspace(quota: &Quota, principal: &Principal, raw: &str) -> Result<WorkspaceId, Problem> {
    let workspace = quota.workspace(raw).map_err(|error| Problem::from(&error))?;
    match principal.may_access(workspace.as_str()) {
        true => Ok(workspace),
        false => Err(forbidden("this workspace is not open to the caller")),
    }
}

/// Lets those pass who may change quotas of the workspaces that are open to them.
pub(crate) fn admins_only(principal: &Principal) -> Result<(), Problem> {
    match principal.is_admin() {
        true => Ok(()),
        false => Err(forbidden("this needs an admin of the workspace")),
    }
}

/// Lets those pass who may change what all workspaces share.
pub(crate) fn operators_only(principal: &Principal) -> Result<(), Problem> {
    match principal.is_operator() {
        true => Ok(()),
        false => Err(forbidden("this needs an admin of all workspaces")),
    }
}

fn forbidden(message: &str) -> Problem {
    Problem::new(ErrorCode::InsufficientPermissions, message)
}

/// The condition of `If-Match`.
pub(super) struct IfMatch(pub(super) Expect);

impl FromRequestParts<Api> for IfMatch {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Failure> {
        Ok(Self(etag::if_match(&parts.headers)?))
    }
}

/// The query. Each name is given once.
#[derive(Debug)]
pub(super) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// The most entries of a list that are answered at once.
    const MOST: usize = 1000;

    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut taken = None;
        while let Some(at) = self.0.iter().position(|(given, _)| given == name) {
            if taken.replace(self.0.remove(at).1).is_some() {
                return Err(invalid(format!("`{name}` is given twice")));
            }
        }
        Ok(taken)
    }

    fn take_flag(&mut self, name: &str) -> Result<bool, Problem> {
        let malformed = || invalid(format!("`{name}` is true or false, and given once"));
        match self.take(name).map_err(|_| malformed())?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(malformed()),
        }
    }

    pub(super) fn take_time(&mut self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let read = |text: String| {
            text.parse().map_err(|_| invalid(format!("`{name}` is a time such as 2026-01-31T10:00:00Z")))
        };
        self.take(name)?.map(read).transpose()
    }

    pub(super) fn take_number(&mut self, name: &str) -> Result<Option<u64>, Problem> {
        let read = |text: String| text.parse().map_err(|_| invalid(format!("`{name}` is what came as `next`")));
        self.take(name)?.map(read).transpose()
    }

    /// How many entries of a list are asked for.
    pub(super) fn take_limit(&mut self) -> Result<usize, Problem> {
        match self.take("limit")? {
            None => Ok(100),
            Some(text) => {
                let limit = text.parse().ok().filter(|limit| (1..=Self::MOST).contains(limit));
                limit.ok_or_else(|| invalid(format!("`limit` is an integer of 1 to {}", Self::MOST)))
            }
        }
    }

    /// Refuses the names that nobody took.
    pub(super) fn finish(self, known: &str) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => Err(invalid(format!("unknown parameter {}: the query has {known}", shown(name)))),
            None => Ok(()),
        }
    }
}

fn invalid(message: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::InvalidRequest, message)
}

impl FromRequestParts<Api> for Pairs {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Failure> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| invalid("the query is malformed: write name=value pairs"))?;
        Ok(Self(pairs))
    }
}

/// `?soft=true`: a refusal is told in the body instead of the status.
pub(super) struct Soft(pub(super) bool);

impl FromRequestParts<Api> for Soft {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        Ok(Self(Pairs::from_request_parts(parts, api).await?.take_flag("soft")?))
    }
}

/// `?explain=true`: why limits are what they are.
pub(super) struct Explain(pub(super) bool);

impl FromRequestParts<Api> for Explain {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        Ok(Self(Pairs::from_request_parts(parts, api).await?.take_flag("explain")?))
    }
}

/// `?dryRun=true`: it is told what would be done, and nothing is.
pub(super) struct DryRun(pub(super) bool);

impl FromRequestParts<Api> for DryRun {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        Ok(Self(Pairs::from_request_parts(parts, api).await?.take_flag("dryRun")?))
    }
}

/// Reads bodies of any content type as JSON: clients that were written against the guide send them with the type that
/// `curl -d` sets.
impl FromRequest<Api> for Object {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        let body = body::read(request.into_body(), api.body_cap()).await?;
        Ok(Self::parse(&body.to_bytes())?)
    }
}

/// A body that may be left out where all of its fields may.
pub(super) struct MaybeEmpty(pub(super) Object);

impl FromRequest<Api> for MaybeEmpty {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        let body = body::read(request.into_body(), api.body_cap()).await?.to_bytes();
        Ok(Self(Object::parse(if body.is_empty() { b"{}" } else { &body })?))
    }
}

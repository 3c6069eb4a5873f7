//! What operations need from a request. Each extractor is a step of the way in, and handlers list them in its order:
//! who calls (401), for which workspace (400, 403), in which role (403), under which conditions (400), and last the body.

use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use http::request::Parts;

use super::Api;
use super::dto::Object;
use super::etag;
use super::failure::Failure;
use crate::body;
use crate::principal::Principal;
use crate::problem::{ErrorCode, Problem};
use crate::store::Expect;
use crate::workspace::WorkspaceId;

/// The name of the path's parameter.
const WORKSPACE_PARAMETER: &str = "workspaceId";

/// Anybody who is authenticated.
pub(super) struct Caller(Principal);

impl FromRequestParts<Api> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        Ok(Self(api.authenticator().authenticate(parts).await?))
    }
}

/// A caller to whom the path's workspace is open.
pub(super) struct Reader {
    caller: Principal,
    pub(super) workspace: WorkspaceId,
}

impl FromRequestParts<Api> for Reader {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let Caller(caller) = Caller::from_request_parts(parts, api).await?;
        let params = RawPathParams::from_request_parts(parts, api)
            .await
            .map_err(|_| Problem::new(ErrorCode::InvalidRequest, "the path is not valid UTF-8 once it is decoded"))?;
        let raw = params.iter().find(|(name, _)| *name == WORKSPACE_PARAMETER).map(|(_, value)| value);
        let workspace = api.quota().workspace(raw.unwrap_or_default())?;
        if !caller.may_access(workspace.as_str()) {
            return Err(forbidden("this workspace is not open to the caller"));
        }
        Ok(Self { caller, workspace })
    }
}

/// An admin of the path's workspace.
pub(super) struct Admin {
    pub(super) caller: Principal,
    pub(super) workspace: WorkspaceId,
}

impl FromRequestParts<Api> for Admin {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let Reader { caller, workspace } = Reader::from_request_parts(parts, api).await?;
        if !caller.is_admin() {
            return Err(forbidden("this needs an admin of the workspace"));
        }
        Ok(Self { caller, workspace })
    }
}

/// Somebody who may change what all workspaces share.
pub(super) struct Operator(pub(super) Principal);

impl FromRequestParts<Api> for Operator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let Caller(caller) = Caller::from_request_parts(parts, api).await?;
        if !caller.is_operator() {
            return Err(forbidden("this needs an admin of all workspaces"));
        }
        Ok(Self(caller))
    }
}

fn forbidden(message: &str) -> Failure {
    Problem::new(ErrorCode::InsufficientPermissions, message).into()
}

/// The condition of `If-Match`.
pub(super) struct IfMatch(pub(super) Expect);

impl FromRequestParts<Api> for IfMatch {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Failure> {
        Ok(Self(etag::if_match(&parts.headers)?))
    }
}

/// `?soft=true`: a refusal is told in the body instead of the status.
pub(super) struct Soft(pub(super) bool);

impl FromRequestParts<Api> for Soft {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Failure> {
        let malformed = || Problem::new(ErrorCode::InvalidRequest, "`soft` is true or false, and given once");
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map_err(|_| malformed())?;
        let mut given = pairs.iter().filter(|(name, _)| name == "soft").map(|(_, value)| value.as_str());
        match (given.next(), given.next()) {
            (None | Some("false"), None) => Ok(Self(false)),
            (Some("true"), None) => Ok(Self(true)),
            _ => Err(malformed().into()),
        }
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

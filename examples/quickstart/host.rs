//! A multi-tenant product in miniature: ten collections per workspace. It knows nothing of quotas.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tower_quota::{ErrorCode, Fence, Principal, Problem, ProblemFormat};

use crate::database::{Database, Row};

/// Collection in paths, resource type, table.
pub(crate) const COLLECTIONS: [(&str, &str, &str); 10] = [
    ("users", "users", "User"),
    ("segments", "segments", "Segment"),
    ("journeys", "journeys", "Journey"),
    ("broadcasts", "broadcasts", "Broadcast"),
    ("computed-properties", "computedProperties", "ComputedProperty"),
    ("audiences", "audiences", "Audience"),
    ("email-templates", "emailTemplates", "EmailTemplate"),
    ("subscription-groups", "subscriptionGroups", "SubscriptionGroup"),
    ("custom-metrics", "customMetrics", "CustomMetric"),
    ("webhooks", "webhooks", "Webhook"),
];

pub(crate) fn routes(database: Database) -> Router {
    let mut routes = Router::new().route("/api/segments", put(upsert_segment));
    for (collection, _, table) in COLLECTIONS {
        let create = move |place: Place, fence: Fence, state: State<Database>, body: Body<New>| {
            create(table, place, fence, state, body)
        };
        let list = move |place: Place, state: State<Database>| list(table, place, state);
        let remove = move |place: Place, path, state: State<Database>| remove(table, place, path, state);
        routes = routes
            .route(&format!("/api/workspaces/{{workspaceId}}/{collection}"), get(list).post(create))
            .route(&format!("/api/workspaces/{{workspaceId}}/{collection}/{{id}}"), delete(remove));
    }
    routes = routes.route("/api/workspaces/{workspaceId}/users/batch", post(create_users));
    routes.with_state(database)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct New {
    workspace_id: Option<String>,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Batch {
    workspace_id: Option<String>,
    users: Vec<New>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Upsert {
    id: Option<String>,
    workspace_id: String,
    name: String,
}

/// A JSON body, whatever type it declares.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let invalid = |message: String| Failure::new(ErrorCode::InvalidRequest, message);
        let bytes = Bytes::from_request(request, state).await.map_err(|error| invalid(error.body_text()))?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| invalid(format!("the body doesn't fit: {error}")))
    }
}

/// The workspace of a request's path, once the caller is known to be allowed there.
struct Place(String);

impl<S: Send + Sync> FromRequestParts<S> for Place {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Named {
            workspace_id: String,
        }
        let Path(Named { workspace_id }) = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| Failure::new(ErrorCode::InvalidRequest, error.to_string()))?;
        same_in_header(&parts.headers, &workspace_id)?;
        allow(parts.extensions.get(), &workspace_id)?;
        Ok(Self(workspace_id))
    }
}

fn same_in_header(headers: &HeaderMap, workspace: &str) -> Result<(), Failure> {
    let mut named = headers.get_all("df-workspace-id").iter();
    match named.all(|header| header.as_bytes() == workspace.as_bytes()) {
        true => Ok(()),
        false => Err(mismatch("df-workspace-id names another workspace")),
    }
}

fn same_in_body(named: Option<&str>, workspace: &str) -> Result<(), Failure> {
    match named.is_none_or(|named| named == workspace) {
        true => Ok(()),
        false => Err(mismatch("the body's `workspaceId` names another workspace than the path")),
    }
}

fn mismatch(message: &str) -> Failure {
    Failure::new(ErrorCode::WorkspaceMismatch, message)
}

fn allow(principal: Option<&Principal>, workspace: &str) -> Result<(), Failure> {
    match principal {
        Some(principal) if principal.may_access(workspace) => Ok(()),
        _ => Err(Failure::new(ErrorCode::InsufficientPermissions, "this token may not act on that workspace")),
    }
}

/// An error answer, in the same form as those of the quota API.
enum Failure {
    Problem(Problem),
    NameTaken,
    NotFound,
    Database(sqlx::Error),
}

impl Failure {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Problem(Problem::new(code, message))
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(database) if database.is_unique_violation() => Self::NameTaken,
            _ => Self::Database(error),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.to_response(ProblemFormat::Json).map(axum::body::Body::from),
            Self::NameTaken => {
                let body = json!({ "error": "NAME_TAKEN", "message": "this workspace has one of that name" });
                (StatusCode::CONFLICT, Json(body)).into_response()
            }
            Self::NotFound => Self::new(ErrorCode::NotFound, "there is none with that id").into_response(),
            Self::Database(error) => {
                tracing::error!(%error, "the database failed");
                let body = json!({ "error": "INTERNAL", "message": "the database failed" });
                (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
            }
        }
    }
}

fn named(name: &str) -> Result<&str, Failure> {
    // The second is text, but not to Postgres.
    if name.trim().is_empty() || name.contains('\0') {
        return Err(Failure::new(ErrorCode::InvalidRequest, "`name` is empty or has a zero byte: give it a name"));
    }
    Ok(name)
}

async fn create(
    table: &'static str,
    Place(workspace): Place,
    fence: Fence,
    State(database): State<Database>,
    Body(new): Body<New>,
) -> Result<(StatusCode, Json<Row>), Failure> {
    same_in_body(new.workspace_id.as_deref(), &workspace)?;
    let row = Row::new(named(&new.name)?);
    database.insert(table, &workspace, std::slice::from_ref(&row), &fence).await?;
    Ok((StatusCode::CREATED, Json(row)))
}

async fn list(
    table: &'static str,
    Place(workspace): Place,
    State(database): State<Database>,
) -> Result<Json<Vec<Row>>, Failure> {
    Ok(Json(database.list(table, &workspace).await?))
}

async fn remove(
    table: &'static str,
    Place(workspace): Place,
    Path((_, id)): Path<(String, String)>,
    State(database): State<Database>,
) -> Result<StatusCode, Failure> {
    match database.delete(table, &workspace, &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Failure::NotFound),
    }
}

async fn create_users(
    Place(workspace): Place,
    fence: Fence,
    State(database): State<Database>,
    Body(batch): Body<Batch>,
) -> Result<(StatusCode, Json<Vec<Row>>), Failure> {
    for named in [&batch.workspace_id].into_iter().chain(batch.users.iter().map(|user| &user.workspace_id)) {
        same_in_body(named.as_deref(), &workspace)?;
    }
    let rows = batch.users.iter().map(|user| named(&user.name).map(Row::new)).collect::<Result<Vec<Row>, _>>()?;
    database.insert("User", &workspace, &rows, &fence).await?;
    Ok((StatusCode::CREATED, Json(rows)))
}

/// Renames the segment with this id, or makes it; without an id, makes one of that name if there is none.
async fn upsert_segment(
    Extension(principal): Extension<Principal>,
    fence: Fence,
    State(database): State<Database>,
    headers: HeaderMap,
    Body(upsert): Body<Upsert>,
) -> Result<Json<Row>, Failure> {
    same_in_header(&headers, &upsert.workspace_id)?;
    allow(Some(&principal), &upsert.workspace_id)?;
    let row = database.upsert_segment(&upsert.workspace_id, upsert.id, named(&upsert.name)?, &fence).await?;
    row.map(Json).ok_or(Failure::NotFound)
}

//! The operations on who is told when a limit comes near.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
#[cfg(feature = "email")]
use super::dto;
use super::dto::Object;
#[cfg(feature = "email")]
use super::extract::Admin;
use super::failure::Failure;
use super::operate::beyond;

#[cfg(feature = "webhooks")]
mod webhooks {
    use axum::extract::Path;
    use axum::response::{IntoResponse, Response};
    use http::StatusCode;
    use uuid::Uuid;

    use super::*;
    use crate::api::dto;
    use crate::api::extract::{MaybeEmpty, Named, Operator, Pairs};
    use crate::api::policy::{id, missing};
    use crate::error::Error;
    use crate::events::{Delivery, DeliveryFilter, DeliveryStatus, Endpoint, WebhookSecret};
    use crate::problem::{ErrorCode, Problem};

    fn failed(error: Error) -> Failure {
        if error.is_config() { beyond(error) } else { missing(error) }
    }

    fn shown(endpoint: &Endpoint) -> Value {
        json!({
            "id": endpoint.id,
            "workspaceId": endpoint.workspace_id,
            "url": endpoint.url,
            "events": endpoint.events,
            "description": endpoint.description,
            "status": endpoint.status,
            "failures": endpoint.failures,
            "pausedUntil": endpoint.paused_until,
            "createdAt": endpoint.created_at,
            "updatedAt": endpoint.updated_at,
        })
    }

    /// The only answers that have a secret.
    fn with_secret(status: StatusCode, endpoint: &Endpoint, secret: &WebhookSecret) -> Response {
        let mut webhook = shown(endpoint);
        webhook["secret"] = json!(secret.expose());
        (status, Json(json!({"webhook": webhook}))).into_response()
    }

    pub(in crate::api) async fn list(State(api): State<Api>, _: Operator) -> Result<Json<Value>, Failure> {
        let endpoints = api.quota().endpoints().await.map_err(failed)?;
        Ok(Json(json!({"webhooks": endpoints.iter().map(shown).collect::<Vec<_>>()})))
    }

    pub(in crate::api) async fn add(
        State(api): State<Api>,
        Operator(caller): Operator,
        body: Object,
    ) -> Result<Response, Failure> {
        let quota = api.quota();
        let new = dto::new_endpoint(body, |raw| quota.workspace(raw))?;
        let admin = quota.admin(caller.actor);
        let added = admin.add_endpoint(new.workspace.as_ref(), new.url, new.change, new.secret).await;
        let (endpoint, secret) = added.map_err(failed)?;
        Ok(with_secret(StatusCode::CREATED, &endpoint, &secret))
    }

    pub(in crate::api) async fn read(
        State(api): State<Api>,
        _: Operator,
        Named(raw): Named,
    ) -> Result<Json<Value>, Failure> {
        let endpoint = api.quota().endpoint(id(&raw)?).await.map_err(failed)?;
        Ok(Json(json!({"webhook": shown(&endpoint)})))
    }

    pub(in crate::api) async fn change(
        State(api): State<Api>,
        Operator(caller): Operator,
        Named(raw): Named,
        body: Object,
    ) -> Result<Json<Value>, Failure> {
        let change = dto::endpoint_change(body)?;
        let endpoint = api.quota().admin(caller.actor).change_endpoint(id(&raw)?, &change).await.map_err(failed)?;
        Ok(Json(json!({"webhook": shown(&endpoint)})))
    }

    pub(in crate::api) async fn remove(
        State(api): State<Api>,
        Operator(caller): Operator,
        Named(raw): Named,
    ) -> Result<Json<Value>, Failure> {
        let id = id(&raw)?;
        api.quota().admin(caller.actor).remove_endpoint(id).await.map_err(failed)?;
        Ok(Json(json!({"deleted": id})))
    }

    pub(in crate::api) async fn rotate(
        State(api): State<Api>,
        Operator(caller): Operator,
        Named(raw): Named,
        MaybeEmpty(body): MaybeEmpty,
    ) -> Result<Response, Failure> {
        let secret = dto::new_secret(body)?;
        let rotated = api.quota().admin(caller.actor).rotate_secret(id(&raw)?, secret).await;
        let (endpoint, secret) = rotated.map_err(failed)?;
        Ok(with_secret(StatusCode::OK, &endpoint, &secret))
    }

    pub(in crate::api) async fn test(
        State(api): State<Api>,
        Operator(caller): Operator,
        Named(raw): Named,
    ) -> Result<Response, Failure> {
        let notice = api.quota().admin(caller.actor).test_endpoint(id(&raw)?).await.map_err(failed)?;
        Ok((StatusCode::ACCEPTED, Json(json!({"notice": notice}))).into_response())
    }

    pub(in crate::api) async fn deliveries(
        State(api): State<Api>,
        _: Operator,
        Named(raw): Named,
        mut pairs: Pairs,
    ) -> Result<Json<Value>, Failure> {
        let id = id(&raw)?;
        let status = pairs.take("status")?.map(|name| name.parse::<DeliveryStatus>()).transpose()?;
        let before = pairs.take("cursor")?.map(|raw| {
            Uuid::try_parse(&raw)
                .map_err(|_| Problem::new(ErrorCode::InvalidRequest, "`cursor` is what came as `next`"))
        });
        let (before, limit) = (before.transpose()?, pairs.take_limit()?);
        pairs.finish("`status`, `cursor` and `limit`")?;
        let quota = api.quota();
        quota.endpoint(id).await.map_err(failed)?;
        let filter = DeliveryFilter { target: Some(id.to_string()), status, before, limit };
        let page = quota.deliveries(&filter).await.map_err(failed)?;
        let delivery = |delivery: &Delivery| {
            let body: Value = serde_json::from_str(&delivery.body).unwrap_or_default();
            json!({
                "id": delivery.id,
                "notice": delivery.notice,
                "status": delivery.status,
                "attempts": delivery.attempts,
                "nextAt": (delivery.status == DeliveryStatus::Pending).then_some(delivery.next_at),
                "log": delivery.log,
                "body": body,
            })
        };
        let deliveries: Vec<_> = page.deliveries.iter().map(delivery).collect();
        Ok(Json(json!({"deliveries": deliveries, "next": page.next})))
    }

    pub(in crate::api) async fn replay(
        State(api): State<Api>,
        Operator(caller): Operator,
        Path((endpoint, delivery)): Path<(String, String)>,
    ) -> Result<Response, Failure> {
        let (endpoint, delivery) = (id(&endpoint)?, id(&delivery)?);
        api.quota().admin(caller.actor).replay(&endpoint.to_string(), delivery).await.map_err(failed)?;
        Ok((StatusCode::ACCEPTED, Json(json!({"replayed": delivery}))).into_response())
    }
}

#[cfg(feature = "webhooks")]
pub(super) use webhooks::{add, change, deliveries, list, read, remove, replay, rotate, test};

#[cfg(feature = "email")]
pub(super) async fn contacts(State(api): State<Api>, Admin { workspace, .. }: Admin) -> Result<Json<Value>, Failure> {
    let emails = api.quota().contacts(&workspace).await.map_err(beyond)?;
    Ok(Json(json!({"workspaceId": workspace.as_str(), "emails": emails})))
}

#[cfg(feature = "email")]
pub(super) async fn set_contacts(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    body: Object,
) -> Result<Json<Value>, Failure> {
    let emails = dto::contacts(body)?;
    api.quota().admin(caller.actor).set_contacts(&workspace, &emails).await.map_err(beyond)?;
    Ok(Json(json!({"workspaceId": workspace.as_str(), "emails": emails})))
}

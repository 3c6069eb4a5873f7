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
    use axum::response::{IntoResponse, Response};
    use http::StatusCode;
    use uuid::Uuid;

    use super::*;
    use crate::api::dto;
    use crate::api::extract::{MaybeEmpty, Named, NamedTwice, Operator, Pairs};
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

    describe!(list, |it| it.is("listWebhooks", "Webhooks", "Lists the endpoints that notices are sent to").answers(
        StatusCode::OK,
        "All of them.",
        object([("webhooks", list(named("Webhook")))]),
        json!({"webhooks": [examples::webhook()]}),
    ));

    pub(in crate::api) async fn list(State(api): State<Api>, _: Operator) -> Result<Json<Value>, Failure> {
        let endpoints = api.quota().endpoints().await.map_err(failed)?;
        Ok(Json(json!({"webhooks": endpoints.iter().map(shown).collect::<Vec<_>>()})))
    }

    describe!(add, |it| {
        it.is("addWebhook", "Webhooks", "Adds an endpoint that notices are sent to")
            .about(
                "The notices of one workspace, or of all. The URL begins with https://, and is reachable on \
            the public internet.",
            )
            .takes(
                with_optional(
                    [("url", named("WebhookUrl"))],
                    [
                        ("workspaceId", or_null(named("WorkspaceId"))),
                        ("events", named("WebhookEvents")),
                        ("description", json!({"type": ["string", "null"], "maxLength": 500})),
                        ("active", flag()),
                        ("secret", or_null(named("WebhookSecret"))),
                    ],
                ),
                json!({"url": "https://example.com/hooks"}),
            )
            .answers(
                StatusCode::CREATED,
                "The endpoint, with its secret.",
                object([("webhook", named("WebhookWithSecret"))]),
                json!({"webhook": examples::webhook_with_secret()}),
            )
            .leads_to(
                &[
                    "readWebhook",
                    "changeWebhook",
                    "removeWebhook",
                    "rotateWebhookSecret",
                    "testWebhook",
                    "listDeliveries",
                ],
                "id",
                "/webhook/id",
            )
    });

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

    describe!(read, |it| it
        .is("readWebhook", "Webhooks", "Tells of an endpoint")
        .answers(
            StatusCode::OK,
            "The endpoint.",
            object([("webhook", named("Webhook"))]),
            json!({"webhook": examples::webhook()}),
        )
        .fails(&[ErrorCode::NotFound]));

    pub(in crate::api) async fn read(
        State(api): State<Api>,
        _: Operator,
        Named(raw): Named,
    ) -> Result<Json<Value>, Failure> {
        let endpoint = api.quota().endpoint(id(&raw)?).await.map_err(failed)?;
        Ok(Json(json!({"webhook": shown(&endpoint)})))
    }

    describe!(change, |it| it
        .is("changeWebhook", "Webhooks", "Changes an endpoint")
        .about("Fields that are left out stay as they are.")
        .takes(
            options([
                ("url", or_null(named("WebhookUrl"))),
                ("events", named("WebhookEvents")),
                ("description", json!({"type": ["string", "null"], "maxLength": 500})),
                ("active", flag()),
            ]),
            json!({"active": false}),
        )
        .answers(
            StatusCode::OK,
            "The endpoint.",
            object([("webhook", named("Webhook"))]),
            json!({"webhook": examples::webhook()}),
        )
        .fails(&[ErrorCode::NotFound]));

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

    describe!(remove, |it| it
        .is("removeWebhook", "Webhooks", "Deletes an endpoint")
        .answers(StatusCode::OK, "Which.", object([("deleted", uuid())]), json!({"deleted": examples::id()}),)
        .fails(&[ErrorCode::NotFound]));

    pub(in crate::api) async fn remove(
        State(api): State<Api>,
        Operator(caller): Operator,
        Named(raw): Named,
    ) -> Result<Json<Value>, Failure> {
        let id = id(&raw)?;
        api.quota().admin(caller.actor).remove_endpoint(id).await.map_err(failed)?;
        Ok(Json(json!({"deleted": id})))
    }

    describe!(rotate, |it| it
        .is("rotateWebhookSecret", "Webhooks", "Gives an endpoint another secret")
        .about("A new one, or that of the body. The one before signs for a day more.")
        .takes(options([("secret", or_null(named("WebhookSecret")))]), json!({}))
        .answers(
            StatusCode::OK,
            "The endpoint, with its secret.",
            object([("webhook", named("WebhookWithSecret"))]),
            json!({"webhook": examples::webhook_with_secret()}),
        )
        .fails(&[ErrorCode::NotFound]));

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

    describe!(test, |it| it
        .is("testWebhook", "Webhooks", "Sends an endpoint the event `quota.test`")
        .answers(
            StatusCode::ACCEPTED,
            "Which notice is on its way.",
            object([("notice", uuid())]),
            json!({"notice": examples::id()}),
        )
        .fails(&[ErrorCode::NotFound]));

    pub(in crate::api) async fn test(
        State(api): State<Api>,
        Operator(caller): Operator,
        Named(raw): Named,
    ) -> Result<Response, Failure> {
        let notice = api.quota().admin(caller.actor).test_endpoint(id(&raw)?).await.map_err(failed)?;
        Ok((StatusCode::ACCEPTED, Json(json!({"notice": notice}))).into_response())
    }

    describe!(deliveries, |it| it
        .is("listDeliveries", "Webhooks", "Lists what was sent to an endpoint, and what came of it")
        .query("status", one_of(["pending", "delivered", "dead"]), "Only those.")
        .query("cursor", uuid(), "What came as `next`.")
        .query("limit", most(), "At most so many.")
        .answers(
            StatusCode::OK,
            "The latest first.",
            page("deliveries", "Delivery", uuid()),
            json!({"deliveries": [examples::delivery()], "next": null}),
        )
        .leads_to(&["replayDelivery"], "delivery", "/deliveries/0/id")
        .fails(&[ErrorCode::NotFound]));

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

    describe!(replay, |it| it
        .is("replayDelivery", "Webhooks", "Makes a delivery that has ended once more")
        .answers(StatusCode::ACCEPTED, "Which.", object([("replayed", uuid())]), json!({"replayed": examples::id()}),)
        .fails(&[ErrorCode::NotFound]));

    pub(in crate::api) async fn replay(
        State(api): State<Api>,
        Operator(caller): Operator,
        NamedTwice(endpoint, delivery): NamedTwice,
    ) -> Result<Response, Failure> {
        let (endpoint, delivery) = (id(&endpoint)?, id(&delivery)?);
        api.quota().admin(caller.actor).replay(&endpoint.to_string(), delivery).await.map_err(failed)?;
        Ok((StatusCode::ACCEPTED, Json(json!({"replayed": delivery}))).into_response())
    }
}

#[cfg(feature = "webhooks")]
pub(super) use webhooks::{add, change, deliveries, list, read, remove, replay, rotate, test};

#[cfg(feature = "email")]
describe!(contacts, |it| it
    .is("readContacts", "Contacts", "Tells where the admins of a workspace are written to")
    .answers(
        StatusCode::OK,
        "Their e-mail addresses.",
        object([("workspaceId", named("WorkspaceId")), ("emails", list(text()))]),
        json!({"workspaceId": "acme", "emails": ["ann@example.com"]}),
    ));

#[cfg(feature = "email")]
pub(super) async fn contacts(State(api): State<Api>, Admin { workspace, .. }: Admin) -> Result<Json<Value>, Failure> {
    let emails = api.quota().contacts(&workspace).await.map_err(beyond)?;
    Ok(Json(json!({"workspaceId": workspace.as_str(), "emails": emails})))
}

#[cfg(feature = "email")]
describe!(set_contacts, |it| it
    .is("setContacts", "Contacts", "Sets where the admins of a workspace are written to")
    .takes(
        object([(
            "emails",
            json!({
                "type": "array",
                "items": {"type": "string", "format": "email"},
                "maxItems": Admin::MOST_CONTACTS,
            }),
        )]),
        json!({"emails": ["ann@example.com"]}),
    )
    .answers(
        StatusCode::OK,
        "As they are now.",
        object([("workspaceId", named("WorkspaceId")), ("emails", list(text()))]),
        json!({"workspaceId": "acme", "emails": ["ann@example.com"]}),
    ));

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

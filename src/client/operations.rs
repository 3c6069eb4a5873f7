//! The operations of the API.

use http::Method;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::QuotaClient;
use super::answers::{
    Analytics, AuditList, CleanupResult, DeliveryList, Enforcement, Health, ImportStep, Named, NamedPlan, QuotaStatus,
    QuotaUpdate, ReadinessReport, Recalculation, RequestList, ShadowStatus, TallySet, Validation, Webhook,
    WorkspaceSettings,
};
use super::error::ClientError;
use super::transport::{Call, Reply};
use crate::engine::SystemStatus;
use crate::events::DeliveryStatus;
use crate::insight::Period;
use crate::limit::Limit;
use crate::mode::EnforcementMode;
use crate::policy::{Grace, IncreaseRequest, RequestStatus, TemporaryOverride};

/// What of a workspace's settings is to be changed; all else stays.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SettingsChange(Map<String, Value>);

impl SettingsChange {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn set(mut self, field: &str, value: Value) -> Self {
        self.0.insert(field.to_owned(), value);
        self
    }

    fn set_in(mut self, field: &str, name: &str, value: Value) -> Self {
        if let Some(fields) = self.0.entry(field).or_insert_with(|| json!({})).as_object_mut() {
            fields.insert(name.to_owned(), value);
        }
        self
    }

    /// Its plan; `None` for none.
    #[must_use]
    pub fn plan(self, name: Option<&str>) -> Self {
        self.set("plan", json!(name))
    }

    /// The workspace above it; `None` for none.
    #[must_use]
    pub fn parent(self, workspace: Option<&str>) -> Self {
        self.set("parent", json!(workspace))
    }

    /// The share of its parent's limit of `resource_type`, in percent; `None` for none.
    #[must_use]
    pub fn share(self, resource_type: &str, percent: Option<u32>) -> Self {
        self.set_in("shares", resource_type, json!(percent))
    }

    /// How many rows of `resource_type` it and all below it may have together.
    #[must_use]
    pub fn cap(self, resource_type: &str, cap: Limit) -> Self {
        self.set_in("caps", resource_type, json!(cap))
    }

    /// Its enforcement mode; `None` for that of all.
    #[must_use]
    pub fn mode(self, mode: Option<EnforcementMode>) -> Self {
        self.set("mode", json!(mode))
    }

    /// Its enforcement mode for `resource_type`; `None` for its own.
    #[must_use]
    pub fn mode_of(self, resource_type: &str, mode: Option<EnforcementMode>) -> Self {
        self.set_in("modes", resource_type, json!(mode))
    }

    /// Its grace; `None` for that of the server.
    #[must_use]
    pub fn grace(self, grace: Option<&Grace>) -> Self {
        self.set("grace", json!(grace))
    }

    /// Why, for the audit log.
    #[must_use]
    pub fn reason(self, reason: &str) -> Self {
        self.set("reason", json!(reason))
    }
}

/// Which audit entries; all where nothing is said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditQuery {
    /// About this workspace; `None` for all of them, which takes an admin of all.
    pub workspace: Option<String>,
    /// About this resource type.
    pub resource_type: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// What came as `next` with the page before.
    pub cursor: Option<String>,
    /// At most so many; the server's 100 where nothing is said.
    pub limit: Option<u32>,
}

/// How an import goes about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportStart {
    /// Limits as a percentage of usage; the server's 120 where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// The least limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<u64>,
    /// Whether limits that are there may be lowered.
    pub allow_lowering: bool,
    /// Whether limits are set, and not only proposed.
    pub apply: bool,
    /// The name under which a run that was broken off goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only workspaces behind this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// From when to when, and how fine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrendQuery {
    /// The first day.
    pub start: Option<Date>,
    /// The last day.
    pub end: Option<Date>,
    /// `hour`, `day`, `week` or `month`; days where nothing is said.
    pub granularity: Option<String>,
}

impl TrendQuery {
    /// The last `days` days up to today (UTC), by day.
    pub fn last_days(days: i64) -> Self {
        let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
        let before = Span::new().try_days(days.saturating_sub(1).max(0)).unwrap_or_default();
        Self { start: Some(today.saturating_sub(before)), end: Some(today), granularity: None }
    }
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportFormat {
    /// CSV, as in RFC 4180.
    #[default]
    Csv,
    /// JSON.
    Json,
}

impl ReportFormat {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }
}

/// What of an endpoint is to be set; all else stays, or is what the server takes by default.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookChange {
    /// Where requests go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Of which workspace's events it is told, where it is made; `None` for those of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<String>,
    /// What it is told of: `quota.warning`, `quota.exceeded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it is sent anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// The key that deliveries are signed with, where it is made; the server makes one where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl std::fmt::Debug for WebhookChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // All but the secret.
        f.debug_struct("WebhookChange").field("url", &self.url).field("events", &self.events).finish_non_exhaustive()
    }
}

/// The value of the one field that an answer has.
fn field<T: DeserializeOwned>(reply: &Reply, name: &str) -> Result<T, ClientError> {
    let mut fields: Map<String, Value> = reply.json()?;
    let value = fields.remove(name).unwrap_or_default();
    serde_json::from_value(value).map_err(|error| {
        let message = format!("the server's answer has no `{name}` that can be read: its version may be another");
        ClientError::unreadable(message).with_source(error)
    })
}

/// A call on the quota of a workspace.
fn of(method: Method, workspace: &str, below: &[&str]) -> Call {
    Call::new(method, &[&["workspaces", workspace, "quota"], below].concat())
}

fn system(method: Method, below: &[&str]) -> Call {
    Call::new(method, &[&["system"], below].concat())
}

fn given(fields: &[(&str, Value)]) -> Value {
    let fields = fields.iter().filter(|(_, value)| !value.is_null());
    Value::Object(fields.map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

/// The operations. All fail with a [`ClientError`]; the least that each of them takes is in the documentation of
/// `QuotaApi`.
#[expect(clippy::missing_errors_doc, reason = "all fail for the same reasons: see above")]
impl QuotaClient {
    async fn send(&self, call: Call) -> Result<Reply, ClientError> {
        self.transport.send(call).await
    }

    /// Limits and usage of a workspace, and why limits are what they are.
    pub async fn quota(&self, workspace: &str) -> Result<QuotaStatus, ClientError> {
        let reply = self.send(of(Method::GET, workspace, &[]).query("explain", Some(true))).await?;
        Ok(QuotaStatus { etag: reply.etag(), ..reply.json()? })
    }

    /// Sets limits, by limit field; those that aren't named stay. With `if_match`, only as long as the record has this tag.
    pub async fn set_limits(
        &self,
        workspace: &str,
        limits: &Named<Limit>,
        if_match: Option<&str>,
        reason: Option<&str>,
    ) -> Result<QuotaUpdate, ClientError> {
        let mut body = json!(limits);
        if let Some(reason) = reason {
            body["reason"] = json!(reason);
        }
        let reply = self.send(of(Method::PUT, workspace, &[]).if_match(if_match).body(body)).await?;
        Ok(QuotaUpdate { etag: reply.etag(), ..reply.json()? })
    }

    /// Takes a workspace's own limit back: what comes after it counts.
    pub async fn clear_limit(&self, workspace: &str, resource_type: &str) -> Result<QuotaUpdate, ClientError> {
        let reply = self.send(of(Method::DELETE, workspace, &["limits", resource_type])).await?;
        Ok(QuotaUpdate { etag: reply.etag(), ..reply.json()? })
    }

    /// Deletes the record of a workspace: the defaults are in force. What it has of its own goes as well: its webhooks with
    /// their deliveries, contacts, thresholds that it had reached, and snapshots. Its rows, requests and audit log stay.
    pub async fn delete_quota(&self, workspace: &str) -> Result<(), ClientError> {
        self.send(of(Method::DELETE, workspace, &[])).await.map(drop)
    }

    /// Sets limits of many workspaces, all or none.
    pub async fn set_limits_of_all(
        &self,
        workspaces: &[String],
        limits: &Named<Limit>,
        reason: Option<&str>,
    ) -> Result<u64, ClientError> {
        let body = given(&[("workspaces", json!(workspaces)), ("limits", json!(limits)), ("reason", json!(reason))]);
        field(&self.send(system(Method::PUT, &["quotas"]).body(body)).await?, "updated")
    }

    /// Asks whether `increment` more rows would be admitted. A refusal is an error, [with its
    /// evidence](ClientError::quota_exceeded).
    pub async fn validate(
        &self,
        workspace: &str,
        resource_type: &str,
        increment: u64,
    ) -> Result<Validation, ClientError> {
        let body = json!({"resourceType": resource_type, "increment": increment});
        self.send(of(Method::POST, workspace, &["validate"]).body(body)).await?.json()
    }

    /// Counts the rows of a workspace anew. With `dry_run`, it is only told what would be corrected.
    pub async fn recalculate(&self, workspace: &str, dry_run: bool) -> Result<Recalculation, ClientError> {
        let call = of(Method::POST, workspace, &["recalculate"]).query("dryRun", dry_run.then_some(true));
        self.send(call).await?.json()
    }

    /// Sets how many rows a workspace has of resource types that the ledger alone counts.
    pub async fn set_tally(
        &self,
        workspace: &str,
        rows: &Named<u64>,
        reason: Option<&str>,
    ) -> Result<TallySet, ClientError> {
        let body = given(&[("rows", json!(rows)), ("reason", json!(reason))]);
        self.send(of(Method::PUT, workspace, &["tally"]).body(body)).await?.json()
    }

    fn settings_of(reply: &Reply) -> Result<WorkspaceSettings, ClientError> {
        Ok(WorkspaceSettings { etag: reply.etag(), ..field(reply, "settings")? })
    }

    /// What is set for a workspace beside its limits.
    pub async fn settings(&self, workspace: &str) -> Result<WorkspaceSettings, ClientError> {
        Self::settings_of(&self.send(of(Method::GET, workspace, &["settings"])).await?)
    }

    /// Changes what is set for a workspace beside its limits.
    pub async fn change_settings(
        &self,
        workspace: &str,
        change: &SettingsChange,
        if_match: Option<&str>,
    ) -> Result<WorkspaceSettings, ClientError> {
        let call = of(Method::PUT, workspace, &["settings"]).if_match(if_match).body(json!(change.0));
        Self::settings_of(&self.send(call).await?)
    }

    /// The temporary overrides of a workspace.
    pub async fn overrides(&self, workspace: &str) -> Result<Vec<TemporaryOverride>, ClientError> {
        field(&self.send(of(Method::GET, workspace, &["overrides"])).await?, "overrides")
    }

    /// Makes a temporary override; its id and who made it are the server's to tell.
    pub async fn add_override(
        &self,
        workspace: &str,
        temporary: &TemporaryOverride,
    ) -> Result<TemporaryOverride, ClientError> {
        let body = json!({
            "resourceType": temporary.resource_type,
            "limit": temporary.limit,
            "startsAt": temporary.starts_at,
            "expiresAt": temporary.expires_at,
            "reason": temporary.reason,
        });
        field(&self.send(of(Method::POST, workspace, &["overrides"]).body(body)).await?, "override")
    }

    /// Ends a temporary override.
    pub async fn end_override(&self, workspace: &str, id: &str) -> Result<QuotaUpdate, ClientError> {
        let reply = self.send(of(Method::DELETE, workspace, &["overrides", id])).await?;
        Ok(QuotaUpdate { etag: reply.etag(), ..reply.json()? })
    }

    /// Requests for more, the newest first: of a workspace, or of all, which takes an admin of all.
    pub async fn requests(
        &self,
        workspace: Option<&str>,
        status: Option<RequestStatus>,
        cursor: Option<&str>,
        limit: Option<u32>,
    ) -> Result<RequestList, ClientError> {
        let call = match workspace {
            Some(workspace) => of(Method::GET, workspace, &["requests"]),
            None => system(Method::GET, &["quota-requests"]),
        };
        let call = call.query("status", status.map(RequestStatus::as_str)).query("cursor", cursor);
        self.send(call.query("limit", limit)).await?.json()
    }

    /// Asks for `amount` more rows of `resource_type`.
    pub async fn request_increase(
        &self,
        workspace: &str,
        resource_type: &str,
        amount: u64,
        reason: &str,
    ) -> Result<IncreaseRequest, ClientError> {
        let body = json!({"resourceType": resource_type, "amount": amount, "reason": reason});
        field(&self.send(of(Method::POST, workspace, &["requests"]).body(body)).await?, "request")
    }

    async fn decide(&self, workspace: &str, id: &str, what: &str, body: Value) -> Result<IncreaseRequest, ClientError> {
        let reply = self.send(of(Method::POST, workspace, &["requests", id, what]).body(body)).await?;
        field(&reply, "request")
    }

    /// Approves a request, for good or until `expires_at`.
    pub async fn approve(
        &self,
        workspace: &str,
        id: &str,
        note: Option<&str>,
        expires_at: Option<Timestamp>,
    ) -> Result<IncreaseRequest, ClientError> {
        let body = given(&[("note", json!(note)), ("expiresAt", json!(expires_at))]);
        self.decide(workspace, id, "approve", body).await
    }

    /// Denies a request.
    pub async fn deny(&self, workspace: &str, id: &str, note: Option<&str>) -> Result<IncreaseRequest, ClientError> {
        self.decide(workspace, id, "deny", given(&[("note", json!(note))])).await
    }

    /// Withdraws a request.
    pub async fn withdraw(&self, workspace: &str, id: &str) -> Result<IncreaseRequest, ClientError> {
        self.decide(workspace, id, "withdraw", json!({})).await
    }

    /// Audit entries, the newest first.
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditList, ClientError> {
        let call = match &query.workspace {
            Some(workspace) => of(Method::GET, workspace, &["audit"]),
            None => system(Method::GET, &["quota-audit"]),
        };
        let call = call
            .query("resourceType", query.resource_type.as_deref())
            .query("since", query.since)
            .query("until", query.until)
            .query("cursor", query.cursor.as_deref())
            .query("limit", query.limit);
        self.send(call).await?.json()
    }

    /// All plans.
    pub async fn plans(&self) -> Result<Vec<NamedPlan>, ClientError> {
        field(&self.send(Call::new(Method::GET, &["plans"])).await?, "plans")
    }

    /// A plan.
    pub async fn plan(&self, name: &str) -> Result<NamedPlan, ClientError> {
        field(&self.send(Call::new(Method::GET, &["plans", name])).await?, "plan")
    }

    /// Makes a plan, or sets all of its limits. With `if_match`, only as long as it has this tag.
    pub async fn put_plan(
        &self,
        name: &str,
        limits: &Named<Limit>,
        if_match: Option<&str>,
    ) -> Result<NamedPlan, ClientError> {
        let call = Call::new(Method::PUT, &["plans", name]).if_match(if_match).body(json!({"limits": limits}));
        field(&self.send(call).await?, "plan")
    }

    /// Deletes a plan that no workspace has.
    pub async fn delete_plan(&self, name: &str) -> Result<(), ClientError> {
        self.send(Call::new(Method::DELETE, &["plans", name])).await.map(drop)
    }

    /// Removes rows of `resource_type` above the limit, or tells which these are.
    pub async fn clean(
        &self,
        workspace: &str,
        resource_type: &str,
        dry_run: bool,
        batch: Option<u64>,
    ) -> Result<CleanupResult, ClientError> {
        let body =
            given(&[("resourceType", json!(resource_type)), ("dryRun", json!(dry_run)), ("batch", json!(batch))]);
        self.send(of(Method::POST, workspace, &["cleanup"]).body(body)).await?.json()
    }

    /// Some steps of an import; call it again, with the same name or behind `summary.after`, until `summary.done`.
    pub async fn import(&self, start: &ImportStart) -> Result<ImportStep, ClientError> {
        self.send(system(Method::POST, &["quota-import"]).body(json!(start))).await?.json()
    }

    /// Whom enforcement would refuse.
    pub async fn readiness(&self) -> Result<ReadinessReport, ClientError> {
        self.send(system(Method::GET, &["quota-readiness"])).await?.json()
    }

    /// How the set-up stands: its tables, and the processes that enforce limits.
    pub async fn status(&self) -> Result<SystemStatus, ClientError> {
        self.send(system(Method::GET, &["quota-status"])).await?.json()
    }

    /// What limits that are tried out would have refused so far.
    pub async fn shadow(&self) -> Result<ShadowStatus, ClientError> {
        self.send(system(Method::GET, &["quota-shadow"])).await?.json()
    }

    /// Tries limits out, everywhere or in some workspaces.
    pub async fn start_shadow(
        &self,
        limits: &Named<Limit>,
        workspaces: Option<&[String]>,
    ) -> Result<ShadowStatus, ClientError> {
        let body = given(&[("limits", json!(limits)), ("workspaces", json!(workspaces))]);
        self.send(system(Method::PUT, &["quota-shadow"]).body(body)).await?.json()
    }

    /// Ends that, and tells what was refused.
    pub async fn stop_shadow(&self) -> Result<ShadowStatus, ClientError> {
        self.send(system(Method::DELETE, &["quota-shadow"])).await?.json()
    }

    /// How limits are enforced.
    pub async fn enforcement(&self) -> Result<Enforcement, ClientError> {
        self.send(system(Method::GET, &["config", "quota-enforcement"])).await?.json()
    }

    /// Sets the mode of all, and modes of resource types (`None` for that of all).
    pub async fn set_enforcement(
        &self,
        mode: Option<EnforcementMode>,
        types: &Named<Option<EnforcementMode>>,
    ) -> Result<Enforcement, ClientError> {
        let mut body = given(&[("mode", json!(mode))]);
        if !types.is_empty() {
            body["types"] = json!(types);
        }
        self.send(system(Method::PUT, &["config", "quota-enforcement"]).body(body)).await?.json()
    }

    /// Whether the server's store answers.
    pub async fn health(&self) -> Result<Health, ClientError> {
        let reply = self.transport.exchange(system(Method::GET, &["health"])).await?;
        // What is no answer of the API is an error, whatever its status.
        let status: String = field(&reply, "status")?;
        Ok(Health { ok: reply.status().is_success() && status == "ok", date: reply.date() })
    }

    /// All endpoints for notices.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, ClientError> {
        field(&self.send(system(Method::GET, &["webhooks"])).await?, "webhooks")
    }

    /// An endpoint.
    pub async fn webhook(&self, id: &str) -> Result<Webhook, ClientError> {
        field(&self.send(system(Method::GET, &["webhooks", id])).await?, "webhook")
    }

    /// Makes an endpoint. Its secret is told this once.
    pub async fn add_webhook(&self, new: &WebhookChange) -> Result<Webhook, ClientError> {
        field(&self.send(system(Method::POST, &["webhooks"]).body(json!(new))).await?, "webhook")
    }

    /// Changes an endpoint.
    pub async fn change_webhook(&self, id: &str, change: &WebhookChange) -> Result<Webhook, ClientError> {
        field(&self.send(system(Method::PUT, &["webhooks", id]).body(json!(change))).await?, "webhook")
    }

    /// Deletes an endpoint.
    pub async fn delete_webhook(&self, id: &str) -> Result<(), ClientError> {
        self.send(system(Method::DELETE, &["webhooks", id])).await.map(drop)
    }

    /// Gives an endpoint a new secret, which is told this once: the server makes one where none is given.
    pub async fn rotate_webhook_secret(&self, id: &str, secret: Option<&str>) -> Result<Webhook, ClientError> {
        let body = given(&[("secret", json!(secret))]);
        field(&self.send(system(Method::POST, &["webhooks", id, "secret"]).body(body)).await?, "webhook")
    }

    /// Sends a `quota.test` to an endpoint; answers the notice's id.
    pub async fn test_webhook(&self, id: &str) -> Result<Uuid, ClientError> {
        field(&self.send(system(Method::POST, &["webhooks", id, "test"])).await?, "notice")
    }

    /// Deliveries to an endpoint, the newest first.
    pub async fn deliveries(
        &self,
        id: &str,
        status: Option<DeliveryStatus>,
        cursor: Option<&str>,
        limit: Option<u32>,
    ) -> Result<DeliveryList, ClientError> {
        let call = system(Method::GET, &["webhooks", id, "deliveries"]);
        let call = call.query("status", status.map(|status| status.as_str())).query("cursor", cursor);
        self.send(call.query("limit", limit)).await?.json()
    }

    /// Makes a delivery again.
    pub async fn replay(&self, id: &str, delivery: &str) -> Result<(), ClientError> {
        self.send(system(Method::POST, &["webhooks", id, "deliveries", delivery, "replay"])).await.map(drop)
    }

    /// The e-mail addresses of a workspace's admins.
    pub async fn contacts(&self, workspace: &str) -> Result<Vec<String>, ClientError> {
        field(&self.send(of(Method::GET, workspace, &["contacts"])).await?, "emails")
    }

    /// Sets the e-mail addresses of a workspace's admins.
    pub async fn set_contacts(&self, workspace: &str, emails: &[String]) -> Result<Vec<String>, ClientError> {
        let call = of(Method::PUT, workspace, &["contacts"]).body(json!({"emails": emails}));
        field(&self.send(call).await?, "emails")
    }

    /// Usage over time, and when it will reach the limits.
    pub async fn analytics(&self, workspace: &str, query: &TrendQuery) -> Result<Analytics, ClientError> {
        let call = of(Method::GET, workspace, &["analytics"])
            .query("startDate", query.start)
            .query("endDate", query.end)
            .query("granularity", query.granularity.as_deref());
        self.send(call).await?.json()
    }

    /// A report, as the server writes it: of a workspace, or of all, which takes an admin of all.
    pub async fn report(
        &self,
        workspace: Option<&str>,
        format: ReportFormat,
        period: Period,
    ) -> Result<Vec<u8>, ClientError> {
        let call = match workspace {
            Some(workspace) => of(Method::GET, workspace, &["report"]),
            None => system(Method::GET, &["quota-report"]),
        };
        let call = call.query("format", Some(format.as_str())).query("period", Some(period.as_str()));
        Ok(self.send(call).await?.report()?.into())
    }
}

//! What the server answers, where the crate has no type for it that knows more.
//!
//! Fields that a newer server adds are passed over.

use std::fmt;
use std::marker::PhantomData;

use jiff::Timestamp;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::engine::ImportSummary;
use crate::events::{Attempt, DeliveryStatus, EndpointStatus, EventKind};
use crate::limit::Limit;
use crate::mode::{EnforcementMode, ModeSource, Promise};
use crate::policy::{AuditEntry, IncreaseRequest, Settings};
use crate::usage::CleanupPolicy;

/// Values by name, in the server's order: of resource types, or of limit fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named<T>(Vec<(String, T)>);

impl<T> Named<T> {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Names and values.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The names.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<N: Into<String>, T> FromIterator<(N, T)> for Named<T> {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(values: I) -> Self {
        Self(values.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Named(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// A quota record, with the limits that are in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "RawQuota")]
#[non_exhaustive]
pub struct WorkspaceQuota {
    /// The id of the record.
    pub id: String,
    /// Whose it is.
    pub workspace_id: String,
    /// The limits, by limit field: `maxSegments` and so on.
    #[serde(flatten)]
    pub limits: Named<Limit>,
    /// When it was made (UTC).
    pub created_at: Timestamp,
    /// When it was last changed (UTC).
    pub updated_at: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawQuota {
    id: String,
    workspace_id: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(flatten)]
    rest: Named<Value>,
}

impl From<RawQuota> for WorkspaceQuota {
    fn from(raw: RawQuota) -> Self {
        let RawQuota { id, workspace_id, created_at, updated_at, rest } = raw;
        // What else a server may tell of a record is no limit, or the one field that is a number and none.
        let limits = rest.0.into_iter().filter(|(field, _)| field != "version");
        let limits = limits.filter_map(|(field, value)| Some((field, Limit::from_json(&value).ok()?))).collect();
        Self { id, workspace_id, limits, created_at, updated_at }
    }
}

/// Limits, usage, and why limits are what they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct QuotaStatus {
    /// The record.
    pub quota: WorkspaceQuota,
    /// Rows that exist, by resource type.
    pub usage: Named<u64>,
    /// Usage in whole percent of the limit, rounded down, by resource type.
    pub percentages: Named<u64>,
    /// Why the limit is what it is, by resource type.
    #[serde(default)]
    pub explain: Named<Explained>,
    /// What `If-Match` takes, to change the record only as long as it is this.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// Why a limit is what it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Explained {
    /// The limit in force.
    pub limit: Limit,
    /// Where it comes from: `temporaryOverride`, `override`, `plan`, `inherited` or `default`.
    pub source: String,
    /// All that say something about it, the one that counts first: objects with `source` and `limit`, and what belongs to the
    /// source.
    #[serde(default)]
    pub trace: Vec<Value>,
    /// The caps above it: objects with `workspaceId`, `cap` and `exceeded`.
    #[serde(default)]
    pub caps: Vec<Value>,
    /// The grace that it has now: `limit` and `endsAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Value>,
}

/// A record that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct QuotaUpdate {
    /// The record as it is now.
    pub quota: WorkspaceQuota,
    /// What may not be as it was meant, such as a limit below usage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What `If-Match` takes, to change the record only as long as it is this.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// Whether a creation would be admitted. It is advice: only the layer's own reservation makes a creation safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Validation {
    /// Whether it would pass, in the mode in force.
    pub allowed: bool,
    /// Rows that exist.
    pub current_usage: u64,
    /// The limit in force.
    pub limit: Limit,
    /// How many more rows it leaves; `None` without a limit.
    pub remaining: Option<u64>,
    /// Usage in whole percent of the limit, rounded down.
    pub percent_used: u64,
    /// Whether it would be over the limit.
    pub would_exceed: bool,
    /// Units of requests in flight, where only those stand in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<u64>,
}

/// What a recount has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Recalculation {
    /// Of which workspace.
    pub workspace_id: String,
    /// Rows, by resource type.
    pub usage: Named<u64>,
    /// Where something else was believed.
    pub corrections: Vec<CountDrift>,
    /// When (UTC).
    pub recalculated_at: Timestamp,
}

/// A count that was believed and was not so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CountDrift {
    /// Of what.
    pub resource_type: String,
    /// What was believed.
    pub cached: u64,
    /// What there is.
    pub actual: u64,
    /// `actual - cached`.
    pub drift: i128,
}

/// What a tally was set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TallySet {
    /// Of which workspace.
    pub workspace_id: String,
    /// Rows that the ledger had before, by resource type.
    pub before: Named<u64>,
    /// Rows that it has now.
    pub rows: Named<u64>,
}

/// What is set for a workspace beside its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct WorkspaceSettings {
    /// Its plan.
    #[serde(default)]
    pub plan: Option<String>,
    /// The workspace above it.
    #[serde(default)]
    pub parent: Option<String>,
    /// All else.
    #[serde(flatten)]
    pub settings: Settings,
    /// What `If-Match` takes, to change the record only as long as it is this.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// A named set of limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct NamedPlan {
    /// Its name.
    pub name: String,
    /// 1 when made, and one more with every change.
    pub version: u64,
    /// Its limits, by limit field.
    pub limits: Named<Limit>,
    /// When it was made (UTC).
    pub created_at: Timestamp,
    /// When it was last changed (UTC).
    pub updated_at: Timestamp,
}

/// Some requests for more, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RequestList {
    /// The requests.
    pub requests: Vec<IncreaseRequest>,
    /// The cursor of the next page; `None` at the end.
    #[serde(default)]
    pub next: Option<String>,
}

/// Some audit entries, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AuditList {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// The cursor of the next page; `None` at the end.
    #[serde(default)]
    pub next: Option<String>,
}

/// How limits are enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Enforcement {
    /// The mode of all.
    pub mode: EnforcementMode,
    /// Where it came from.
    pub source: ModeSource,
    /// What is promised of limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<Promise>,
    /// Modes of resource types.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub types: Named<EnforcementMode>,
}

/// Some steps of an import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImportStep {
    /// How far the run has come.
    pub summary: ImportSummary,
    /// What was proposed in these steps, up to 200.
    pub proposals: Vec<ImportProposal>,
}

/// A limit by what a workspace has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImportProposal {
    /// For whom.
    pub workspace_id: String,
    /// Of what.
    pub resource_type: String,
    /// Rows that exist.
    pub usage: u64,
    /// The limit that there is: a number, `null` for unlimited, or `unset`.
    pub existing: Value,
    /// The limit that is proposed.
    pub proposed: Limit,
    /// Whether it takes the place of what there is.
    pub taken: bool,
}

/// Whom enforcement would refuse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ReadinessReport {
    /// Workspaces that have rows.
    pub workspaces: u64,
    /// Whether anybody would be refused.
    pub would_refuse: bool,
    /// By resource type.
    pub types: Named<TypeCounts>,
}

/// Workspaces at or above their limit of a resource type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TypeCounts {
    /// At the limit.
    pub full: u64,
    /// Above it.
    pub over: u64,
}

/// What limits that are tried out would have refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ShadowStatus {
    /// Since when they are (UTC).
    pub since: Timestamp,
    /// Creations that were looked at.
    pub evaluated: u64,
    /// How many of them would have been refused.
    pub would_refuse: u64,
    /// To whom.
    pub workspaces: Vec<ShadowOf>,
}

/// What limits that are tried out would have refused to one workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ShadowOf {
    /// To whom.
    pub workspace_id: String,
    /// Of what.
    pub resource_type: String,
    /// How often.
    pub refusals: u64,
    /// Rows at the last of them.
    pub usage: u64,
    /// The limit that is tried out.
    pub limit: Limit,
}

/// What a clean-up has done, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CleanupResult {
    /// Of what.
    pub resource_type: String,
    /// What becomes of the rows.
    pub policy: CleanupPolicy,
    /// Whether it only tells.
    pub dry_run: bool,
    /// Rows above the limit.
    pub above: u64,
    /// Rows that were removed.
    pub removed: u64,
    /// The ids of those that were, or would be.
    pub rows: Vec<String>,
}

/// An endpoint for notices.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Webhook {
    /// Its id.
    pub id: Uuid,
    /// Of which workspace's events it is told; `None` for those of all.
    pub workspace_id: Option<String>,
    /// Where requests go.
    pub url: String,
    /// What it is told of.
    pub events: Vec<EventKind>,
    /// What it is for.
    pub description: String,
    /// Whether it is sent anything.
    pub status: EndpointStatus,
    /// How many deliveries have failed since the last that didn't.
    pub failures: u32,
    /// It has failed too often, and is sent nothing before this.
    pub paused_until: Option<Timestamp>,
    /// When it was made (UTC).
    pub created_at: Timestamp,
    /// When it was last changed by somebody (UTC).
    pub updated_at: Timestamp,
    /// The key that deliveries are signed with: only where it was just made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All but the secret.
        f.debug_struct("Webhook")
            .field("id", &self.id)
            .field("url", &self.url)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Some deliveries to an endpoint, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeliveryList {
    /// The deliveries.
    pub deliveries: Vec<WebhookDelivery>,
    /// The cursor of the next page; `None` at the end.
    #[serde(default)]
    pub next: Option<String>,
}

/// A notice on its way to an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct WebhookDelivery {
    /// Its id.
    pub id: Uuid,
    /// What is told; the `webhook-id`.
    pub notice: Uuid,
    /// What becomes of it.
    pub status: DeliveryStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next (UTC), as long as it is pending.
    #[serde(default)]
    pub next_at: Option<Timestamp>,
    /// The attempts.
    #[serde(default)]
    pub log: Vec<Attempt>,
    /// What is sent.
    #[serde(default)]
    pub body: Value,
}

/// Usage over time, and when it will reach the limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Analytics {
    /// Usage in each bucket of time, the oldest first.
    pub trends: Vec<Trend>,
    /// By resource type.
    #[serde(default)]
    pub forecast: Named<TypeForecast>,
}

/// Usage in one bucket of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Trend {
    /// Where the bucket begins: a date, or a time where buckets are hours.
    pub date: String,
    /// Rows, by resource type; `None` where they aren't known.
    pub usage: Named<Option<u64>>,
    /// Creations that were refused in it, by the resource types of which any were.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub refusals: Named<u64>,
    /// What else the server tells of it.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

/// When usage will reach the limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TypeForecast {
    /// The day on which it will.
    #[serde(default)]
    pub projected_date: Option<String>,
    /// Whole days until then, rounded up.
    #[serde(default)]
    pub days_until_limit: Option<u64>,
    /// Growth per day, as a part of current usage.
    #[serde(default)]
    pub growth_rate: Option<f64>,
    /// The day on which it may be at the earliest.
    #[serde(default)]
    pub earliest: Option<String>,
    /// The day on which it may be at the latest.
    #[serde(default)]
    pub latest: Option<String>,
    /// Why there is no day to come.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Whether the server can answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Whether its store answers.
    pub ok: bool,
    /// The time by its clock (UTC, whole seconds), where it tells it.
    pub date: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_record_are_told_from_what_else_is_in_it() {
        let text = r#"{"id":"i","workspaceId":"acme","maxZebras":3,"maxApes":null,"version":7,"label":"x",
            "createdAt":"2024-01-30T10:00:00Z","updatedAt":"2024-01-30T10:00:00Z"}"#;
        let quota: WorkspaceQuota = serde_json::from_str(text).unwrap();
        let limits: Vec<_> = quota.limits.iter().collect();
        assert_eq!(limits, [("maxZebras", &Limit::of(3)), ("maxApes", &Limit::Unlimited)]);
        let again: WorkspaceQuota = serde_json::from_str(&serde_json::to_string(&quota).unwrap()).unwrap();
        assert_eq!(again, quota);
    }

    #[test]
    fn analytics_of_other_servers_are_read() {
        let text = r#"{"trends":[{"date":"2024-01-01","usage":{"segments":30,"users":null},"carried":["users"]}],
            "forecast":{"segments":{"projectedDate":"2024-02-15","daysUntilLimit":45,"growthRate":0.02,"new":1},
            "users":{"projectedDate":null,"daysUntilLimit":null,"growthRate":null,"reason":"noGrowth"}}}"#;
        let analytics: Analytics = serde_json::from_str(text).unwrap();
        assert_eq!(analytics.trends[0].usage.get("segments"), Some(&Some(30)));
        assert_eq!(analytics.trends[0].other["carried"][0], "users");
        assert_eq!(analytics.forecast.get("segments").unwrap().days_until_limit, Some(45));
        assert_eq!(analytics.forecast.get("users").unwrap().reason.as_deref(), Some("noGrowth"));
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let text = r#"{"id":"0197e0a0-0000-7000-8000-000000000000","workspaceId":null,"url":"https://example.com","events":[],
            "description":"","status":"active","failures":0,"pausedUntil":null,"createdAt":"2024-01-30T10:00:00Z",
            "updatedAt":"2024-01-30T10:00:00Z","secret":"whsec_hidden"}"#;
        let webhook: Webhook = serde_json::from_str(text).unwrap();
        assert!(!format!("{webhook:?}").contains("hidden"));
    }
}

//! Schemas: small ones as functions, and those that have a name in the document. Resource types come from the catalog.

#![expect(clippy::needless_pass_by_value, reason = "descriptions are made in place")]

use serde_json::{Map, Value, json};

use crate::limit::Limit;
use crate::mode::EnforcementMode;
use crate::policy::{Grace, RequestStatus};
use crate::resource::ResourceCatalog;
use crate::workspace::WorkspaceId;

/// One that has a name.
pub(in crate::api) fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(in crate::api) fn text() -> Value {
    json!({"type": "string"})
}

pub(in crate::api) fn flag() -> Value {
    json!({"type": "boolean"})
}

pub(in crate::api) fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

#[cfg(feature = "insight")]
pub(in crate::api) fn date() -> Value {
    json!({"type": "string", "format": "date"})
}

pub(in crate::api) fn uuid() -> Value {
    json!({"type": "string", "format": "uuid"})
}

pub(in crate::api) fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

pub(in crate::api) fn integer(least: u64, most: u64) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

/// Why something is done, and the like: text that isn't blank.
pub(in crate::api) fn words() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 2000, "pattern": "\\S"})
}

pub(in crate::api) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
    json!({"type": "string", "enum": names.into_iter().collect::<Vec<_>>()})
}

/// The same, or null.
pub(in crate::api) fn or_null(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

pub(in crate::api) fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

/// An object that has all of these fields, and no others.
pub(in crate::api) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    with_optional(fields, [])
}

/// An object without other fields than these, which may all be missing.
pub(in crate::api) fn options<const N: usize>(fields: [(&str, Value); N]) -> Value {
    with_optional([], fields)
}

/// An object that has the first fields, may have the second, and has no others.
pub(in crate::api) fn with_optional<const N: usize, const M: usize>(
    required: [(&str, Value); N],
    optional: [(&str, Value); M],
) -> Value {
    let names: Vec<_> = required.iter().map(|(name, _)| (*name).to_owned()).collect();
    let fields: Map<String, Value> =
        required.into_iter().chain(optional).map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut object = json!({"type": "object", "properties": fields, "additionalProperties": false});
    if !names.is_empty() {
        object["required"] = names.into();
    }
    object
}

/// A page of a list: the entries, and where the next ones begin.
pub(in crate::api) fn page(field: &str, of: &str, cursor: Value) -> Value {
    object([(field, list(named(of))), ("next", or_null(cursor))])
}

/// How many entries of a list are answered at once.
pub(in crate::api) fn most() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": 1000, "default": 100})
}

/// An object with a field for each resource type, or for some.
fn by_type<'a>(fields: impl Iterator<Item = &'a str>, each: &Value, all: bool) -> Value {
    let names: Vec<_> = fields.collect();
    let fields: Map<_, _> = names.iter().map(|name| ((*name).to_owned(), each.clone())).collect();
    let mut object = json!({"type": "object", "properties": fields, "additionalProperties": false});
    if all {
        object["required"] = names.into();
    }
    object
}

/// The schemas that have a name.
pub(super) fn components(catalog: &ResourceCatalog) -> Map<String, Value> {
    let types = || catalog.iter().map(|resource| resource.name());
    let limits = || catalog.iter().map(|resource| resource.limit_field());
    let some = |each: Value| by_type(types(), &each, false);
    let mode = one_of(EnforcementMode::ALL.map(EnforcementMode::as_str));

    let mut quota = by_type(limits(), &named("Limit"), true);
    for (field, schema) in
        [("id", uuid()), ("workspaceId", named("WorkspaceId")), ("createdAt", time()), ("updatedAt", time())]
    {
        quota["properties"][field] = schema;
        if let Some(required) = quota["required"].as_array_mut() {
            required.push(field.into());
        }
    }

    // An operation says beside it which codes it has.
    let error = |standard: bool| {
        let mut error = with_optional(
            [("error", json!({"type": "string", "pattern": "^[A-Z_]+$"})), ("message", text())],
            [("details", json!({"type": "object"}))],
        );
        if standard {
            for (field, schema) in
                [("type", text()), ("title", text()), ("status", integer(400, 599)), ("detail", text())]
            {
                error["properties"][field] = schema;
                if let Some(required) = error["required"].as_array_mut() {
                    required.push(field.into());
                }
            }
        }
        error
    };

    let grace = object([
        ("enabled", flag()),
        ("percentage", integer(0, Grace::MAX_PERCENTAGE.into())),
        ("duration", integer(1, Grace::MAX_DURATION)),
        ("resources", list(named("ResourceType"))),
    ]);
    let settings = with_optional(
        [
            ("plan", or_null(named("PlanName"))),
            ("parent", or_null(named("WorkspaceId"))),
            // What is set for a type stays when the catalog loses it.
            ("shares", json!({"type": "object", "additionalProperties": integer(0, 100)})),
            ("caps", json!({"type": "object", "additionalProperties": named("Limit")})),
            ("mode", or_null(named("Mode"))),
            ("modes", json!({"type": "object", "additionalProperties": named("Mode")})),
            ("overrides", list(named("Override"))),
            ("grace", or_null(named("Grace"))),
        ],
        [(
            "graceUses",
            json!({"type": "object", "additionalProperties": object([
                ("startedAt", time()),
                ("endsAt", time()),
                ("percentage", count()),
            ])}),
        )],
    );
    let change = options([
        ("plan", or_null(named("PlanName"))),
        ("parent", or_null(named("WorkspaceId"))),
        ("shares", some(or_null(integer(0, 100)))),
        ("caps", some(named("Limit"))),
        ("mode", or_null(named("Mode"))),
        ("modes", named("ModesChange")),
        ("grace", or_null(named("Grace"))),
        ("reason", or_null(words())),
    ]);
    let mut update = by_type(limits(), &named("Limit"), false);
    update["properties"]["reason"] = or_null(words());

    let schemas = [
        (
            "Limit",
            json!({"type": ["integer", "null"], "minimum": 0, "maximum": Limit::MAX,
            "description": "How many rows there may be; null for unlimited."}),
        ),
        ("ResourceType", one_of(types())),
        (
            "WorkspaceId",
            json!({"type": "string", "minLength": 1, "maxLength": WorkspaceId::MAX_LEN,
            "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$"}),
        ),
        ("PlanName", json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"})),
        ("Mode", mode),
        ("Quota", quota),
        ("QuotaUpdate", update),
        ("Limits", by_type(limits(), &named("Limit"), false)),
        ("Counts", by_type(types(), &count(), true)),
        ("Tally", some(integer(0, Limit::MAX))),
        ("Modes", some(named("Mode"))),
        ("ModesChange", some(or_null(named("Mode")))),
        ("Explanation", some(named("Explained"))),
        ("Explained", explained()),
        ("Settings", settings),
        ("SettingsChange", change),
        ("Grace", grace),
        (
            "Plan",
            object([
                ("name", named("PlanName")),
                ("version", count()),
                ("limits", named("Limits")),
                ("createdAt", time()),
                ("updatedAt", time()),
            ]),
        ),
        (
            "Override",
            object([
                ("id", uuid()),
                ("resourceType", text()),
                ("limit", named("Limit")),
                ("startsAt", time()),
                ("expiresAt", time()),
                ("reason", text()),
                ("createdBy", text()),
            ]),
        ),
        (
            "IncreaseRequest",
            object([
                ("id", uuid()),
                ("workspaceId", named("WorkspaceId")),
                ("resourceType", text()),
                ("amount", integer(1, Limit::MAX)),
                ("reason", text()),
                ("status", one_of(RequestStatus::ALL.map(RequestStatus::as_str))),
                ("requestedBy", text()),
                ("createdAt", time()),
                ("decidedBy", or_null(text())),
                ("decidedAt", or_null(time())),
                ("note", or_null(text())),
                ("expiresAt", or_null(time())),
            ]),
        ),
        (
            "AuditEntry",
            object([
                ("seq", count()),
                ("at", time()),
                ("actor", text()),
                ("origin", text()),
                ("action", json!({"type": "string", "pattern": "^[a-z_]+$"})),
                ("workspaceId", or_null(text())),
                ("resourceType", or_null(text())),
                ("old", json!({"description": "What there was before."})),
                ("new", json!({"description": "What there is now."})),
                ("reason", or_null(text())),
            ]),
        ),
        (
            "Shadow",
            object([
                ("since", time()),
                ("evaluated", count()),
                ("wouldRefuse", count()),
                (
                    "workspaces",
                    list(object([
                        ("workspaceId", named("WorkspaceId")),
                        ("resourceType", named("ResourceType")),
                        ("refusals", count()),
                        ("usage", count()),
                        ("limit", named("Limit")),
                    ])),
                ),
            ]),
        ),
        (
            "Enforcement",
            with_optional(
                [
                    ("mode", named("Mode")),
                    ("source", one_of(["default", "environment", "code", "runtime"])),
                    ("promise", one_of(["exact", "bounded"])),
                ],
                [("types", named("Modes"))],
            ),
        ),
        ("Status", status()),
        ("AtLimit", object([("workspaceId", named("WorkspaceId")), ("usage", count()), ("limit", named("Limit"))])),
        (
            "Readiness",
            some(object([
                ("full", count()),
                ("over", count()),
                ("exempt", count()),
                ("worst", list(named("AtLimit"))),
                ("caps", object([("reached", count()), ("worst", list(named("AtLimit")))])),
            ])),
        ),
        ("Problem", error(false)),
        ("ProblemDetails", error(true)),
    ];
    let schemas = schemas.into_iter();
    #[cfg(feature = "insight")]
    let schemas = schemas.chain(insight());
    #[cfg(feature = "webhooks")]
    let schemas = schemas.chain(webhooks());
    schemas.map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// Where a limit comes from.
fn explained() -> Value {
    let sources = ["temporaryOverride", "override", "plan", "inherited", "default"];
    let step = with_optional(
        [("source", one_of(sources)), ("limit", named("Limit"))],
        [
            ("id", uuid()),
            ("expiresAt", time()),
            ("reason", text()),
            ("plan", named("PlanName")),
            ("parent", named("WorkspaceId")),
            ("percent", integer(0, 100)),
            ("parentLimit", named("Limit")),
        ],
    );
    let cap = object([("workspaceId", named("WorkspaceId")), ("cap", named("Limit")), ("exceeded", flag())]);
    with_optional(
        [("limit", named("Limit")), ("source", one_of(sources)), ("trace", list(step)), ("caps", list(cap))],
        [("grace", object([("limit", named("Limit")), ("endsAt", time())]))],
    )
}

/// Other processes may have other resource types than this one.
fn status() -> Value {
    let named_by_type = |each: Value| json!({"type": "object", "additionalProperties": each});
    let config = object([
        ("version", text()),
        ("schema", or_null(count())),
        ("mode", named("Mode")),
        ("modes", named_by_type(named("Mode"))),
        ("workspaceFormat", one_of(["verbatim", "lowercase", "uuid"])),
        ("types", named_by_type(object([("limitField", text()), ("defaultLimit", named("Limit"))]))),
    ]);
    let replica = object([
        ("id", or_null(uuid())),
        ("this", flag()),
        ("joinedAt", or_null(time())),
        ("seenAt", or_null(time())),
        ("config", or_null(config)),
    ]);
    let versions = object([("applied", count()), ("known", count())]);
    object([
        ("store", object([("kind", one_of(["sqlite", "postgres", "other"])), ("schema", or_null(versions))])),
        ("ledger", one_of(["process", "postgres"])),
        ("promise", one_of(["exact", "bounded"])),
        ("replicas", list(replica)),
    ])
}

#[cfg(feature = "insight")]
fn insight() -> [(&'static str, Value); 3] {
    use crate::insight::{ForecastReason, Period};

    // What was counted of a type that the catalog has lost is kept.
    let by_type = |each: Value| json!({"type": "object", "additionalProperties": each});
    let forecast = object([
        ("projectedDate", or_null(date())),
        ("daysUntilLimit", or_null(count())),
        ("growthRate", json!({"type": ["number", "null"]})),
        ("earliest", or_null(date())),
        ("latest", or_null(date())),
        ("reason", or_null(json!({"enum": ForecastReason::ALL}))),
    ]);
    let row = object([
        ("workspaceId", named("WorkspaceId")),
        ("period", one_of(Period::ALL.map(Period::as_str))),
        ("start", date()),
        ("end", date()),
        ("resourceType", named("ResourceType")),
        ("min", or_null(count())),
        ("max", or_null(count())),
        ("last", or_null(count())),
        ("limit", named("Limit")),
        ("percent", or_null(count())),
        ("refusals", or_null(count())),
        ("graceUses", or_null(count())),
        ("limitChanges", or_null(count())),
    ]);
    // An hour is named by its beginning.
    let trend = object([
        ("date", text()),
        ("usage", by_type(count())),
        ("refusals", by_type(count())),
        ("carried", list(named("ResourceType"))),
    ]);
    [("Trend", trend), ("Forecasts", by_type(forecast)), ("ReportRow", row)]
}

#[cfg(feature = "webhooks")]
fn webhooks() -> [(&'static str, Value); 6] {
    use crate::events::{DeliveryStatus, EventKind};

    let webhook = || {
        [
            ("id", uuid()),
            ("workspaceId", or_null(named("WorkspaceId"))),
            ("url", text()),
            ("events", list(one_of(EventKind::FILTERS.map(EventKind::as_str)))),
            ("description", text()),
            ("status", one_of(["active", "disabled"])),
            ("failures", count()),
            ("pausedUntil", or_null(time())),
            ("createdAt", time()),
            ("updatedAt", time()),
        ]
    };
    let mut with_secret = object(webhook());
    with_secret["properties"]["secret"] = json!({"type": "string", "pattern": "^whsec_"});
    if let Some(required) = with_secret["required"].as_array_mut() {
        required.push("secret".into());
    }
    let attempt = object([("at", time()), ("tookMs", count()), ("ok", flag()), ("result", text())]);
    let delivery = object([
        ("id", uuid()),
        ("notice", uuid()),
        ("status", one_of(DeliveryStatus::ALL.map(DeliveryStatus::as_str))),
        ("attempts", count()),
        ("nextAt", or_null(time())),
        ("log", list(attempt)),
        ("body", json!({"description": "What is told."})),
    ]);
    let events = one_of(EventKind::FILTERS.map(EventKind::as_str));
    [
        ("Webhook", object(webhook())),
        ("WebhookWithSecret", with_secret),
        ("WebhookUrl", json!({"type": "string", "format": "uri", "pattern": "^https://", "maxLength": 2048})),
        ("WebhookEvents", json!({"type": "array", "items": events, "minItems": 1})),
        // 24 to 64 bytes in base64.
        ("WebhookSecret", json!({"type": "string", "pattern": "^whsec_([A-Za-z0-9+/]{4}){8,21}$"})),
        ("Delivery", delivery),
    ]
}

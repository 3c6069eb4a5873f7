//! What several operations have as an example.

use serde_json::{Value, json};

const ID: &str = "0190163d-8694-739b-aea5-966c26f8ad91";
const THEN: &str = "2026-01-30T10:00:00Z";
const LATER: &str = "2026-01-30T11:00:00Z";

#[cfg(feature = "webhooks")]
pub(in crate::api) fn id() -> Value {
    ID.into()
}

pub(in crate::api) fn time() -> Value {
    THEN.into()
}

pub(in crate::api) fn quota() -> Value {
    let (made, changed) = (THEN, LATER);
    json!({
        "id": ID,
        "workspaceId": "acme",
        "maxUsers": 1000,
        "maxSegments": 50,
        "createdAt": made,
        "updatedAt": changed,
    })
}

pub(in crate::api) fn settings() -> Value {
    json!({
        "workspaceId": "acme",
        "settings": {
            "plan": "pro",
            "parent": null,
            "shares": {},
            "caps": {"segments": 100},
            "mode": null,
            "modes": {},
            "overrides": [],
            "grace": null,
        },
    })
}

pub(in crate::api) fn status() -> Value {
    let types = json!({"segments": {"limitField": "maxSegments", "defaultLimit": 50}});
    json!({
        "store": {"kind": "postgres", "schema": {"applied": 10, "known": 10}},
        "ledger": "postgres",
        "promise": "exact",
        "replicas": [{
            "id": ID,
            "this": true,
            "joinedAt": THEN,
            "seenAt": LATER,
            "config": {
                "version": env!("CARGO_PKG_VERSION"), "schema": 10, "mode": "enforce", "modes": {},
                "workspaceFormat": "verbatim", "types": types,
            },
        }],
    })
}

pub(in crate::api) fn plan() -> Value {
    let limits = json!({"maxSegments": 100});
    json!({"name": "pro", "version": 3, "limits": limits, "createdAt": THEN, "updatedAt": LATER})
}

pub(in crate::api) fn temporary_override() -> Value {
    json!({
        "id": ID,
        "resourceType": "segments",
        "limit": 80,
        "startsAt": THEN,
        "expiresAt": "2026-02-28T00:00:00Z",
        "reason": "the spring campaign",
        "createdBy": "ann",
    })
}

/// A request, and who has decided what.
pub(in crate::api) fn request(status: &str, decided_by: Option<&str>) -> Value {
    json!({
        "id": ID,
        "workspaceId": "acme",
        "resourceType": "segments",
        "amount": 10,
        "reason": "a new brand",
        "status": status,
        "requestedBy": "bob",
        "createdAt": THEN,
        "decidedBy": decided_by,
        "decidedAt": decided_by.map(|_| LATER),
        "note": null,
        "expiresAt": null,
    })
}

pub(in crate::api) fn audit_entry() -> Value {
    json!({
        "seq": 7,
        "at": THEN,
        "actor": "ann",
        "origin": "api",
        "action": "limit_set",
        "workspaceId": "acme",
        "resourceType": "segments",
        "old": 50,
        "new": 100,
        "reason": "a larger contract",
    })
}

pub(in crate::api) fn shadow() -> Value {
    let worst = json!({"workspaceId": "acme", "resourceType": "segments", "refusals": 3, "usage": 52, "limit": 50});
    json!({"since": THEN, "evaluated": 1200, "wouldRefuse": 3, "workspaces": [worst]})
}

#[cfg(feature = "webhooks")]
pub(in crate::api) fn webhook() -> Value {
    json!({
        "id": ID,
        "workspaceId": null,
        "url": "https://example.com/hooks",
        "events": ["quota.warning", "quota.exceeded"],
        "description": "",
        "status": "active",
        "failures": 0,
        "pausedUntil": null,
        "createdAt": THEN,
        "updatedAt": LATER,
    })
}

#[cfg(feature = "webhooks")]
pub(in crate::api) fn webhook_with_secret() -> Value {
    let mut webhook = webhook();
    webhook["secret"] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into();
    webhook
}

#[cfg(feature = "webhooks")]
pub(in crate::api) fn delivery() -> Value {
    json!({
        "id": ID,
        "notice": "0190163d-8694-739b-aea5-966c26f8ad92",
        "status": "delivered",
        "attempts": 1,
        "nextAt": null,
        "log": [{"at": THEN, "tookMs": 31, "ok": true, "result": "204"}],
        "body": {"event": "quota.test"},
    })
}

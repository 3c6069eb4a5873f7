//! The bodies of requests and answers.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};

use jiff::Timestamp;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use crate::decision::{Check, Demand, Usage};
#[cfg(feature = "webhooks")]
use crate::engine::EndpointChange;
use crate::engine::{CleanupOptions, Correction, ImportOptions, PolicyChange, Quota, QuotaView, Recount};
use crate::error::Error;
#[cfg(feature = "webhooks")]
use crate::events::WebhookSecret;
use crate::limit::{Limit, LimitSet, kind_of};
use crate::mode::{EnforcementMode, ModeSource, Promise};
use crate::policy::{CapOver, Grace, LimitSource, TemporaryOverride, Trace, TraceStep};
use crate::problem::{ErrorCode, Problem};
use crate::resource::{ResourceCatalog, ResourceId, shown};
use crate::workspace::WorkspaceId;

fn invalid(message: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::InvalidRequest, message)
}

/// The fields of a request body, which is a JSON object in every operation.
#[derive(Debug)]
pub(super) struct Object(Map<String, Value>);

impl Object {
    /// Reads a body. Messages tell the place of a fault and never repeat the body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let parsed: ParsedObject = serde_json::from_slice(body).map_err(|error| {
            if error.is_data() {
                let (line, column) = (error.line(), error.column());
                return invalid(format!("the body is not a JSON object at line {line} column {column}"));
            }
            invalid(format!("the body is not valid JSON: {error}"))
        })?;
        match parsed.repeated {
            // Readers of JSON differ in which of two values they take (RFC 8259, 4): what a gateway checked might not be
            // what is stored.
            Some(field) => Err(invalid(format!("the field {} is given twice", shown(&field)))),
            None => Ok(Self(parsed.fields)),
        }
    }

    /// Takes a field that has to be a string.
    fn take_string(&mut self, field: &str) -> Result<String, Problem> {
        match self.0.remove(field) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(invalid(format!("`{field}` is a string; got {}", kind_of(&other)))),
            None => Err(invalid(format!("`{field}` is missing"))),
        }
    }

    /// Takes a field that may be a string, or missing, or null.
    pub(super) fn take_optional(&mut self, field: &str) -> Result<Option<String>, Problem> {
        match self.0.get(field) {
            None | Some(Value::Null) => {
                self.0.remove(field);
                Ok(None)
            }
            Some(_) => self.take_string(field).map(Some),
        }
    }

    /// Takes a field that has to be a time.
    fn take_time(&mut self, field: &str) -> Result<Option<Timestamp>, Problem> {
        let read = |text: String| {
            text.parse()
                .map_err(|_| invalid(format!("`{field}` is a time such as 2026-01-31T10:00:00Z; got {}", shown(&text))))
        };
        self.take_optional(field)?.map(read).transpose()
    }

    /// Takes a field that may be an object, or missing; with what `null` stands for where it is that.
    fn take_object(&mut self, field: &str) -> Result<Option<Map<String, Value>>, Problem> {
        match self.0.remove(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(other) => Err(invalid(format!("`{field}` is an object; got {}", kind_of(&other)))),
        }
    }

    /// Refuses the fields that nobody took.
    fn finish(self, known: &str) -> Result<(), Problem> {
        match self.0.keys().next() {
            Some(field) => Err(invalid(format!("unknown field {}: the body has {known}", shown(field)))),
            None => Ok(()),
        }
    }
}

struct ParsedObject {
    fields: Map<String, Value>,
    repeated: Option<String>,
}

impl<'de> Deserialize<'de> for ParsedObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = ParsedObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ParsedObject, A::Error> {
                let mut parsed = ParsedObject { fields: Map::new(), repeated: None };
                while let Some(field) = map.next_key::<String>()? {
                    let value = map.next_value_seed(Nested { depth: DEEPEST, repeated: &mut parsed.repeated })?;
                    if parsed.fields.contains_key(&field) {
                        parsed.repeated.get_or_insert(field);
                    } else {
                        parsed.fields.insert(field, value);
                    }
                }
                Ok(parsed)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// How deep the fields of a body are read.
const DEEPEST: u8 = 2;

/// A field's value. Of arrays and objects that are deeper than any field takes, it keeps only that they were there: what is
/// not kept costs neither memory nor stack.
struct Nested<'a> {
    depth: u8,
    repeated: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Nested<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        if let Some(depth) = self.depth.checked_sub(1) {
            while let Some(value) = seq.next_element_seed(Nested { depth, repeated: self.repeated })? {
                values.push(value);
            }
        } else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        if let Some(depth) = self.depth.checked_sub(1) {
            while let Some(field) = map.next_key::<String>()? {
                let value = map.next_value_seed(Nested { depth, repeated: self.repeated })?;
                if fields.contains_key(&field) {
                    self.repeated.get_or_insert(field);
                } else {
                    fields.insert(field, value);
                }
            }
        } else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        }
        Ok(Value::Object(fields))
    }
}

/// What the body of a `PUT …/quota` changes.
///
/// A whole quota object that was read before may be sent back: its read-only fields are passed over, but it has to be the
/// object of `workspace`. `canonical` gives the canonical form of a workspace id.
pub(super) fn limit_changes(
    body: Object,
    catalog: &ResourceCatalog,
    workspace: &WorkspaceId,
    canonical: impl Fn(&str) -> Result<WorkspaceId, Error>,
) -> Result<(LimitSet, Option<String>), Problem> {
    let mut body = body;
    let reason = body.take_optional("reason")?;
    let Object(mut fields) = body;
    match fields.remove("workspaceId") {
        None => {}
        Some(Value::String(named)) if canonical(&named).is_ok_and(|named| named == *workspace) => {}
        // An id that has no canonical form names another workspace as well: the path's has one.
        Some(Value::String(_)) => {
            return Err(Problem::new(
                ErrorCode::WorkspaceMismatch,
                "`workspaceId` names another workspace than the path: send the quota to its own path",
            ));
        }
        Some(other) => return Err(invalid(format!("`workspaceId` is a string; got {}", kind_of(&other)))),
    }
    for read_only in ["id", "createdAt", "updatedAt", "version"] {
        fields.remove(read_only);
    }
    Ok((limit_set(&fields, catalog)?, reason))
}

/// Limits by their fields.
pub(super) fn limit_set(fields: &Map<String, Value>, catalog: &ResourceCatalog) -> Result<LimitSet, Problem> {
    let mut changes = LimitSet::new();
    for (field, value) in fields {
        let resource = catalog.by_limit_field(field).map_err(|error| Problem::from(&error))?;
        let limit = Limit::from_json(value).map_err(|error| invalid(format!("`{field}`: {}", error.message())))?;
        changes.set(resource.id(), limit);
    }
    Ok(changes)
}

/// What the body of a `POST …/quota/validate` asks for.
pub(super) fn demand(mut body: Object, catalog: &ResourceCatalog) -> Result<Demand, Problem> {
    let resource_type = body.take_string("resourceType")?;
    let units = match body.0.remove("increment") {
        None | Some(Value::Null) => Some(1),
        Some(value) => value.as_u64().filter(|units| (1..=Limit::MAX).contains(units)),
    };
    let units = units.ok_or_else(|| invalid(format!("`increment` is an integer of 1 to {}", Limit::MAX)))?;
    body.finish("`resourceType` and `increment`")?;
    let resource = catalog.by_name(&resource_type).map_err(|error| Problem::from(&error))?;
    Ok(Demand::new(resource.id(), units))
}

/// The mode of all, and those of some resource types, by id.
pub(super) type Modes = (Option<EnforcementMode>, Vec<(ResourceId, Option<EnforcementMode>)>);

/// The modes in the body of a `PUT …/quota-enforcement`.
pub(super) fn modes(mut body: Object, catalog: &ResourceCatalog) -> Result<Modes, Problem> {
    let types = body.take_object("types")?.unwrap_or_default();
    let mode = match body.take_optional("mode")? {
        Some(name) => Some(named_mode("mode", &name)?),
        // One of the two is what the body is for.
        None if !types.is_empty() => None,
        None => return Err(invalid("`mode` is missing: it is a string")),
    };
    body.finish("`mode` and `types`")?;
    let types = types.iter().map(|(name, value)| {
        let resource = catalog.by_name(name).map_err(|error| Problem::from(&error))?;
        Ok((resource.id(), mode_or_null(&format!("types.{name}"), value)?))
    });
    Ok((mode, types.collect::<Result<_, Problem>>()?))
}

fn named_mode(field: &str, name: &str) -> Result<EnforcementMode, Problem> {
    name.parse().map_err(|_| {
        let names = EnforcementMode::ALL.map(EnforcementMode::as_str).join(", ");
        invalid(format!("`{field}` can't be {}: write one of {names}", shown(name)))
    })
}

fn mode_or_null(field: &str, value: &Value) -> Result<Option<EnforcementMode>, Problem> {
    match value {
        Value::Null => Ok(None),
        Value::String(name) => named_mode(field, name).map(Some),
        other => Err(invalid(format!("`{field}` is a string or null; got {}", kind_of(other)))),
    }
}

/// One of the objects in a body, of which each field belongs to a resource type.
fn by_type<T>(
    body: &mut Object,
    field: &str,
    read: impl Fn(&str, &Value) -> Result<T, Problem>,
) -> Result<Vec<(String, T)>, Problem> {
    let fields = body.take_object(field)?.unwrap_or_default();
    fields.iter().map(|(name, value)| Ok((name.clone(), read(&format!("{field}.{name}"), value)?))).collect()
}

fn limit(field: &str, value: &Value) -> Result<Limit, Problem> {
    Limit::from_json(value).map_err(|error| invalid(format!("`{field}`: {}", error.message())))
}

fn percent(field: &str, value: &Value) -> Result<Option<u32>, Problem> {
    if value.is_null() {
        return Ok(None);
    }
    let percent = value.as_u64().and_then(|percent| u32::try_from(percent).ok()).filter(|percent| *percent <= 100);
    percent.map(Some).ok_or_else(|| invalid(format!("`{field}` is an integer of 0 to 100, in percent, or null")))
}

/// What the body of a `PUT …/settings` changes, and the parent that it names, or none, if it does.
pub(super) fn policy_change(
    mut body: Object,
    canonical: impl Fn(&str) -> Result<WorkspaceId, Error>,
) -> Result<(PolicyChange, Option<Option<WorkspaceId>>), Problem> {
    let mut change = PolicyChange::new();
    if body.0.contains_key("plan") {
        change = change.plan(body.take_optional("plan")?.as_deref());
    }
    let mut parent = None;
    if body.0.contains_key("parent") {
        let named = body.take_optional("parent")?;
        let named = named.map(|raw| canonical(&raw).map_err(|error| invalid(format!("`parent`: {}", error.message()))));
        let named = named.transpose()?;
        change = change.parent(named.clone());
        parent = Some(named);
    }
    for (name, share) in by_type(&mut body, "shares", percent)? {
        change = change.share(name, share);
    }
    for (name, cap) in by_type(&mut body, "caps", limit)? {
        change = change.cap(name, cap);
    }
    if let Some(mode) = body.0.remove("mode") {
        change = change.mode(mode_or_null("mode", &mode)?);
    }
    for (name, mode) in by_type(&mut body, "modes", mode_or_null)? {
        change = change.mode_of(name, mode);
    }
    if let Some(grace) = body.0.remove("grace") {
        let hint = "`grace` is null or {\"enabled\", \"percentage\", \"duration\" (seconds), \"resources\"}";
        let grace: Option<Grace> =
            serde_json::from_value(grace).map_err(|error| invalid(format!("{hint}: {error}")))?;
        change = change.grace(grace);
    }
    if let Some(reason) = body.take_optional("reason")? {
        change = change.reason(reason);
    }
    body.finish("`plan`, `parent`, `shares`, `caps`, `mode`, `modes`, `grace` and `reason`")?;
    Ok((change, parent))
}

/// The body of a `PUT …/quotas`: whose, which limits, and why.
pub(super) fn bulk(
    mut body: Object,
    catalog: &ResourceCatalog,
    canonical: impl Fn(&str) -> Result<WorkspaceId, Error>,
) -> Result<(Vec<WorkspaceId>, LimitSet, Option<String>), Problem> {
    let ids = body.0.remove("workspaces").ok_or_else(|| invalid("`workspaces` is missing: it is an array of ids"))?;
    let workspaces = workspace_ids(&ids, canonical)?;
    let limits = limits_field(&mut body, catalog)?;
    let reason = body.take_optional("reason")?;
    body.finish("`workspaces`, `limits` and `reason`")?;
    Ok((workspaces, limits, reason))
}

/// Rows of some types, and why they are set.
pub(super) type Tally = (Vec<(ResourceId, u64)>, Option<String>);

/// The body of a `PUT …/quota/tally`.
pub(super) fn tally(mut body: Object, catalog: &ResourceCatalog) -> Result<Tally, Problem> {
    let rows = body.take_object("rows")?.filter(|rows| !rows.is_empty());
    let rows = rows.ok_or_else(|| invalid("`rows` is missing: it is an object such as {\"segments\": 45}"))?;
    let reason = body.take_optional("reason")?;
    body.finish("`rows` and `reason`")?;
    let read = |(name, value): (&String, &Value)| {
        let resource = catalog.by_name(name).map_err(|error| Problem::from(&error))?;
        let rows = value.as_u64().filter(|rows| *rows <= Limit::MAX);
        let rows = rows.ok_or_else(|| invalid(format!("`rows.{name}` is an integer of 0 to {}", Limit::MAX)))?;
        Ok((resource.id(), rows))
    };
    Ok((rows.iter().map(read).collect::<Result<_, Problem>>()?, reason))
}

fn limits_field(body: &mut Object, catalog: &ResourceCatalog) -> Result<LimitSet, Problem> {
    let limits = body.take_object("limits")?;
    let limits =
        limits.ok_or_else(|| invalid("`limits` is missing: it is an object such as {\"maxSegments\": 100}"))?;
    limit_set(&limits, catalog)
}

/// The body of a `PUT …/plans/{name}`. A plan that was read may be sent back.
pub(super) fn plan_limits(mut body: Object, catalog: &ResourceCatalog) -> Result<LimitSet, Problem> {
    for read_only in ["name", "version", "createdAt", "updatedAt"] {
        body.0.remove(read_only);
    }
    let limits = limits_field(&mut body, catalog)?;
    body.finish("`limits`")?;
    Ok(limits)
}

/// What something that was read from a body is refused for.
#[cfg(feature = "webhooks")]
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn refused(error: Error) -> Problem {
    Problem::from(&error)
}

/// An array of strings, or `None` where it is missing.
#[cfg(any(feature = "webhooks", feature = "email"))]
fn take_strings(body: &mut Object, field: &str) -> Result<Option<Vec<String>>, Problem> {
    let Some(given) = body.0.remove(field) else { return Ok(None) };
    let texts = given
        .as_array()
        .and_then(|given| given.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
    texts.map(Some).ok_or_else(|| invalid(format!("`{field}` is an array of strings")))
}

/// The body of a `PUT …/contacts`.
#[cfg(feature = "email")]
pub(super) fn contacts(mut body: Object) -> Result<Vec<String>, Problem> {
    body.0.remove("workspaceId");
    let emails = take_strings(&mut body, "emails")?;
    body.finish("`emails`")?;
    emails.ok_or_else(|| invalid("`emails` is missing: it is an array of addresses"))
}

/// The body of a `POST …/webhooks`.
#[cfg(feature = "webhooks")]
pub(super) struct NewEndpoint {
    pub(super) workspace: Option<WorkspaceId>,
    pub(super) url: String,
    pub(super) change: EndpointChange,
    pub(super) secret: Option<WebhookSecret>,
}

#[cfg(feature = "webhooks")]
pub(super) fn new_endpoint(
    mut body: Object,
    canonical: impl Fn(&str) -> Result<WorkspaceId, Error>,
) -> Result<NewEndpoint, Problem> {
    let url = body.take_string("url")?;
    let workspace = body.take_optional("workspaceId")?.map(|raw| canonical(&raw)).transpose().map_err(refused)?;
    let secret = take_secret(&mut body)?;
    let change = take_endpoint(&mut body)?;
    body.finish("`url`, `workspaceId`, `events`, `description`, `active` and `secret`")?;
    Ok(NewEndpoint { workspace, url, change, secret })
}

/// The body of a `PUT …/webhooks/{id}`. An endpoint that was read may be sent back.
#[cfg(feature = "webhooks")]
pub(super) fn endpoint_change(mut body: Object) -> Result<EndpointChange, Problem> {
    for read_only in ["id", "workspaceId", "status", "failures", "pausedUntil", "createdAt", "updatedAt"] {
        body.0.remove(read_only);
    }
    let url = body.take_optional("url")?;
    let change = take_endpoint(&mut body)?;
    body.finish("`url`, `events`, `description` and `active`")?;
    Ok(match url {
        Some(url) => change.url(url),
        None => change,
    })
}

#[cfg(feature = "webhooks")]
fn take_endpoint(body: &mut Object) -> Result<EndpointChange, Problem> {
    let mut change = EndpointChange::default();
    if let Some(events) = take_strings(body, "events")? {
        let events = events.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>();
        change = change.events(events.map_err(refused)?);
    }
    if let Some(description) = body.take_optional("description")? {
        change = change.description(description);
    }
    match body.0.remove("active") {
        None => Ok(change),
        Some(Value::Bool(active)) => Ok(change.active(active)),
        Some(other) => Err(invalid(format!("`active` is true or false; got {}", kind_of(&other)))),
    }
}

/// The body of a `POST …/secret`.
#[cfg(feature = "webhooks")]
pub(super) fn new_secret(mut body: Object) -> Result<Option<WebhookSecret>, Problem> {
    let secret = take_secret(&mut body)?;
    body.finish("`secret`")?;
    Ok(secret)
}

#[cfg(feature = "webhooks")]
fn take_secret(body: &mut Object) -> Result<Option<WebhookSecret>, Problem> {
    body.take_optional("secret")?.map(|text| WebhookSecret::parse(&text)).transpose().map_err(refused)
}

/// The body of a `POST …/overrides`.
pub(super) fn temporary_override(mut body: Object) -> Result<TemporaryOverride, Problem> {
    let resource = body.take_string("resourceType")?;
    let given =
        body.0.remove("limit").ok_or_else(|| invalid("`limit` is missing: it is an integer, or null for unlimited"))?;
    let limit = limit("limit", &given)?;
    let starts_at = body.take_time("startsAt")?.unwrap_or_else(Timestamp::now);
    let expires_at = body.take_time("expiresAt")?.ok_or_else(|| invalid("`expiresAt` is missing: it is a time"))?;
    let reason = body.take_string("reason")?;
    body.finish("`resourceType`, `limit`, `startsAt`, `expiresAt` and `reason`")?;
    Ok(TemporaryOverride::new(resource, limit, starts_at, expires_at, reason))
}

/// The body of a `POST …/requests`: how many more of what, and why.
pub(super) fn increase(mut body: Object, catalog: &ResourceCatalog) -> Result<(Demand, String), Problem> {
    let resource = body.take_string("resourceType")?;
    let amount =
        body.0.remove("amount").and_then(|value| value.as_u64()).filter(|units| (1..=Limit::MAX).contains(units));
    let amount = amount.ok_or_else(|| invalid(format!("`amount` is an integer of 1 to {}", Limit::MAX)))?;
    let reason = body.take_string("reason")?;
    body.finish("`resourceType`, `amount` and `reason`")?;
    let resource = catalog.by_name(&resource).map_err(|error| Problem::from(&error))?;
    Ok((Demand::new(resource.id(), amount), reason))
}

/// The body of a `POST …/approve`.
pub(super) fn approval(mut body: Object) -> Result<(Option<String>, Option<Timestamp>), Problem> {
    let (note, expires_at) = (body.take_optional("note")?, body.take_time("expiresAt")?);
    body.finish("`note` and `expiresAt`")?;
    Ok((note, expires_at))
}

/// The body of a `POST …/deny`.
pub(super) fn denial(mut body: Object) -> Result<Option<String>, Problem> {
    let note = body.take_optional("note")?;
    body.finish("`note`")?;
    Ok(note)
}

/// Takes a field that may be an integer from `least` to `most`, or missing.
fn take_integer(body: &mut Object, field: &str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
    let Some(value) = body.0.remove(field) else { return Ok(None) };
    let integer = value.as_u64().filter(|integer| (least..=most).contains(integer));
    integer.map(Some).ok_or_else(|| invalid(format!("`{field}` is an integer of {least} to {most}")))
}

/// Takes a field that may be true or false, or missing.
fn take_flag(body: &mut Object, field: &str) -> Result<Option<bool>, Problem> {
    match body.0.remove(field) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(other) => Err(invalid(format!("`{field}` is true or false; got {}", kind_of(&other)))),
    }
}

/// The body of a `POST …/quota-import`.
pub(super) fn import(mut body: Object) -> Result<ImportOptions, Problem> {
    let mut options = ImportOptions::new();
    if let Some(percent) = take_integer(&mut body, "percent", 1, u64::from(u32::MAX))? {
        options = options.percent(u32::try_from(percent).unwrap_or(u32::MAX));
    }
    if let Some(floor) = take_integer(&mut body, "floor", 0, Limit::MAX)? {
        options = options.floor(floor);
    }
    if let Some(yes) = take_flag(&mut body, "allowLowering")? {
        options = options.allow_lowering(yes);
    }
    if let Some(yes) = take_flag(&mut body, "apply")? {
        options = options.apply(yes);
    }
    let batch = take_integer(&mut body, "batch", 1, 10_000)?.and_then(|batch| usize::try_from(batch).ok());
    if let Some(batch) = batch.and_then(NonZeroUsize::new) {
        options = options.batch(batch);
    }
    if let Some(name) = body.take_optional("name")? {
        options = options.name(name);
    }
    if let Some(after) = body.take_optional("after")? {
        options = options.after(after);
    }
    body.finish("`percent`, `floor`, `allowLowering`, `apply`, `batch`, `name` and `after`")?;
    Ok(options)
}

/// The body of a `POST …/cleanup`.
pub(super) fn cleanup(mut body: Object, catalog: &ResourceCatalog) -> Result<(ResourceId, CleanupOptions), Problem> {
    let resource = body.take_string("resourceType")?;
    let mut options = CleanupOptions::new();
    if let Some(yes) = take_flag(&mut body, "dryRun")? {
        options = options.dry_run(yes);
    }
    if let Some(batch) = take_integer(&mut body, "batch", 1, 10_000)?.and_then(NonZeroU64::new) {
        options = options.batch(batch);
    }
    body.finish("`resourceType`, `dryRun` and `batch`")?;
    let resource = catalog.by_name(&resource).map_err(|error| Problem::from(&error))?;
    Ok((resource.id(), options))
}

/// The body of a `PUT …/quota-shadow`: which limits, and where if not everywhere.
pub(super) fn shadow(
    mut body: Object,
    catalog: &ResourceCatalog,
    canonical: impl Fn(&str) -> Result<WorkspaceId, Error>,
) -> Result<(LimitSet, Option<HashSet<WorkspaceId>>), Problem> {
    let limits = limits_field(&mut body, catalog)?;
    let only = match body.0.remove("workspaces") {
        None | Some(Value::Null) => None,
        Some(ids) => Some(workspace_ids(&ids, canonical)?.into_iter().collect()),
    };
    body.finish("`limits` and `workspaces`")?;
    Ok((limits, only))
}

fn workspace_ids(
    ids: &Value,
    canonical: impl Fn(&str) -> Result<WorkspaceId, Error>,
) -> Result<Vec<WorkspaceId>, Problem> {
    let Value::Array(ids) = ids else {
        return Err(invalid(format!("`workspaces` is an array of ids; got {}", kind_of(ids))));
    };
    let id = |value: &Value| match value {
        Value::String(raw) => canonical(raw).map_err(|error| invalid(format!("`workspaces`: {}", error.message()))),
        other => Err(invalid(format!("`workspaces` is an array of ids; got {} in it", kind_of(other)))),
    };
    ids.iter().map(id).collect()
}

/// The `quota` object.
pub(super) struct QuotaObject<'a> {
    catalog: &'a ResourceCatalog,
    view: &'a QuotaView,
}

impl Serialize for QuotaObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = &self.view.record;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &format_args!("{}", record.id))?;
        map.serialize_entry("workspaceId", record.workspace.as_str())?;
        for (resource, limit) in self.catalog.iter().zip(self.view.limits.iter()) {
            map.serialize_entry(resource.limit_field(), limit)?;
        }
        map.serialize_entry("createdAt", &record.created_at)?;
        map.serialize_entry("updatedAt", &record.updated_at)?;
        map.end()
    }
}

/// One number per resource type, in the catalog's order.
struct ByType<'a> {
    catalog: &'a ResourceCatalog,
    numbers: Vec<u64>,
}

impl Serialize for ByType<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.catalog.iter().map(|resource| resource.name()).zip(&self.numbers))
    }
}

/// Answers `GET …/quota`.
#[derive(serde::Serialize)]
pub(super) struct QuotaAnswer<'a> {
    quota: QuotaObject<'a>,
    usage: ByType<'a>,
    percentages: ByType<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explained<'a>>,
}

impl<'a> QuotaAnswer<'a> {
    pub(super) fn new(
        catalog: &'a ResourceCatalog,
        view: &'a QuotaView,
        usage: &[Usage],
        traces: Option<&'a [Trace]>,
    ) -> Self {
        // The limits are those that the answer shows, not those of the moment when the rows were counted: an update in
        // between would make the answer contradict itself.
        let percentages =
            usage.iter().zip(view.limits.iter()).map(|(usage, limit)| Usage { limit: *limit, ..*usage }.percent());
        Self {
            quota: QuotaObject { catalog, view },
            usage: ByType { catalog, numbers: usage.iter().map(|usage| usage.current).collect() },
            percentages: ByType { catalog, numbers: percentages.collect() },
            explain: traces.map(Explained),
        }
    }
}

/// Why limits are what they are, by resource type.
struct Explained<'a>(&'a [Trace]);

impl Serialize for Explained<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|trace| (trace.resource.name(), explained(trace))))
    }
}

fn explained(trace: &Trace) -> Value {
    let step = |step: &TraceStep| {
        let limit = step.limit;
        match &step.source {
            LimitSource::TemporaryOverride { id, expires_at, reason } => {
                json!({"source": "temporaryOverride", "limit": limit, "id": id, "expiresAt": expires_at, "reason": reason})
            }
            LimitSource::Override => json!({"source": "override", "limit": limit}),
            LimitSource::Plan { name } => json!({"source": "plan", "limit": limit, "plan": &**name}),
            LimitSource::Inherited { parent, percent, of } => json!({
                "source": "inherited", "limit": limit, "parent": parent.as_str(), "percent": percent, "parentLimit": of
            }),
            LimitSource::Default => json!({"source": "default", "limit": limit}),
        }
    };
    let steps: Vec<_> = trace.steps.iter().map(step).collect();
    let caps = trace
        .caps
        .iter()
        .map(|cap| json!({"workspaceId": cap.workspace.as_str(), "cap": cap.cap, "exceeded": cap.exceeded}));
    let mut explained =
        json!({"limit": trace.limit, "source": steps[0]["source"], "trace": steps, "caps": caps.collect::<Vec<_>>()});
    if let Some((limit, until)) = &trace.grace {
        explained["grace"] = json!({"limit": limit, "endsAt": until});
    }
    explained
}

/// Answers `PUT …/quota`.
#[derive(serde::Serialize)]
pub(super) struct UpdateAnswer<'a> {
    quota: QuotaObject<'a>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

impl<'a> UpdateAnswer<'a> {
    pub(super) fn new(catalog: &'a ResourceCatalog, view: &'a QuotaView, warnings: &'a [String]) -> Self {
        Self { quota: QuotaObject { catalog, view }, warnings }
    }
}

/// Tells which of the limits that were just set are below usage.
pub(crate) fn below_usage(catalog: &ResourceCatalog, changes: &LimitSet, usage: &[Usage]) -> Vec<String> {
    let warning = |(id, limit): (_, Limit)| {
        let resource = catalog.get(id);
        let current = usage.get(id.index())?.current;
        let limit = limit.rows().filter(|limit| *limit < current)?;
        Some(format!(
            "{} is {limit}, below the {current} that exist: they stay, and new ones are over the limit",
            resource.limit_field()
        ))
    };
    changes.iter().filter_map(warning).collect()
}

/// Tells which of the limits that were just set are above a cap.
pub(crate) fn above_caps(changes: &LimitSet, traces: &[Trace]) -> Vec<String> {
    let set = traces.iter().filter(|trace| changes.get(trace.resource.id()).is_some());
    let above = set.flat_map(|trace| trace.caps.iter().filter(|cap| cap.exceeded).map(move |cap| (trace, cap)));
    let warning = |(trace, cap): (&Trace, &CapOver)| {
        let (field, limit, cap, top) = (trace.resource.limit_field(), trace.limit, cap.cap, &cap.workspace);
        format!("{field} is {limit}, above the cap of {cap} on workspace {top} and all below it: that counts too")
    };
    above.map(warning).collect()
}

/// Answers `POST …/quota/validate`, unless the answer is a refusal.
#[derive(Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    allowed: bool,
    current_usage: u64,
    limit: Limit,
    remaining: Option<u64>,
    percent_used: u64,
    would_exceed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved: Option<u64>,
}

impl Verdict {
    pub(super) fn new(check: &Check, units: u64, allowed: bool) -> Self {
        let Check { usage, refusal, .. } = check;
        Self {
            allowed,
            current_usage: usage.current,
            limit: usage.limit,
            // Where requests in flight stand in the way, what is left beside them: the rows alone would seem to fit.
            remaining: refusal.as_ref().map_or_else(|| usage.remaining(), |refusal| Some(refusal.remaining)),
            percent_used: usage.percent(),
            would_exceed: refusal.is_some() || usage.would_exceed(units),
            reserved: refusal.as_ref().and_then(|refusal| refusal.reserved),
        }
    }
}

/// Answers `POST …/quota/recalculate`.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecountAnswer<'a> {
    workspace_id: &'a str,
    usage: ByType<'a>,
    corrections: Vec<CorrectionObject<'a>>,
    recalculated_at: String,
}

impl<'a> RecountAnswer<'a> {
    pub(super) fn new(
        catalog: &'a ResourceCatalog,
        workspace: &'a WorkspaceId,
        recount: &'a Recount,
        at: Timestamp,
    ) -> Self {
        Self {
            workspace_id: workspace.as_str(),
            usage: ByType { catalog, numbers: recount.usage.iter().map(|usage| usage.current).collect() },
            corrections: recount.corrections.iter().map(CorrectionObject::new).collect(),
            // Whole seconds, as the timestamps of records.
            recalculated_at: format!("{at:.0}"),
        }
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct CorrectionObject<'a> {
    resource_type: &'a str,
    cached: u64,
    actual: u64,
    drift: i128,
}

impl<'a> CorrectionObject<'a> {
    fn new(correction: &'a Correction) -> Self {
        let Correction { resource, cached, actual } = correction;
        Self {
            resource_type: resource.name(),
            cached: *cached,
            actual: *actual,
            drift: i128::from(*actual) - i128::from(*cached),
        }
    }
}

/// Answers `GET` and `PUT …/quota-enforcement`.
#[derive(serde::Serialize)]
pub(super) struct EnforcementAnswer {
    mode: EnforcementMode,
    source: ModeSource,
    promise: Promise,
    /// By resource type.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    types: BTreeMap<String, EnforcementMode>,
}

impl EnforcementAnswer {
    pub(super) fn of(quota: &Quota) -> Self {
        let modes = quota.modes_by_type();
        let types = quota.catalog().iter().zip(modes);
        let types = types.filter_map(|(resource, mode)| Some((resource.name().to_owned(), mode?)));
        Self { mode: quota.mode(), source: quota.mode_source(), promise: quota.promise(), types: types.collect() }
    }
}

/// Answers `GET /system/health`.
#[derive(serde::Serialize)]
pub(super) struct HealthAnswer {
    pub(super) status: &'static str,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::store::QuotaRecord;
    use crate::workspace::WorkspaceFormat;

    fn object(body: &str) -> Object {
        Object::parse(body.as_bytes()).unwrap()
    }

    fn acme() -> WorkspaceId {
        WorkspaceFormat::Lowercase.parse("acme").unwrap()
    }

    fn changes(body: &str) -> Result<LimitSet, Problem> {
        limit_changes(object(body), &ResourceCatalog::default(), &acme(), |raw| WorkspaceFormat::Lowercase.parse(raw))
            .map(|(changes, _)| changes)
    }

    fn code_and_message<T: fmt::Debug>(result: Result<T, Problem>) -> (ErrorCode, String) {
        let problem = result.unwrap_err();
        (problem.code(), problem.message().to_owned())
    }

    #[test]
    fn a_body_that_is_no_object_is_refused_without_being_repeated() {
        let deep = "[".repeat(50_000);
        let bodies = ["", " ", "{", "nul", "[]", "null", "5", "\"secret\"", "{} {}", "{\"secret\":}", "{'a':1}", &deep];
        for body in bodies {
            let (code, message) = code_and_message(Object::parse(body.as_bytes()));
            assert_eq!(code, ErrorCode::InvalidRequest);
            assert!(message.contains("line 1 column"), "{message}");
            assert!(!message.contains("secret") && message.len() < 200, "{message}");
        }
        assert!(Object::parse(b"{\"a\": \"\xff\"}").is_err());
        assert!(Object::parse(b"{\"a\": 1e999}").is_err());
    }

    #[test]
    fn a_field_given_twice_is_refused() {
        let (code, message) = code_and_message(Object::parse(br#"{"maxUsers": 1, "maxUsers": 1}"#));
        assert_eq!((code, message.as_str()), (ErrorCode::InvalidRequest, "the field \"maxUsers\" is given twice"));
    }

    #[test]
    fn nested_values_are_passed_over_at_any_depth() {
        let deep = format!("{{\"maxUsers\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let (_, message) = code_and_message(changes(&deep));
        assert!(message.starts_with("`maxUsers`: a limit can't be an array"), "{message}");
        // A key that `serde_json` gives a meaning of its own when it reads any value.
        assert!(changes(r#"{"maxUsers": {"$serde_json::private::RawValue": "5"}}"#).is_err());
    }

    #[test]
    fn changes_are_what_the_body_names() {
        let catalog = ResourceCatalog::default();
        let id = |name| catalog.by_name(name).unwrap().id();
        assert!(changes("{}").unwrap().is_empty());
        let set = changes(r#"{"maxUsers": 0, "maxSegments": null, "maxJourneys": 9223372036854775807}"#).unwrap();
        assert_eq!(set.get(id("users")), Some(Limit::of(0)));
        assert_eq!(set.get(id("segments")), Some(Limit::Unlimited));
        assert_eq!(set.get(id("journeys")), Some(Limit::finite(Limit::MAX).unwrap()));
        assert_eq!(set.get(id("audiences")), None);
    }

    #[test]
    fn a_limit_that_is_none_names_its_field() {
        for value in ["-1", "1.5", "1.0", "9223372036854775808", "18446744073709551616", "\"5\"", "true", "[]", "{}"] {
            let (code, message) = code_and_message(changes(&format!("{{\"maxSegments\": {value}}}")));
            assert_eq!(code, ErrorCode::InvalidRequest);
            assert!(message.contains("`maxSegments`") && message.contains("null for unlimited"), "{message}");
        }
    }

    #[test]
    fn an_unknown_limit_field_lists_the_valid_ones() {
        let (code, message) = code_and_message(changes(r#"{"maxUsers": 5, "maxWidgets": 1}"#));
        assert_eq!(code, ErrorCode::InvalidResourceType);
        assert!(message.contains("maxWidgets") && message.contains("maxUsers, maxSegments"), "{message}");
    }

    #[test]
    fn a_whole_object_may_be_sent_back_to_its_own_path() {
        let back = r#"{"id": 7, "workspaceId": "ACME", "version": [], "createdAt": null, "updatedAt": {}}"#;
        assert!(changes(back).unwrap().is_empty());
        for other in ["\"globex\"", "\"\"", "\"acme\\u0000\""] {
            let (code, _) = code_and_message(changes(&format!("{{\"workspaceId\": {other}}}")));
            assert_eq!(code, ErrorCode::WorkspaceMismatch, "{other}");
        }
        for wrong in ["null", "5", "[\"acme\"]"] {
            let (code, _) = code_and_message(changes(&format!("{{\"workspaceId\": {wrong}}}")));
            assert_eq!(code, ErrorCode::InvalidRequest, "{wrong}");
        }
    }

    #[test]
    fn demands() {
        let catalog = ResourceCatalog::default();
        let segments = catalog.by_name("segments").unwrap().id();
        let read = |body: &str| demand(object(body), &catalog);
        assert_eq!(read(r#"{"resourceType": "segments"}"#), Ok(Demand::one(segments)));
        assert_eq!(read(r#"{"resourceType": "segments", "increment": null}"#), Ok(Demand::one(segments)));
        let most = read(r#"{"resourceType": "segments", "increment": 9223372036854775807}"#);
        assert_eq!(most, Ok(Demand::new(segments, Limit::MAX)));

        for increment in
            ["0", "-1", "1.5", "1.0", "9223372036854775808", "18446744073709551616", "\"1\"", "true", "[1]"]
        {
            let body = format!("{{\"resourceType\": \"segments\", \"increment\": {increment}}}");
            let (code, message) = code_and_message(read(&body));
            assert_eq!(code, ErrorCode::InvalidRequest);
            assert!(message.contains("`increment`"), "{message}");
        }
        for (body, code, word) in [
            ("{}", ErrorCode::InvalidRequest, "`resourceType`"),
            (r#"{"resourceType": 5}"#, ErrorCode::InvalidRequest, "`resourceType`"),
            (r#"{"resourceType": null}"#, ErrorCode::InvalidRequest, "`resourceType`"),
            (r#"{"resourceType": "widgets"}"#, ErrorCode::InvalidResourceType, "users, segments"),
            (r#"{"resourceType": "segments", "count": 1}"#, ErrorCode::InvalidRequest, "\"count\""),
        ] {
            let (found, message) = code_and_message(read(body));
            assert_eq!(found, code, "{body}");
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn modes_are_named() {
        let catalog = ResourceCatalog::default();
        let mode = |body| modes(body, &catalog);
        assert_eq!(mode(object(r#"{"mode": "warn"}"#)), Ok((Some(EnforcementMode::Warn), Vec::new())));
        let segments = catalog.by_name("segments").unwrap().id();
        let types = Ok((None, vec![(segments, Some(EnforcementMode::Strict))]));
        assert_eq!(mode(object(r#"{"types": {"segments": "strict"}}"#)), types);
        assert_eq!(code_and_message(mode(object(r#"{"types": {"cats": "warn"}}"#))).0, ErrorCode::InvalidResourceType);
        for bad in [r#"{"mode": "Warn"}"#, r#"{"mode": "on"}"#, r#"{"mode": ""}"#] {
            let (code, message) = code_and_message(mode(object(bad)));
            assert_eq!(code, ErrorCode::InvalidRequest);
            assert!(message.contains("off, warn, enforce, strict"), "{message}");
        }
        for bad in [
            "{}",
            r#"{"types": 1}"#,
            r#"{"types": {"segments": 1}}"#,
            r#"{"mode": null}"#,
            r#"{"mode": 1}"#,
            r#"{"mode": "warn", "source": "x"}"#,
        ] {
            assert_eq!(code_and_message(mode(object(bad))).0, ErrorCode::InvalidRequest);
        }
    }

    fn view(limits: &[Limit]) -> QuotaView {
        let at: Timestamp = "2024-01-30T10:00:00Z".parse().unwrap();
        let record = QuotaRecord::new(Uuid::nil(), acme(), 3, LimitSet::new(), at, at);
        QuotaView { record, limits: limits.into() }
    }

    #[test]
    fn a_quota_is_written_in_the_catalogs_order() {
        let catalog = ResourceCatalog::default();
        let mut limits: Vec<Limit> = catalog.iter().map(|resource| resource.default_limit()).collect();
        limits[2] = Limit::Unlimited;
        let usage: Vec<Usage> = limits.iter().map(|limit| Usage { current: 45, limit: *limit }).collect();
        let view = view(&limits);
        let text = serde_json::to_string(&QuotaAnswer::new(&catalog, &view, &usage, None)).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"quota":{"id":"00000000-0000-0000-0000-000000000000","workspaceId":"acme","maxUsers":1000,"#,
                r#""maxSegments":50,"maxJourneys":null,"maxBroadcasts":100,"maxComputedProperties":100,"#,
                r#""maxAudiences":50,"maxEmailTemplates":100,"maxSubscriptionGroups":10,"#,
                r#""createdAt":"2024-01-30T10:00:00Z","updatedAt":"2024-01-30T10:00:00Z"},"#,
                r#""usage":{"users":45,"segments":45,"journeys":45,"broadcasts":45,"computedProperties":45,"#,
                r#""audiences":45,"emailTemplates":45,"subscriptionGroups":45},"#,
                r#""percentages":{"users":4,"segments":90,"journeys":0,"broadcasts":45,"computedProperties":45,"#,
                r#""audiences":90,"emailTemplates":45,"subscriptionGroups":450}}"#
            )
        );
    }

    #[test]
    fn only_limits_that_were_set_and_are_below_usage_are_warned_about() {
        let catalog = ResourceCatalog::default();
        let id = |name| catalog.by_name(name).unwrap().id();
        let usage = vec![Usage { current: 10, limit: Limit::of(5) }; catalog.len()];
        let changes = LimitSet::new()
            .with(id("users"), Limit::of(10))
            .with(id("segments"), Limit::of(9))
            .with(id("journeys"), Limit::Unlimited);
        let warnings = below_usage(&catalog, &changes, &usage);
        assert_eq!(warnings, ["maxSegments is 9, below the 10 that exist: they stay, and new ones are over the limit"]);
    }

    #[test]
    fn warnings_are_absent_when_there_are_none() {
        let catalog = ResourceCatalog::default();
        let view = view(&[Limit::of(1); 8]);
        let body = serde_json::to_value(UpdateAnswer::new(&catalog, &view, &[])).unwrap();
        assert!(body.get("warnings").is_none() && body["quota"]["maxUsers"] == 1);
        let body = serde_json::to_value(UpdateAnswer::new(&catalog, &view, &["w".to_owned()])).unwrap();
        assert_eq!(body["warnings"], json!(["w"]));
    }

    #[test]
    fn verdicts() {
        let check = Check { usage: Usage { current: 45, limit: Limit::of(50) }, refusal: None };
        assert_eq!(
            serde_json::to_value(Verdict::new(&check, 5, true)).unwrap(),
            json!({"allowed": true, "currentUsage": 45, "limit": 50, "remaining": 5, "percentUsed": 90,
                   "wouldExceed": false})
        );
        assert!(Verdict::new(&check, 6, true).would_exceed);
        let check = Check { usage: Usage { current: 45, limit: Limit::Unlimited }, refusal: None };
        let body = serde_json::to_value(Verdict::new(&check, u64::MAX, true)).unwrap();
        assert!(body["limit"].is_null() && body["remaining"].is_null() && body["wouldExceed"] == false);
    }

    #[test]
    fn requests_in_flight_show_in_a_verdict() {
        let catalog = ResourceCatalog::default();
        let check = Check {
            usage: Usage { current: 45, limit: Limit::of(50) },
            refusal: Some(crate::Refusal {
                workspace: acme(),
                resource: Arc::clone(catalog.by_name("segments").unwrap()),
                current_usage: 45,
                limit: 50,
                requested: 3,
                remaining: 2,
                cap: None,
                reserved: Some(3),
                retry_after: None,
                receipt: crate::DecisionReceipt {
                    workspace: acme(),
                    admitted: false,
                    promise: crate::Promise::Exact,
                    evidence: Vec::new(),
                },
            }),
        };
        let body = serde_json::to_value(Verdict::new(&check, 3, false)).unwrap();
        assert_eq!(body["remaining"], 2);
        assert_eq!(body["reserved"], 3);
        assert_eq!(body["wouldExceed"], true);
    }

    #[test]
    fn drift_is_signed() {
        let catalog = ResourceCatalog::default();
        let correction =
            |cached, actual| Correction { resource: Arc::clone(catalog.by_name("segments").unwrap()), cached, actual };
        let recount = Recount {
            usage: vec![Usage { current: 3, limit: Limit::of(5) }; catalog.len()],
            corrections: vec![correction(5, 3), correction(0, u64::MAX)],
        };
        let at: Timestamp = "2024-01-30T10:00:00.123456789Z".parse().unwrap();
        let workspace = acme();
        let text = serde_json::to_string(&RecountAnswer::new(&catalog, &workspace, &recount, at)).unwrap();
        assert!(text.starts_with(r#"{"workspaceId":"acme","usage":{"users":3,"#), "{text}");
        assert!(text.contains(r#"{"resourceType":"segments","cached":5,"actual":3,"drift":-2}"#), "{text}");
        assert!(text.contains(r#""drift":18446744073709551615"#), "{text}");
        assert!(text.ends_with(r#""recalculatedAt":"2024-01-30T10:00:00Z"}"#), "{text}");
    }
}

//! From a request to what it would create, and for whom.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use http::header::CONTENT_ENCODING;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use memchr::{memchr, memchr2};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::compile::{MappedCharge, MappedResource, MappedRule};
use super::path::{PathReading, ReadPath, Template};
use super::rule::{Amount, Probe, ProbeSource, WorkspaceClaim, WorkspaceSource};
use crate::decision::{Existing, ResolvedCharge};
use crate::problem::{ErrorCode, Problem};
use crate::resource::{ResourceId, shown};
use crate::workspace::{WorkspaceFormat, WorkspaceId};

/// What a request would create or delete, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// For whom.
    pub workspace: WorkspaceId,
    /// Of what how many, in the order of [`ResourceId`]; none that comes to 0 units.
    pub charges: Vec<ResolvedCharge>,
}

/// What needs no more than the path to be known: the usual case, without an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Direct<'m> {
    /// For whom, as the client spells it.
    pub workspace: Cow<'m, str>,
    /// Of what how many, in the order of [`ResourceId`]; all of it new rows, and as many as it says.
    pub charges: &'m [ResolvedCharge],
}

/// A request and the rule that it falls under.
#[derive(Debug)]
pub struct Match<'r> {
    rule: &'r MappedRule,
    template: &'r Template,
    read: ReadPath<'r>,
    reading: PathReading,
    /// The value of the template's first parameter, where it was found on the way.
    first: Option<&'r str>,
}

impl<'r> Match<'r> {
    #[inline]
    pub(super) fn new(
        (rule, template): (&'r MappedRule, &'r Template),
        read: ReadPath<'r>,
        reading: PathReading,
        first: Option<&'r str>,
    ) -> Self {
        Self { rule, template, read, reading, first }
    }

    /// The rule.
    #[inline]
    pub fn rule(&self) -> &'r MappedRule {
        self.rule
    }

    /// The template of the rule that the path has, as it was written.
    pub fn template(&self) -> &'r str {
        self.template.written()
    }

    /// What the request comes to, where its path is all that the rule needs, before the response and after; `None` where
    /// it takes [`resolve`](Self::resolve).
    ///
    /// The error in it is a 400: the parameter that names the workspace is not text.
    #[inline]
    pub fn direct(&self) -> Option<Result<Direct<'_>, Problem>> {
        let plan = self.rule.direct.as_ref()?;
        let workspace = match self.param(&plan.param) {
            Ok(Some(workspace)) => workspace,
            Ok(None) => return Some(Err(self.no_workspace())),
            Err(problem) => return Some(Err(problem)),
        };
        Some(Ok(Direct { workspace, charges: &plan.charges }))
    }

    /// What the request comes to. `body` is the whole body where the rule [needs it](MappedRule::needs_body), and is
    /// read as JSON whatever type it declares; without one, and with an empty one, all its fields are absent.
    ///
    /// # Errors
    ///
    /// The answer to give instead: 400 for a request that leaves out or contradicts what the rule goes by, or the error
    /// of a [resolver](super::WorkspaceResolver).
    pub async fn resolve(
        &self,
        parts: &Parts,
        body: Option<&[u8]>,
        format: WorkspaceFormat,
    ) -> Result<Resolved, Problem> {
        let trusted = self.trusted(parts).await?;
        let reads_body = match trusted {
            Some(_) => self.rule.charges_read_body(),
            None => self.rule.needs_body(),
        };
        let raw = body.unwrap_or_default();
        let json = match reads_body {
            true => {
                readable(&parts.headers)?;
                if self.rule.counts_lines { None } else { parse(raw)? }
            }
            false => None,
        };
        let request = Request { matched: self, headers: &parts.headers, query: self.query(parts), raw, body: json };
        let workspace = match trusted {
            Some(trusted) => format.parse(&trusted).map_err(|error| Problem::from(&error))?,
            None => request.workspace(format)?,
        };
        let mut charges = Vec::with_capacity(self.rule.charges.len());
        let mut named = HashSet::new();
        for charge in &self.rule.charges {
            charges.extend(request.charge(charge, &mut named)?);
        }
        Ok(Resolved { workspace, charges: merge(charges) })
    }

    /// The workspace by the first trusted source that knows it.
    async fn trusted(&self, parts: &Parts) -> Result<Option<String>, Problem> {
        for source in &self.rule.workspace {
            let known = match source {
                WorkspaceSource::Extension => parts.extensions.get::<WorkspaceClaim>().map(|claim| claim.0.clone()),
                WorkspaceSource::Resolver(resolver) => {
                    resolver.resolve(parts).await.map_err(|error| Problem::from(&error))?
                }
                _ => None,
            };
            if known.is_some() {
                return Ok(known);
            }
        }
        Ok(None)
    }

    /// A path parameter, decoded once.
    #[inline]
    fn param(&self, name: &str) -> Result<Option<Cow<'_, str>>, Problem> {
        let known = self.first.filter(|_| self.template.first_param() == Some(name));
        let searched = || self.template.param(&self.read.path, name, self.reading);
        let Some(encoded) = known.or_else(searched) else { return Ok(None) };
        if memchr(b'%', encoded.as_bytes()).is_none() {
            return Ok(Some(Cow::Borrowed(encoded)));
        }
        match percent_decode_str(encoded).decode_utf8() {
            Ok(decoded) => Ok(Some(decoded)),
            Err(_) => Err(invalid(format!("the path parameter `{name}` is not UTF-8 once it is percent-decoded"))),
        }
    }

    /// The query as the router behind sees it.
    fn query<'p>(&'p self, parts: &'p Parts) -> Cow<'p, str> {
        match (self.read.tail, parts.uri.query()) {
            (None, query) => Cow::Borrowed(query.unwrap_or_default()),
            (Some(tail), None) => Cow::Borrowed(tail),
            (Some(tail), Some(query)) => Cow::Owned(format!("{tail}?{query}")),
        }
    }

    fn no_workspace(&self) -> Problem {
        let places: Vec<String> = self.rule.workspace.iter().map(ToString::to_string).collect();
        invalid(format!("the request names no workspace; looked in {}", places.join(", ")))
    }
}

/// What a rule is resolved against.
struct Request<'p> {
    matched: &'p Match<'p>,
    headers: &'p HeaderMap,
    query: Cow<'p, str>,
    raw: &'p [u8],
    body: Option<Value>,
}

/// Values that a request names, each with the resource type, the column in which a row would have it, and whether that row
/// may be one that isn't counted: two charges may name one row.
type Named<'r> = HashSet<(ResourceId, &'r str, bool, Identity<'r>)>;

impl Request<'_> {
    /// The workspace that the client names, in all the places where it does.
    fn workspace(&self, format: WorkspaceFormat) -> Result<WorkspaceId, Problem> {
        let mut named: Option<(WorkspaceId, &WorkspaceSource)> = None;
        for source in self.matched.rule.workspace.iter().filter(|source| !source.is_trusted()) {
            for raw in self.claims(source)? {
                let id = format.parse(&raw).map_err(|error| invalid(format!("{source}: {error}")))?;
                match &named {
                    None => named = Some((id, source)),
                    Some((other, _)) if *other == id => {}
                    Some((other, place)) => {
                        return Err(Problem::new(
                            ErrorCode::WorkspaceMismatch,
                            format!(
                                "the request names two workspaces: {} in {place} and {} in {source}",
                                shown(other.as_str()),
                                shown(id.as_str())
                            ),
                        ));
                    }
                }
            }
        }
        named.map(|(id, _)| id).ok_or_else(|| self.matched.no_workspace())
    }

    /// All that `source` says.
    fn claims(&self, source: &WorkspaceSource) -> Result<Vec<Cow<'_, str>>, Problem> {
        match source {
            WorkspaceSource::Path(param) => Ok(self.matched.param(param)?.into_iter().collect()),
            WorkspaceSource::Header(name) => {
                let text = |value: &HeaderValue| match value.to_str() {
                    Ok(text) => Ok(Cow::Owned(text.to_owned())),
                    Err(_) => Err(invalid(format!("{source} has characters outside ASCII"))),
                };
                self.headers.get_all(name).iter().map(text).collect()
            }
            WorkspaceSource::Query(key) => self.query_values(key),
            WorkspaceSource::Body(pointer) => Ok(self.named(pointer)?.map(Identity::into_text).into_iter().collect()),
            WorkspaceSource::Extension | WorkspaceSource::Resolver(_) => Ok(Vec::new()),
        }
    }

    /// The values of a query parameter, form-decoded (WHATWG URL, 5.1).
    fn query_values(&self, key: &str) -> Result<Vec<Cow<'_, str>>, Problem> {
        let mut values = Vec::new();
        for pair in self.query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if form_decode(name).is_some_and(|name| name == key) {
                match form_decode(value) {
                    Some(value) => values.push(value),
                    None => {
                        return Err(invalid(format!("the query parameter `{key}` is not UTF-8 once it is decoded")));
                    }
                }
            }
        }
        Ok(values)
    }

    fn field(&self, pointer: &str) -> Option<&Value> {
        self.body.as_ref()?.pointer(pointer).filter(|value| !value.is_null())
    }

    /// What the string or number at `pointer` names.
    fn named(&self, pointer: &str) -> Result<Option<Identity<'_>>, Problem> {
        let Some(value) = self.field(pointer) else { return Ok(None) };
        match self.identity(value) {
            Some(identity) => Ok(Some(identity)),
            None => Err(invalid(format!("the body field `{pointer}` is {}", self.expected()))),
        }
    }

    fn identity<'v>(&self, value: &'v Value) -> Option<Identity<'v>> {
        Identity::of(value).filter(|identity| !self.matched.rule.doubles || identity.is_exact_as_double())
    }

    fn expected(&self) -> &'static str {
        match self.matched.rule.doubles {
            true => "a string or a whole number of at most 2^53 - 1",
            false => "a string or a whole number that fits 64 bits",
        }
    }

    /// `None` where nothing is charged that a charge before it wasn't charged for.
    fn charge<'r>(
        &'r self,
        charge: &'r MappedCharge,
        named: &mut Named<'r>,
    ) -> Result<Option<ResolvedCharge>, Problem> {
        if !charge.when.iter().all(|predicate| predicate.holds(self.body.as_ref())) {
            return Ok(None);
        }
        let resource = self.resource(&charge.resource)?;
        let (units, mut existing) = match &charge.amount {
            Amount::Constant(units) | Amount::AtMost(units) => (*units, Existing::No),
            Amount::LinesAfter(first) => (lines(self.raw).saturating_sub(*first), Existing::No),
            Amount::Length(array) => (length(&self.elements(charge, array)?), Existing::No),
            Amount::Distinct { array, element } => {
                (length(&self.distinct(charge, array, element, |_| true)?), Existing::No)
            }
            Amount::DistinctUnknown { array, element, column } => {
                let new = |value| named.insert((resource, &**column, false, value));
                let values = self.distinct(charge, array, element, new)?.into_iter();
                let values: Vec<String> = values.map(|value| value.into_text().into_owned()).collect();
                (length(&values), Existing::Rows { column: Arc::clone(column), values })
            }
        };
        if units == 0 {
            return Ok(None);
        }
        for probe in &charge.probes {
            let Some((value, identity)) = self.probed(charge, probe)? else { continue };
            let mut is_new = |identity| named.insert((resource, &*probe.column, probe.uncounted, identity));
            if !identity.is_none_or(&mut is_new) && charge.amount == Amount::Constant(1) {
                return Ok(None);
            }
            existing = Existing::Row { column: Arc::clone(&probe.column), value, uncounted: probe.uncounted };
            break;
        }
        let settle_by_count = matches!(charge.amount, Amount::AtMost(_) | Amount::LinesAfter(_));
        Ok(Some(ResolvedCharge { resource, units, existing, settle_by_count }))
    }

    fn resource(&self, resource: &MappedResource) -> Result<ResourceId, Problem> {
        let (field, values) = match resource {
            MappedResource::Fixed(id) => return Ok(*id),
            MappedResource::Chosen { field, values } => (field, values),
        };
        let valid = || values.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let Some(chosen) = self.field(field).and_then(Value::as_str) else {
            return Err(invalid(format!("the body field `{field}` is a string: one of {}", valid())));
        };
        values.get(chosen).copied().ok_or_else(|| {
            let message = format!("the body field `{field}` is {}: write one of {}", shown(chosen), valid());
            Problem::new(ErrorCode::InvalidResourceType, message)
        })
    }

    fn array(&self, pointer: &str) -> Result<&[Value], Problem> {
        match self.field(pointer) {
            Some(Value::Array(elements)) => Ok(elements),
            Some(_) => Err(invalid(format!("{} is an array", place(pointer)))),
            None => Err(invalid(format!("{} is missing: it is an array", place(pointer)))),
        }
    }

    /// The elements of an array that are counted, each with its place.
    fn elements(&self, charge: &MappedCharge, array: &str) -> Result<Vec<(usize, &Value)>, Problem> {
        let counted = |element: &Value| charge.when_each.iter().all(|predicate| predicate.holds(Some(element)));
        Ok(self.array(array)?.iter().enumerate().filter(|(_, element)| counted(element)).collect())
    }

    /// The different values in an array, in their order, of which `new` says that they are.
    fn distinct<'r>(
        &'r self,
        charge: &MappedCharge,
        array: &str,
        element: &[String],
        mut new: impl FnMut(Identity<'r>) -> bool,
    ) -> Result<Vec<Identity<'r>>, Problem> {
        let elements = self.elements(charge, array)?;
        let mut seen = HashSet::with_capacity(elements.len());
        let mut values = Vec::new();
        for (at, value) in elements {
            let mut found = element.iter().filter_map(|pointer| value.pointer(pointer));
            let found = found.find(|value| charge.null_is_empty || !value.is_null());
            let identity = match found {
                Some(Value::Null) => Some(Identity::EMPTY),
                found => found.and_then(|value| self.identity(value)),
            };
            // An element without a value may well become a row, so that it can't be passed over.
            let Some(identity) = identity else {
                let places: Vec<String> = element.iter().map(|pointer| format!("`{array}/{at}{pointer}`")).collect();
                return Err(invalid(format!("the body field {} is {}", places.join(" or "), self.expected())));
            };
            if seen.insert(identity) && new(identity) {
                values.push(identity);
            }
        }
        Ok(values)
    }

    /// The value that is looked up; where it is of the body, what it is there, too.
    fn probed(&self, charge: &MappedCharge, probe: &Probe) -> Result<Option<(String, Option<Identity<'_>>)>, Problem> {
        let mut identity = None;
        let value = match &probe.source {
            ProbeSource::Body(pointer) => {
                let found = self.body.as_ref().and_then(|body| body.pointer(pointer));
                identity = match charge.null_is_empty && found.is_some_and(Value::is_null) {
                    true => Some(Identity::EMPTY),
                    false => self.named(pointer)?,
                };
                identity.map(Identity::into_text)
            }
            ProbeSource::Path(param) => self.matched.param(param)?,
            ProbeSource::Query(key) => {
                let mut values = self.query_values(key)?.into_iter();
                let first = values.next();
                // Which of them the handler takes is anybody's guess, and a wrong one would make a row unseen.
                if values.any(|other| Some(&other) != first.as_ref()) {
                    return Err(invalid(format!("the query parameter `{key}` is given twice, with different values")));
                }
                first
            }
        };
        let Some(value) = value else { return Ok(None) };
        if !probe.uuid {
            return Ok(Some((value.into_owned(), identity)));
        }
        match WorkspaceFormat::Uuid.parse(&value) {
            Ok(id) => Ok(Some((id.as_str().to_owned(), identity))),
            Err(_) => {
                let place = match &probe.source {
                    ProbeSource::Body(pointer) => format!("body field `{pointer}`"),
                    ProbeSource::Path(param) => format!("path parameter `{param}`"),
                    ProbeSource::Query(key) => format!("query parameter `{key}`"),
                };
                Err(invalid(format!(
                    "the {place} is {}: write a UUID such as 0190163d-8694-739b-aea5-966c26f8ad91",
                    shown(&value)
                )))
            }
        }
    }
}

/// Adds up what can be added up, in the order of ids.
pub(super) fn merge(mut charges: Vec<ResolvedCharge>) -> Vec<ResolvedCharge> {
    charges.sort_by_key(|charge| (charge.resource, charge.existing != Existing::No));
    charges.dedup_by(|next, kept| {
        let same = next.resource == kept.resource && next.existing == Existing::No && kept.existing == Existing::No;
        if same {
            kept.units = kept.units.saturating_add(next.units);
            kept.settle_by_count |= next.settle_by_count;
        }
        same
    });
    charges
}

/// Refuses a body that can't be read.
fn readable(headers: &HeaderMap) -> Result<(), Problem> {
    let codings = headers.get_all(CONTENT_ENCODING).iter();
    for coding in codings.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let coding = coding.trim_ascii();
        // A guess at what is in it would be a way past the quota.
        if !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity") {
            return Err(invalid(
                "the body is compressed (`content-encoding`), and a quota depends on it; send it uncompressed",
            ));
        }
    }
    Ok(())
}

/// How many lines there are, with the one that no line break ends.
fn lines(text: &[u8]) -> u64 {
    let (mut lines, mut rest) = (0, text);
    while !rest.is_empty() {
        lines += 1;
        let Some(at) = memchr2(b'\n', b'\r', rest) else { break };
        let end = if rest[at..].starts_with(b"\r\n") { at + 2 } else { at + 1 };
        rest = &rest[end..];
    }
    lines
}

/// The body as JSON; `None` for an empty one.
fn parse(body: &[u8]) -> Result<Option<Value>, Problem> {
    // A byte order mark is not JSON, but parsers may ignore it (RFC 8259, 8.1), and many do.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(body).map(Some).map_err(|error| invalid(format!("the body is not valid JSON: {error}")))
}

/// A value of the body that names something. Two that the service behind may tell apart are not equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Identity<'v> {
    Text(&'v str),
    Unsigned(u64),
    Negative(i64),
}

impl<'v> Identity<'v> {
    const EMPTY: Identity<'static> = Identity::Text("");

    /// `None` too for a fraction and a number beyond 64 bits: read as doubles, two of them may be one here and two there.
    fn of(value: &'v Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text)),
            Value::Number(number) => {
                number.as_u64().map(Self::Unsigned).or_else(|| number.as_i64().map(Self::Negative))
            }
            _ => None,
        }
    }

    /// Whether it is the same where numbers are doubles, to which those next to it are others (RFC 8259, 6).
    fn is_exact_as_double(self) -> bool {
        const MOST: u64 = (1 << 53) - 1;
        match self {
            Self::Text(_) => true,
            Self::Unsigned(number) => number <= MOST,
            Self::Negative(number) => number.unsigned_abs() <= MOST,
        }
    }

    fn into_text(self) -> Cow<'v, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Unsigned(number) => Cow::Owned(number.to_string()),
            Self::Negative(number) => Cow::Owned(number.to_string()),
        }
    }
}

fn form_decode(encoded: &str) -> Option<Cow<'_, str>> {
    if !encoded.contains('+') {
        return percent_decode_str(encoded).decode_utf8().ok();
    }
    let spaced = encoded.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|decoded| Cow::Owned(decoded.into_owned()))
}

fn length<T>(values: &[T]) -> u64 {
    u64::try_from(values.len()).unwrap_or(u64::MAX)
}

fn place(pointer: &str) -> String {
    match pointer {
        "" => "the body".into(),
        _ => format!("the body field `{pointer}`"),
    }
}

fn invalid(message: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::InvalidRequest, message)
}

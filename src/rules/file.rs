//! Route maps from files: one schema, in TOML and in JSON.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use http::{HeaderName, Method};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::map::{RouteMap, RouteMapBuilder, check_prefix};
use super::path::PathReading;
use super::rule::{
    Amount, Charge, OnFailure, Operation, Predicate, Probe, ProbeSource, Resource, Rule, Test, WorkspaceSource,
};
use crate::body::check_pointer;
use crate::error::Error;
use crate::limit::Limit;
use crate::resource::{ResourceCatalog, ResourceCatalogBuilder, ResourceSpec};
use crate::workspace::WorkspaceFormat;

/// The file, with resource types as `T` and rules as `R`: each format keeps in its own way where they stand.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "T: Deserialize<'de>, R: Deserialize<'de>"))]
struct File<T, R> {
    #[serde(default)]
    path_reading: PathReading,
    workspace_format: Option<WorkspaceFormat>,
    #[serde(default)]
    workspace: Vec<Source>,
    body_cap: Option<NonZeroUsize>,
    #[serde(default)]
    numbers_are_doubles: bool,
    #[serde(default)]
    strict_prefixes: Vec<Prefix>,
    #[serde(default = "Vec::new")]
    resource: Vec<T>,
    #[serde(default = "Vec::new")]
    rule: Vec<R>,
}

/// A resource type that the file declares.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypeEntry {
    name: String,
    limit_field: String,
    default: DefaultLimit,
    label: Option<String>,
    table: Option<String>,
}

struct DefaultLimit(Limit);

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Source {
    Path(String),
    #[serde(deserialize_with = "header_name")]
    Header(HeaderName),
    Query(String),
    Body(Pointer),
    Extension,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    name: String,
    #[serde(deserialize_with = "methods")]
    methods: Vec<Method>,
    #[serde(deserialize_with = "paths")]
    paths: Vec<String>,
    #[serde(default)]
    operation: Operation,
    #[serde(default)]
    on_failure: OnFailure,
    body_cap: Option<NonZeroUsize>,
    late_rows_seconds: Option<NonZeroU64>,
    #[serde(default)]
    workspace: Vec<Source>,
    #[serde(default)]
    charge: Vec<ChargeEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargeEntry {
    resource: ResourceEntry,
    #[serde(default)]
    amount: AmountEntry,
    #[serde(default)]
    when: Vec<PredicateEntry>,
    #[serde(default)]
    when_each: Vec<PredicateEntry>,
    #[serde(default)]
    probe: Vec<ProbeEntry>,
    #[serde(default)]
    null_is_empty: bool,
}

/// A name, or a table for a type that the body chooses.
enum ResourceEntry {
    Fixed(String),
    Chosen(ChosenEntry),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChosenEntry {
    field: Pointer,
    values: BTreeMap<String, String>,
}

/// A number, or a table for one that the request decides.
enum AmountEntry {
    Constant(NonZeroU64),
    Counted(CountedEntry),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum CountedEntry {
    Length(Pointer),
    Distinct(DistinctEntry),
    DistinctUnknown(DistinctUnknownEntry),
    AtMost(NonZeroU64),
    LinesAfter(u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DistinctEntry {
    array: Pointer,
    #[serde(default)]
    element: Elements,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DistinctUnknownEntry {
    array: Pointer,
    #[serde(default)]
    element: Elements,
    column: String,
}

#[derive(Deserialize)]
#[serde(try_from = "PredicateFields")]
struct PredicateEntry(Predicate);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PredicateFields {
    field: Pointer,
    equals: Option<Value>,
    not_equals: Option<Value>,
    present: Option<bool>,
}

#[derive(Deserialize)]
#[serde(try_from = "ProbeFields")]
struct ProbeEntry(Probe);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeFields {
    body: Option<Pointer>,
    path: Option<String>,
    query: Option<String>,
    column: String,
    #[serde(default)]
    uuid: bool,
    #[serde(default)]
    uncounted: bool,
}

/// A JSON pointer, checked where it stands so that the error has its line.
#[derive(Deserialize, Default)]
#[serde(try_from = "String")]
struct Pointer(String);

/// A strict prefix, checked where it stands.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Prefix(String);

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(prefix: String) -> Result<Self, String> {
        check_prefix(&prefix).map(|()| Self(prefix))
    }
}

/// One pointer, or several that are tried in turn; left out, the element itself.
struct Elements(Vec<Pointer>);

impl Elements {
    fn pointers(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|pointer| pointer.0)
    }
}

impl Default for Elements {
    fn default() -> Self {
        Self(vec![Pointer::default()])
    }
}

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Elements;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON pointer or a list of them")
            }

            fn visit_str<E: de::Error>(self, pointer: &str) -> Result<Elements, E> {
                let pointer = Pointer::try_from(pointer.to_owned()).map_err(E::custom)?;
                Ok(Elements(vec![pointer]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, pointers: A) -> Result<Elements, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(pointers)).map(Elements)
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

impl TryFrom<String> for Pointer {
    type Error = String;

    fn try_from(pointer: String) -> Result<Self, String> {
        check_pointer(&pointer).map(|()| Self(pointer))
    }
}

impl TryFrom<PredicateFields> for PredicateEntry {
    type Error = &'static str;

    fn try_from(fields: PredicateFields) -> Result<Self, Self::Error> {
        let test = match (fields.equals, fields.not_equals, fields.present) {
            (Some(value), None, None) => Test::Equals(value),
            (None, Some(value), None) => Test::NotEquals(value),
            (None, None, Some(true)) => Test::Present,
            (None, None, Some(false)) => Test::Absent,
            _ => return Err("a condition has one of `equals`, `not_equals` and `present`"),
        };
        Ok(Self(Predicate { field: fields.field.0, test }))
    }
}

impl TryFrom<ProbeFields> for ProbeEntry {
    type Error = &'static str;

    fn try_from(fields: ProbeFields) -> Result<Self, Self::Error> {
        let source = match (fields.body, fields.path, fields.query) {
            (Some(pointer), None, None) => ProbeSource::Body(pointer.0),
            (None, Some(param), None) => ProbeSource::Path(param),
            (None, None, Some(key)) => ProbeSource::Query(key),
            _ => return Err("a probe has one of `body`, `path` and `query`"),
        };
        let ProbeFields { column, uuid, uncounted, .. } = fields;
        Ok(Self(Probe { source, column: column.into(), uuid, uncounted }))
    }
}

impl<'de> Deserialize<'de> for ResourceEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = ResourceEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a resource type, or a table of `field` and `values`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<ResourceEntry, E> {
                Ok(ResourceEntry::Fixed(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ResourceEntry, A::Error> {
                ChosenEntry::deserialize(MapAccessDeserializer::new(map)).map(ResourceEntry::Chosen)
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}

impl<'de> Deserialize<'de> for AmountEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrTable;

        impl NumberOrTable {
            fn number<E: de::Error>(units: Option<u64>) -> Result<AmountEntry, E> {
                match units.and_then(NonZeroU64::new) {
                    Some(units) => Ok(AmountEntry::Constant(units)),
                    None => Err(E::custom("an amount is 1 or more")),
                }
            }
        }

        impl<'de> Visitor<'de> for NumberOrTable {
            type Value = AmountEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or a table with `length`, `distinct`, `distinct_unknown`, `at_most` or `lines_after`")
            }

            fn visit_i64<E: de::Error>(self, units: i64) -> Result<AmountEntry, E> {
                Self::number(u64::try_from(units).ok())
            }

            fn visit_u64<E: de::Error>(self, units: u64) -> Result<AmountEntry, E> {
                Self::number(Some(units))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AmountEntry, A::Error> {
                CountedEntry::deserialize(MapAccessDeserializer::new(map)).map(AmountEntry::Counted)
            }
        }

        deserializer.deserialize_any(NumberOrTable)
    }
}

impl Default for AmountEntry {
    fn default() -> Self {
        Self::Constant(NonZeroU64::MIN)
    }
}

impl<'de> Deserialize<'de> for DefaultLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrUnlimited;

        impl NumberOrUnlimited {
            fn number<E: de::Error>(self, rows: Option<u64>) -> Result<DefaultLimit, E> {
                match rows.map(Limit::finite) {
                    Some(Ok(limit)) => Ok(DefaultLimit(limit)),
                    _ => Err(E::custom(format!("a default is {EXPECTED_DEFAULT}"))),
                }
            }
        }

        impl<'de> Visitor<'de> for NumberOrUnlimited {
            type Value = DefaultLimit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED_DEFAULT)
            }

            fn visit_i64<E: de::Error>(self, rows: i64) -> Result<DefaultLimit, E> {
                self.number(u64::try_from(rows).ok())
            }

            fn visit_u64<E: de::Error>(self, rows: u64) -> Result<DefaultLimit, E> {
                self.number(Some(rows))
            }

            // TOML has no null.
            fn visit_str<E: de::Error>(self, word: &str) -> Result<DefaultLimit, E> {
                match word {
                    "unlimited" => Ok(DefaultLimit(Limit::Unlimited)),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }

            fn visit_unit<E: de::Error>(self) -> Result<DefaultLimit, E> {
                Ok(DefaultLimit(Limit::Unlimited))
            }
        }

        deserializer.deserialize_any(NumberOrUnlimited)
    }
}

const EXPECTED_DEFAULT: &str = "a whole number of 0 to 9223372036854775807, or \"unlimited\"";

fn header_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HeaderName, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map_err(|_| de::Error::custom(format!("{name:?} is not the name of a header")))
}

fn methods<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Method>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    if names.is_empty() {
        return Err(de::Error::custom("`methods` has at least one method"));
    }
    let method = |name: &String| match name.parse() {
        // Methods are case-sensitive (RFC 9110, 9.1): a rule on `put` would never match.
        Ok(method) if !name.bytes().any(|byte| byte.is_ascii_lowercase()) => Ok(method),
        _ => Err(de::Error::custom(format!("{name:?} is not a method: write it in capitals, such as \"PUT\""))),
    };
    names.iter().map(method).collect()
}

fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let paths = Vec::<String>::deserialize(deserializer)?;
    match paths.is_empty() {
        true => Err(de::Error::custom("`paths` has at least one path")),
        false => Ok(paths),
    }
}

impl From<Source> for WorkspaceSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Path(param) => Self::Path(param),
            Source::Header(name) => Self::Header(name),
            Source::Query(key) => Self::Query(key),
            Source::Body(pointer) => Self::Body(pointer.0),
            Source::Extension => Self::Extension,
        }
    }
}

impl From<AmountEntry> for Amount {
    fn from(amount: AmountEntry) -> Self {
        match amount {
            AmountEntry::Constant(units) => Self::Constant(units.get()),
            AmountEntry::Counted(CountedEntry::Length(array)) => Self::Length(array.0),
            AmountEntry::Counted(CountedEntry::Distinct(entry)) => {
                Self::distinct(entry.array.0, entry.element.pointers())
            }
            AmountEntry::Counted(CountedEntry::DistinctUnknown(entry)) => {
                Self::distinct_unknown(entry.array.0, entry.element.pointers(), entry.column)
            }
            AmountEntry::Counted(CountedEntry::AtMost(units)) => Self::AtMost(units.get()),
            AmountEntry::Counted(CountedEntry::LinesAfter(first)) => Self::LinesAfter(first),
        }
    }
}

impl From<ChargeEntry> for Charge {
    fn from(entry: ChargeEntry) -> Self {
        let resource = match entry.resource {
            ResourceEntry::Fixed(name) => Resource::Fixed(name),
            ResourceEntry::Chosen(chosen) => Resource::Chosen { field: chosen.field.0, values: chosen.values },
        };
        Self {
            amount: entry.amount.into(),
            when: entry.when.into_iter().map(|entry| entry.0).collect(),
            when_each: entry.when_each.into_iter().map(|entry| entry.0).collect(),
            probes: entry.probe.into_iter().map(|entry| entry.0).collect(),
            null_is_empty: entry.null_is_empty,
            ..Self::new(resource)
        }
    }
}

impl From<RuleEntry> for Rule {
    fn from(entry: RuleEntry) -> Self {
        Self {
            name: entry.name,
            methods: entry.methods,
            paths: entry.paths,
            operation: entry.operation,
            charges: entry.charge.into_iter().map(Charge::from).collect(),
            workspace: entry.workspace.into_iter().map(WorkspaceSource::from).collect(),
            body_cap: entry.body_cap.map(NonZeroUsize::get),
            on_failure: entry.on_failure,
            late_rows: entry.late_rows_seconds.map(|seconds| Duration::from_secs(seconds.get())),
        }
    }
}

impl From<TypeEntry> for ResourceSpec {
    fn from(entry: TypeEntry) -> Self {
        let mut spec = Self::new(entry.name, entry.limit_field, entry.default.0);
        if let Some(label) = entry.label {
            spec = spec.label(label);
        }
        if let Some(table) = entry.table {
            spec = spec.table(table);
        }
        spec
    }
}

/// An entry of the file, and the line on which it begins.
struct Placed<T> {
    line: usize,
    entry: T,
}

/// What is in the file several times, by the key that begins each.
#[derive(Debug, Clone, Copy)]
enum Entry {
    Resource,
    Rule,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resource => "resource",
            Self::Rule => "rule",
        })
    }
}

/// What the types of the file are held against.
enum Types<'a> {
    /// They must be there.
    In(&'a ResourceCatalog),
    /// They are added.
    Beside(ResourceCatalogBuilder),
}

impl Types<'_> {
    fn catalog(self, declared: Vec<Placed<ResourceSpec>>) -> Result<ResourceCatalog, Error> {
        let wrong_at = |Placed { line, entry }: &Placed<ResourceSpec>, message: &str| {
            wrong(Some(*line), Some((Entry::Resource, entry.name())), message)
        };
        let mut names = HashSet::new();
        for placed in &declared {
            if !names.insert(placed.entry.name()) {
                return Err(wrong_at(placed, "it is declared twice in the file"));
            }
        }
        let known: HashMap<String, ResourceSpec> = match &self {
            Self::In(catalog) => catalog.iter().map(|resource| resource.spec()).map(by_name).collect(),
            Self::Beside(base) => base.specs().iter().cloned().map(by_name).collect(),
        };
        let mut new = Vec::new();
        for placed in declared {
            match known.get(placed.entry.name()).map(|known| placed.entry.contradictions(known)) {
                None => new.push(placed),
                Some(None) => {}
                Some(Some(differ)) => {
                    return Err(wrong_at(&placed, &differ));
                }
            }
        }
        match self {
            Self::In(catalog) => match new.first() {
                None => Ok(catalog.clone()),
                Some(placed) => Err(wrong_at(
                    placed,
                    &format!(
                        "the catalog doesn't have it, which has {}: add the types of the file to it with \
                         RouteMap::with_types_from_toml or with_types_from_json",
                        catalog.names()
                    ),
                )),
            },
            Self::Beside(base) => {
                let known = base.specs().len();
                let builder = new.iter().fold(base, |builder, placed| builder.resource(placed.entry.clone()));
                builder.checked().map_err(|(at, error)| match at.and_then(|at| new.get(at.checked_sub(known)?)) {
                    Some(placed) => wrong_at(placed, error.message()),
                    None => error,
                })
            }
        }
    }
}

fn by_name(spec: ResourceSpec) -> (String, ResourceSpec) {
    (spec.name().to_owned(), spec)
}

impl File<Placed<ResourceSpec>, Placed<Rule>> {
    fn build(self, types: Types<'_>) -> Result<RouteMap, Error> {
        let catalog = types.catalog(self.resource)?;
        let mut builder = RouteMap::builder(&catalog).path_reading(self.path_reading);
        if let Some(format) = self.workspace_format {
            builder = builder.workspace_format(format);
        }
        if let Some(bytes) = self.body_cap {
            builder = builder.body_cap(bytes.get());
        }
        if self.numbers_are_doubles {
            builder = builder.numbers_are_doubles();
        }
        builder = self.workspace.into_iter().map(WorkspaceSource::from).fold(builder, RouteMapBuilder::workspace);
        builder = self.strict_prefixes.into_iter().map(|prefix| prefix.0).fold(builder, RouteMapBuilder::strict_prefix);
        let lines: Vec<usize> = self.rule.iter().map(|placed| placed.line).collect();
        builder = self.rule.into_iter().map(|placed| placed.entry).fold(builder, RouteMapBuilder::rule);
        builder.assemble().map_err(|error| match &error.rule {
            Some((at, name)) => wrong(lines.get(*at).copied(), Some((Entry::Rule, name)), &error.message),
            None => error.into(),
        })
    }
}

impl<T, R> File<T, R> {
    fn place(
        self,
        resource: impl FnMut(T) -> Result<Placed<ResourceSpec>, Error>,
        rule: impl FnMut(R) -> Result<Placed<Rule>, Error>,
    ) -> Result<File<Placed<ResourceSpec>, Placed<Rule>>, Error> {
        Ok(File {
            path_reading: self.path_reading,
            workspace_format: self.workspace_format,
            workspace: self.workspace,
            body_cap: self.body_cap,
            numbers_are_doubles: self.numbers_are_doubles,
            strict_prefixes: self.strict_prefixes,
            resource: self.resource.into_iter().map(resource).collect::<Result<_, _>>()?,
            rule: self.rule.into_iter().map(rule).collect::<Result<_, _>>()?,
        })
    }
}

impl RouteMap {
    /// Builds the map that `text` describes in TOML: see [Route map files](RouteMap#route-map-files).
    ///
    /// # Errors
    ///
    /// Those of [`RouteMapBuilder::build`], and those of the text itself. The message begins with the line, and names the
    /// rule: `line 12, rule "create-segment": unknown field …`. Resource types that the file declares must be in
    /// `catalog`, as they are declared.
    #[cfg(feature = "toml")]
    pub fn from_toml(text: &str, catalog: &ResourceCatalog) -> Result<Self, Error> {
        read_toml(text)?.build(Types::In(catalog))
    }

    /// Builds the map that `text` describes in JSON: see [Route map files](RouteMap#route-map-files).
    ///
    /// # Errors
    ///
    /// Those of [`RouteMapBuilder::build`], and those of the text itself. The message begins with the line, and names the
    /// rule: `line 12, rule "create-segment": unknown field …`. Resource types that the file declares must be in
    /// `catalog`, as they are declared.
    pub fn from_json(text: &str, catalog: &ResourceCatalog) -> Result<Self, Error> {
        read_json(text)?.build(Types::In(catalog))
    }

    /// As [`from_toml`](Self::from_toml), with the types of `base` and those that the file declares, which come after them:
    /// both are in the [catalog](Self::catalog) of the map.
    ///
    /// ```
    /// use tower_quota::{ResourceCatalog, RouteMap};
    ///
    /// let routes = RouteMap::with_types_from_toml(
    ///     r#"
    ///     [[resource]]
    ///     name = "webhooks"
    ///     limit_field = "maxWebhooks"
    ///     default = 20
    ///     table = "Webhook"
    ///
    ///     [[rule]]
    ///     name = "create-webhook"
    ///     methods = ["POST"]
    ///     paths = ["/api/{ws}/webhooks"]
    ///     workspace = [{ path = "ws" }]
    ///     charge = [{ resource = "webhooks" }]
    ///     "#,
    ///     ResourceCatalog::builder(),
    /// )?;
    /// // For the engine, its store and its counts.
    /// let catalog = routes.catalog();
    /// assert_eq!(catalog.len(), 9);
    /// assert_eq!(catalog.by_name("webhooks")?.table(), Some("Webhook"));
    /// # Ok::<(), tower_quota::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As there, and those of [`ResourceCatalogBuilder::build`]. One that `base` has too must be declared alike.
    #[cfg(feature = "toml")]
    pub fn with_types_from_toml(text: &str, base: ResourceCatalogBuilder) -> Result<Self, Error> {
        read_toml(text)?.build(Types::Beside(base))
    }

    /// As [`from_json`](Self::from_json), with the types of `base` and those that the file declares, which come after them:
    /// both are in the [catalog](Self::catalog) of the map.
    ///
    /// # Errors
    ///
    /// As there, and those of [`ResourceCatalogBuilder::build`]. One that `base` has too must be declared alike.
    pub fn with_types_from_json(text: &str, base: ResourceCatalogBuilder) -> Result<Self, Error> {
        read_json(text)?.build(Types::Beside(base))
    }
}

#[cfg(feature = "toml")]
fn read_toml(text: &str) -> Result<File<Placed<ResourceSpec>, Placed<Rule>>, Error> {
    use toml::Spanned;

    fn placed<E: Into<T>, T>(text: &str, entry: Spanned<E>) -> Result<Placed<T>, Error> {
        Ok(Placed { line: line_of(text, entry.span().start), entry: entry.into_inner().into() })
    }

    let file: File<Spanned<TypeEntry>, Spanned<RuleEntry>> = toml::from_str(text).map_err(|error| {
        let holder = error.span().and_then(|span| toml_entry_at(text, span.start));
        let line = error.span().map(|span| line_of(text, span.start));
        wrong(line, holder.as_ref().map(|(entry, name)| (*entry, name.as_str())), error.message())
    })?;
    file.place(|entry| placed(text, entry), |entry| placed(text, entry))
}

fn read_json(text: &str) -> Result<File<Placed<ResourceSpec>, Placed<Rule>>, Error> {
    fn placed<'a, E: Deserialize<'a> + Into<T>, T>(
        text: &str,
        kind: Entry,
        raw: &'a RawValue,
    ) -> Result<Placed<T>, Error> {
        // The raw value is a part of the text.
        let line = line_of(text, raw.get().as_ptr().addr() - text.as_ptr().addr());
        match serde_json::from_str::<E>(raw.get()) {
            Ok(entry) => Ok(Placed { line, entry: entry.into() }),
            Err(error) => {
                let named = serde_json::from_str::<Named>(raw.get()).ok().and_then(|named| named.name);
                let holder = named.as_deref().map(|name| (kind, name));
                Err(wrong(Some(line + error.line() - 1), holder, &without_place(&error)))
            }
        }
    }

    let file: File<&RawValue, &RawValue> =
        serde_json::from_str(text).map_err(|error| wrong(Some(error.line()), None, &without_place(&error)))?;
    file.place(
        |raw| placed::<TypeEntry, _>(text, Entry::Resource, raw),
        |raw| placed::<RuleEntry, _>(text, Entry::Rule, raw),
    )
}

/// As much of an entry as it takes to name it in an error.
#[derive(Deserialize)]
struct Named {
    name: Option<String>,
}

/// The name of the entry in which the byte at `at` stands, if so much of the text can be read.
#[cfg(feature = "toml")]
fn toml_entry_at(text: &str, at: usize) -> Option<(Entry, String)> {
    #[derive(Deserialize)]
    struct Outline {
        #[serde(default)]
        resource: Vec<toml::Spanned<Named>>,
        #[serde(default)]
        rule: Vec<toml::Spanned<Named>>,
    }

    let outline: Outline = toml::from_str(text).ok()?;
    let entries = [(Entry::Resource, outline.resource), (Entry::Rule, outline.rule)];
    let entries = entries.into_iter().flat_map(|(kind, entries)| entries.into_iter().map(move |entry| (kind, entry)));
    let before = entries.filter(|(_, entry)| entry.span().start <= at);
    let (kind, holder) = before.max_by_key(|(_, entry)| entry.span().start)?;
    Some((kind, holder.into_inner().name?))
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The message without the line and column that it ends in: for a rule, they count from its start.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    message.strip_suffix(&place).unwrap_or(&message).to_owned()
}

fn wrong(line: Option<usize>, holder: Option<(Entry, &str)>, message: &str) -> Error {
    let message = message.trim_end();
    Error::config(match (line, holder) {
        (Some(line), Some((entry, name))) => format!("line {line}, {entry} {name:?}: {message}"),
        (Some(line), None) => format!("line {line}: {message}"),
        (None, Some((entry, name))) => format!("{entry} {name:?}: {message}"),
        (None, None) => message.to_owned(),
    })
}

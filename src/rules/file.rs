//! Route maps from files: one schema, in TOML and in JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};

use http::{HeaderName, Method};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::compile::check_pointer;
use super::map::{RouteMap, RouteMapBuilder, check_prefix};
use super::path::PathReading;
use super::rule::{
    Amount, Charge, OnFailure, Operation, Predicate, Probe, ProbeSource, Resource, Rule, Test, WorkspaceSource,
};
use crate::error::Error;
use crate::resource::ResourceCatalog;
use crate::workspace::WorkspaceFormat;

/// The file, with rules as `R`: each format keeps in its own way where a rule stands.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "R: Deserialize<'de>"))]
struct File<R> {
    #[serde(default)]
    path_reading: PathReading,
    workspace_format: Option<Format>,
    #[serde(default)]
    workspace: Vec<Source>,
    body_cap: Option<NonZeroUsize>,
    #[serde(default)]
    strict_prefixes: Vec<Prefix>,
    #[serde(default = "Vec::new")]
    rule: Vec<R>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Format {
    Verbatim,
    Lowercase,
    Uuid,
}

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
    probe: Vec<ProbeEntry>,
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
        Ok(Self(Probe { source, column: fields.column.into() }))
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
                f.write_str("a whole number, or a table with `length`, `distinct`, `distinct_unknown` or `at_most`")
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

impl From<Format> for WorkspaceFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Verbatim => Self::Verbatim,
            Format::Lowercase => Self::Lowercase,
            Format::Uuid => Self::Uuid,
        }
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
            probes: entry.probe.into_iter().map(|entry| entry.0).collect(),
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
        }
    }
}

/// A rule, and the line on which it begins.
struct Placed {
    line: usize,
    rule: Rule,
}

impl File<Placed> {
    fn build(self, catalog: &ResourceCatalog) -> Result<RouteMap, Error> {
        let mut builder = RouteMap::builder(catalog).path_reading(self.path_reading);
        if let Some(format) = self.workspace_format {
            builder = builder.workspace_format(format.into());
        }
        if let Some(bytes) = self.body_cap {
            builder = builder.body_cap(bytes.get());
        }
        builder = self.workspace.into_iter().map(WorkspaceSource::from).fold(builder, RouteMapBuilder::workspace);
        builder = self.strict_prefixes.into_iter().map(|prefix| prefix.0).fold(builder, RouteMapBuilder::strict_prefix);
        let lines: Vec<usize> = self.rule.iter().map(|placed| placed.line).collect();
        builder = self.rule.into_iter().map(|placed| placed.rule).fold(builder, RouteMapBuilder::rule);
        builder.assemble().map_err(|error| match &error.rule {
            Some((at, name)) => wrong(lines.get(*at).copied(), Some(name), &error.message),
            None => error.into(),
        })
    }
}

impl<R> File<R> {
    fn place<E>(self, place: impl FnMut(R) -> Result<Placed, E>) -> Result<File<Placed>, E> {
        Ok(File {
            path_reading: self.path_reading,
            workspace_format: self.workspace_format,
            workspace: self.workspace,
            body_cap: self.body_cap,
            strict_prefixes: self.strict_prefixes,
            rule: self.rule.into_iter().map(place).collect::<Result<_, E>>()?,
        })
    }
}

impl RouteMap {
    /// Builds the map that `text` describes in TOML: see [Route map files](RouteMap#route-map-files).
    ///
    /// # Errors
    ///
    /// Those of [`RouteMapBuilder::build`], and those of the text itself. The message begins with the line, and names the
    /// rule: `line 12, rule "create-segment": unknown field …`.
    #[cfg(feature = "toml")]
    pub fn from_toml(text: &str, catalog: &ResourceCatalog) -> Result<Self, Error> {
        use toml::Spanned;

        let at_line = |span: Option<std::ops::Range<usize>>| span.map(|span| line_of(text, span.start));
        let file: File<Spanned<RuleEntry>> = toml::from_str(text).map_err(|error| {
            let name = error.span().and_then(|span| toml_rule_at(text, span.start));
            wrong(at_line(error.span()), name.as_deref(), error.message())
        })?;
        let place = |entry: Spanned<RuleEntry>| {
            let line = line_of(text, entry.span().start);
            Ok::<_, Error>(Placed { line, rule: entry.into_inner().into() })
        };
        file.place(place)?.build(catalog)
    }

    /// Builds the map that `text` describes in JSON: see [Route map files](RouteMap#route-map-files).
    ///
    /// # Errors
    ///
    /// Those of [`RouteMapBuilder::build`], and those of the text itself. The message begins with the line, and names the
    /// rule: `line 12, rule "create-segment": unknown field …`.
    pub fn from_json(text: &str, catalog: &ResourceCatalog) -> Result<Self, Error> {
        let file: File<&RawValue> =
            serde_json::from_str(text).map_err(|error| wrong(Some(error.line()), None, &without_place(&error)))?;
        let place = |raw: &RawValue| {
            // The raw value is a part of the text.
            let line = line_of(text, raw.get().as_ptr().addr() - text.as_ptr().addr());
            match serde_json::from_str::<RuleEntry>(raw.get()) {
                Ok(entry) => Ok(Placed { line, rule: entry.into() }),
                Err(error) => {
                    let named = serde_json::from_str::<Named>(raw.get()).ok().and_then(|named| named.name);
                    Err(wrong(Some(line + error.line() - 1), named.as_deref(), &without_place(&error)))
                }
            }
        };
        file.place(place)?.build(catalog)
    }
}

/// As much of a rule as it takes to name it in an error.
#[derive(Deserialize)]
struct Named {
    name: Option<String>,
}

/// The name of the rule in which the byte at `at` stands, if so much of the text can be read.
#[cfg(feature = "toml")]
fn toml_rule_at(text: &str, at: usize) -> Option<String> {
    #[derive(Deserialize)]
    struct Outline {
        rule: Vec<toml::Spanned<Named>>,
    }

    let outline: Outline = toml::from_str(text).ok()?;
    let holder = outline.rule.into_iter().rfind(|rule| rule.span().start <= at)?;
    holder.into_inner().name
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

fn wrong(line: Option<usize>, rule: Option<&str>, message: &str) -> Error {
    let message = message.trim_end();
    Error::config(match (line, rule) {
        (Some(line), Some(rule)) => format!("line {line}, rule {rule:?}: {message}"),
        (Some(line), None) => format!("line {line}: {message}"),
        (None, Some(rule)) => format!("rule {rule:?}: {message}"),
        (None, None) => message.to_owned(),
    })
}

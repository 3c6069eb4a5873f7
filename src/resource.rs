//! What is counted: resource types and the catalog of them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::limit::Limit;

/// Identifies a resource type within its [`ResourceCatalog`].
///
/// The order of ids is the one global order in which several charges are taken: one order, so that two requests can
/// never wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId(u16);

impl ResourceId {
    /// The position in the catalog, from 0.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A kind of thing that a workspace may have a limited number of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceType {
    id: ResourceId,
    name: Arc<str>,
    limit_field: Arc<str>,
    label: Arc<str>,
    table: Option<Arc<str>>,
    default_limit: Limit,
}

impl ResourceType {
    /// The id within the catalog.
    pub fn id(&self) -> ResourceId {
        self.id
    }

    /// The name on the wire, for example `segments`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its limit on the wire, for example `maxSegments`.
    pub fn limit_field(&self) -> &str {
        &self.limit_field
    }

    /// What one of them is called in messages, for example `Segment`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The host's table that holds its rows, where the catalog names one.
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// The limit of a workspace for which none was set.
    pub fn default_limit(&self) -> Limit {
        self.default_limit
    }

    /// A declaration of it.
    pub(crate) fn spec(&self) -> ResourceSpec {
        let spec = ResourceSpec::new(self.name(), self.limit_field(), self.default_limit).label(self.label());
        match self.table() {
            Some(table) => spec.table(table),
            None => spec,
        }
    }
}

/// Declares a resource type for [`ResourceCatalogBuilder::resource`].
///
/// ```
/// use tower_quota::{Limit, ResourceCatalog, ResourceSpec};
///
/// let catalog = ResourceCatalog::builder()
///     .resource(ResourceSpec::new("customMetrics", "maxCustomMetrics", Limit::of(50)).table("CustomMetric"))
///     .build()?;
/// let metrics = catalog.by_name("customMetrics")?;
/// assert_eq!(metrics.label(), "Custom metric");
/// # Ok::<(), tower_quota::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ResourceSpec {
    name: String,
    limit_field: String,
    label: Option<String>,
    table: Option<String>,
    default_limit: Limit,
}

impl ResourceSpec {
    /// A resource type with its name, the name of its limit, and the limit of a workspace for which none was set.
    pub fn new(name: impl Into<String>, limit_field: impl Into<String>, default_limit: Limit) -> Self {
        Self { name: name.into(), limit_field: limit_field.into(), label: None, table: None, default_limit }
    }

    /// What one of them is called in messages; by default the name, as words and without a final `s`.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The host's table that holds its rows.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }
}

impl ResourceSpec {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Checks it beside those whose `names` and `fields`, in small letters, are taken.
    fn check(&self, names: &mut HashSet<String>, fields: &mut HashSet<String>) -> Result<(), Error> {
        check_identifier("resource type", &self.name)?;
        check_identifier("limit field", &self.limit_field)?;
        if let Some(table) = &self.table {
            check_identifier("table", table)?;
        }
        if !names.insert(self.name.to_lowercase()) {
            return Err(Error::config(format!("the resource type {:?} is declared twice", self.name)));
        }
        if !fields.insert(self.limit_field.to_lowercase()) {
            return Err(Error::config(format!(
                "the limit field {:?} of {:?} is taken: by another resource type or by a field of the quota object",
                self.limit_field, self.name
            )));
        }
        Ok(())
    }

    /// What it says otherwise than `known`, with the words of both. What it leaves out is no contradiction.
    pub(crate) fn contradictions(&self, known: &Self) -> Option<String> {
        let quoted = |word: &String| format!("{word:?}");
        let told = [
            ("limit field", Some(quoted(&self.limit_field)), quoted(&known.limit_field)),
            ("default", Some(self.default_limit.to_string()), known.default_limit.to_string()),
            ("label", self.label.as_ref().map(quoted), quoted(&known.shown_label())),
            ("table", self.table.as_ref().map(quoted), known.table.as_ref().map_or_else(|| "none".to_owned(), quoted)),
        ];
        let differ: Vec<String> = told
            .into_iter()
            .filter_map(|(what, own, known)| Some((what, own?, known)))
            .filter(|(_, own, known)| own != known)
            .map(|(what, own, known)| format!("the {what} is {own} in the file and {known} in the catalog"))
            .collect();
        (!differ.is_empty()).then(|| differ.join(", "))
    }

    fn shown_label(&self) -> String {
        self.label.clone().unwrap_or_else(|| label_of(&self.name))
    }
}

/// The resource types that a product limits. Cloning is cheap.
///
/// [`ResourceCatalog::default`] has the eight types of the quota guide; [`ResourceCatalog::builder`] adds others to them,
/// [`ResourceCatalog::empty`] starts from none.
#[derive(Clone)]
pub struct ResourceCatalog(Arc<Inner>);

struct Inner {
    types: Vec<Arc<ResourceType>>,
    by_name: HashMap<Arc<str>, ResourceId>,
    by_limit_field: HashMap<Arc<str>, ResourceId>,
    defaults: Arc<[Limit]>,
}

/// name, limit field, default, label
const GUIDE: [(&str, &str, u32, &str); 8] = [
    ("users", "maxUsers", 1000, "User"),
    ("segments", "maxSegments", 50, "Segment"),
    ("journeys", "maxJourneys", 20, "Journey"),
    ("broadcasts", "maxBroadcasts", 100, "Broadcast"),
    ("computedProperties", "maxComputedProperties", 100, "Computed property"),
    ("audiences", "maxAudiences", 50, "Audience"),
    ("emailTemplates", "maxEmailTemplates", 100, "Email template"),
    ("subscriptionGroups", "maxSubscriptionGroups", 10, "Subscription group"),
];

/// Fields of a quota object that are not limits.
const RESERVED_FIELDS: [&str; 9] =
    ["id", "workspaceId", "createdAt", "updatedAt", "version", "plan", "parent", "settings", "reason"];

impl ResourceCatalog {
    /// The eight types of the quota guide, to be added to.
    pub fn builder() -> ResourceCatalogBuilder {
        let specs = GUIDE
            .iter()
            .map(|(name, field, default, label)| ResourceSpec::new(*name, *field, Limit::of(*default)).label(*label));
        ResourceCatalogBuilder { specs: specs.collect() }
    }

    /// No types, to be added to.
    pub fn empty() -> ResourceCatalogBuilder {
        ResourceCatalogBuilder { specs: Vec::new() }
    }

    /// The types, in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<ResourceType>> {
        self.0.types.iter()
    }

    /// How many types there are.
    pub fn len(&self) -> usize {
        self.0.types.len()
    }

    /// Whether there are none. A catalog that was built has at least one.
    pub fn is_empty(&self) -> bool {
        self.0.types.is_empty()
    }

    /// The type of an id that this catalog gave out.
    ///
    /// # Panics
    ///
    /// When `id` belongs to a larger catalog.
    pub fn get(&self, id: ResourceId) -> &Arc<ResourceType> {
        &self.0.types[id.index()]
    }

    /// Whether `id` can be one of this catalog's.
    pub(crate) fn check(&self, id: ResourceId) -> Result<(), Error> {
        if id.index() < self.len() {
            return Ok(());
        }
        Err(Error::unknown_resource(format!(
            "resource type number {} is of another catalog than {}",
            id.index(),
            self.names()
        )))
    }

    /// The type called `name`, for example `segments`.
    ///
    /// # Errors
    ///
    /// When there is none; the message lists the valid names.
    pub fn by_name(&self, name: &str) -> Result<&Arc<ResourceType>, Error> {
        match self.0.by_name.get(name) {
            Some(id) => Ok(self.get(*id)),
            None => Err(Error::unknown_resource(format!(
                "unknown resource type {}: write one of {}",
                shown(name),
                self.names()
            ))),
        }
    }

    /// The type whose limit is called `field`, for example `maxSegments`.
    ///
    /// # Errors
    ///
    /// When there is none; the message lists the valid fields.
    pub fn by_limit_field(&self, field: &str) -> Result<&Arc<ResourceType>, Error> {
        match self.0.by_limit_field.get(field) {
            Some(id) => Ok(self.get(*id)),
            None => {
                let fields: Vec<&str> = self.iter().map(|resource| resource.limit_field()).collect();
                Err(Error::unknown_resource(format!(
                    "unknown limit field {}: write one of {}",
                    shown(field),
                    fields.join(", ")
                )))
            }
        }
    }

    /// Whether the ids of `other` stand for the same types: the same names and limit fields, in the same order.
    pub(crate) fn same_types(&self, other: &Self) -> bool {
        fn words(resource: &Arc<ResourceType>) -> (&str, &str) {
            (resource.name(), resource.limit_field())
        }
        Arc::ptr_eq(&self.0, &other.0) || self.iter().map(words).eq(other.iter().map(words))
    }

    /// The names of all types, for messages.
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.iter().map(|resource| resource.name()).collect();
        names.join(", ")
    }

    /// The default limits by index, shared by all workspaces that have none of their own.
    pub(crate) fn default_limits(&self) -> Arc<[Limit]> {
        Arc::clone(&self.0.defaults)
    }
}

/// A caller's word, quoted and cut to a length that fits a message.
pub(crate) fn shown(word: &str) -> String {
    const LONGEST: usize = 64;
    match word.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &word[..end]),
        None => format!("{word:?}"),
    }
}

impl Default for ResourceCatalog {
    fn default() -> Self {
        Self::assemble(Self::builder().specs)
    }
}

impl fmt::Debug for ResourceCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|resource| resource.name())).finish()
    }
}

/// Builds a [`ResourceCatalog`].
#[derive(Debug, Clone)]
pub struct ResourceCatalogBuilder {
    specs: Vec<ResourceSpec>,
}

impl ResourceCatalogBuilder {
    /// Adds a resource type.
    #[must_use]
    pub fn resource(mut self, spec: ResourceSpec) -> Self {
        self.specs.push(spec);
        self
    }

    /// Checks the declarations and builds the catalog.
    ///
    /// # Errors
    ///
    /// When two types share a name or a limit field, when a name, field or table is not an identifier (a letter, then
    /// letters, digits and underscores, at most 63 bytes: what SQLite and Postgres both take), when a limit field is
    /// one of the quota object's own fields, or when there is no type at all.
    pub fn build(self) -> Result<ResourceCatalog, Error> {
        self.checked().map_err(|(_, error)| error)
    }

    /// The same, and which declaration is at fault, by its position, where one is.
    pub(crate) fn checked(self) -> Result<ResourceCatalog, (Option<usize>, Error)> {
        if self.specs.is_empty() {
            return Err((None, Error::config("a catalog needs at least one resource type")));
        }
        if self.specs.len() > usize::from(u16::MAX) {
            return Err((None, Error::config("a catalog has at most 65535 resource types")));
        }
        let mut names = HashSet::new();
        // Columns of SQL databases are compared without regard to case.
        let mut fields: HashSet<String> = RESERVED_FIELDS.iter().map(|field| field.to_lowercase()).collect();
        for (at, spec) in self.specs.iter().enumerate() {
            spec.check(&mut names, &mut fields).map_err(|error| (Some(at), error))?;
        }
        Ok(ResourceCatalog::assemble(self.specs))
    }

    /// The declarations so far.
    pub(crate) fn specs(&self) -> &[ResourceSpec] {
        &self.specs
    }
}

impl ResourceCatalog {
    fn assemble(specs: Vec<ResourceSpec>) -> Self {
        let types: Vec<Arc<ResourceType>> = (0..)
            .zip(specs)
            .map(|(index, spec)| {
                Arc::new(ResourceType {
                    id: ResourceId(index),
                    label: spec.shown_label().into(),
                    name: spec.name.into(),
                    limit_field: spec.limit_field.into(),
                    table: spec.table.map(Into::into),
                    default_limit: spec.default_limit,
                })
            })
            .collect();
        Self(Arc::new(Inner {
            by_name: types.iter().map(|resource| (Arc::clone(&resource.name), resource.id)).collect(),
            by_limit_field: types.iter().map(|resource| (Arc::clone(&resource.limit_field), resource.id)).collect(),
            defaults: types.iter().map(|resource| resource.default_limit).collect(),
            types,
        }))
    }
}

/// `customMetrics` is shown as `Custom metric`.
fn label_of(name: &str) -> String {
    let mut label = String::with_capacity(name.len() + 2);
    for (at, letter) in name.strip_suffix('s').unwrap_or(name).chars().enumerate() {
        match letter {
            _ if at == 0 => label.extend(letter.to_uppercase()),
            '_' => label.push(' '),
            _ if letter.is_uppercase() => {
                label.push(' ');
                label.extend(letter.to_lowercase());
            }
            _ => label.push(letter),
        }
    }
    label
}

/// Refuses what could not stand, quoted, as a name in both databases.
pub(crate) fn check_identifier(what: &str, identifier: &str) -> Result<(), Error> {
    const LONGEST: usize = 63;
    let mut letters = identifier.chars();
    let starts = letters.next().is_some_and(|letter| letter.is_ascii_alphabetic() || letter == '_');
    let goes_on = letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if starts && goes_on && identifier.len() <= LONGEST {
        return Ok(());
    }
    Err(Error::config(format!(
        "the {what} {} is not an identifier: write a letter, then letters, digits and underscores, at most {LONGEST} of them",
        shown(identifier)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_types_and_defaults() {
        let catalog = ResourceCatalog::default();
        let listed: Vec<_> = catalog
            .iter()
            .map(|resource| (resource.name(), resource.limit_field(), resource.default_limit().rows()))
            .collect();
        assert_eq!(listed.len(), 8);
        assert_eq!(listed[1], ("segments", "maxSegments", Some(50)));
        assert_eq!(catalog.by_limit_field("maxSubscriptionGroups").unwrap().label(), "Subscription group");
    }

    #[test]
    fn a_clash_is_a_build_error() {
        let clash = |name: &str, field: &str| {
            ResourceCatalog::builder()
                .resource(ResourceSpec::new(name, field, Limit::of(1)))
                .build()
                .unwrap_err()
                .to_string()
        };
        assert!(clash("segments", "maxOther").contains("declared twice"));
        assert!(clash("Segments", "maxOther").contains("declared twice"));
        assert!(clash("other", "maxSegments").contains("taken"));
        assert!(clash("other", "createdAt").contains("taken"));
    }

    #[test]
    fn an_unsafe_identifier_is_a_build_error() {
        for bad in ["", "1st", "a b", "a\"; DROP TABLE x; --", "ä", &"a".repeat(64)] {
            let build = ResourceCatalog::builder()
                .resource(ResourceSpec::new("other", "maxOther", Limit::of(1)).table(bad))
                .build();
            assert!(build.unwrap_err().to_string().contains("not an identifier"), "{bad:?}");
        }
    }

    #[test]
    fn the_same_types_have_the_same_ids() {
        let built = |specs: &[(&str, &str)]| {
            let add = |builder: ResourceCatalogBuilder, (name, field): &(&str, &str)| {
                builder.resource(ResourceSpec::new(*name, *field, Limit::of(1)))
            };
            specs.iter().fold(ResourceCatalog::empty(), add).build().unwrap()
        };
        let catalog = built(&[("a", "maxA"), ("b", "maxB")]);
        assert!(catalog.same_types(&catalog.clone()));
        assert!(catalog.same_types(&built(&[("a", "maxA"), ("b", "maxB")])));
        for other in [
            built(&[("b", "maxB"), ("a", "maxA")]),
            built(&[("a", "maxA")]),
            built(&[("a", "maxA"), ("b", "maxB"), ("c", "maxC")]),
            built(&[("a", "maxA"), ("b", "mostB")]),
            built(&[("a", "maxA"), ("other", "maxB")]),
        ] {
            assert!(!catalog.same_types(&other) && !other.same_types(&catalog), "{other:?}");
        }
    }

    #[test]
    fn unknown_names_list_the_valid_ones() {
        let catalog = ResourceCatalog::default();
        let error = catalog.by_name(&"x".repeat(10_000)).unwrap_err();
        assert!(error.is_unknown_resource());
        assert!(error.to_string().contains("users, segments, journeys"));
        assert!(error.to_string().len() < 400);
    }

    #[test]
    fn labels() {
        assert_eq!(label_of("customMetrics"), "Custom metric");
        assert_eq!(label_of("webhooks"), "Webhook");
        assert_eq!(label_of("data_sets"), "Data set");
    }
}

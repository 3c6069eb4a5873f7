//! What a rule says, as it is written in code.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, Method};
use serde::Deserialize;
use serde_json::Value;

use crate::BoxFuture;
use crate::error::Error;

/// Says what the requests of some routes would create or delete, and for whom.
///
/// ```
/// use http::Method;
/// use tower_quota::{Charge, Rule, WorkspaceSource};
///
/// let rule = Rule::new("create-segment", Method::POST, "/api/{ws}/segments")
///     .path("/api/admin/{ws}/segments")
///     .workspace(WorkspaceSource::path("ws"))
///     .charge(Charge::of("segments"));
/// # let _ = rule;
/// ```
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) name: String,
    pub(super) methods: Vec<Method>,
    pub(super) paths: Vec<String>,
    pub(super) operation: Operation,
    pub(super) charges: Vec<Charge>,
    pub(super) workspace: Vec<WorkspaceSource>,
    pub(super) body_cap: Option<usize>,
    pub(super) on_failure: OnFailure,
    pub(super) late_rows: Option<Duration>,
}

impl Rule {
    /// A rule called `name`, for log lines and messages, on one method and one path template.
    ///
    /// Templates are written as for axum 0.8: `/api/{ws}/segments`, and `/files/{*rest}` for everything below `/files/`.
    pub fn new(name: impl Into<String>, method: Method, path: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            methods: vec![method],
            paths: vec![path.into()],
            operation: Operation::default(),
            charges: Vec::new(),
            workspace: Vec::new(),
            body_cap: None,
            on_failure: OnFailure::default(),
            late_rows: None,
        }
    }

    /// One more method that the rule is for.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.methods.push(method);
        self
    }

    /// One more path template that the rule is for, such as the same route under another mount.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.paths.push(path.into());
        self
    }

    /// What the request does with what it is charged for; [`Operation::Create`] where nothing else is said.
    #[must_use]
    pub fn operation(mut self, operation: Operation) -> Self {
        self.operation = operation;
        self
    }

    /// Adds a charge. A request may be charged for several resource types at once.
    #[must_use]
    pub fn charge(mut self, charge: Charge) -> Self {
        self.charges.push(charge);
        self
    }

    /// Adds a place that names the workspace. A rule with places of its own doesn't look in the map's.
    #[must_use]
    pub fn workspace(mut self, source: WorkspaceSource) -> Self {
        self.workspace.push(source);
        self
    }

    /// The longest body that is read for this rule, in bytes, instead of the map's.
    #[must_use]
    pub fn body_cap(mut self, bytes: usize) -> Self {
        self.body_cap = Some(bytes);
        self
    }

    /// What happens to its requests when the quota can't be checked, whatever `QuotaLayer::on_failure` says for others.
    #[must_use]
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// Its rows may come to exist after the response, up to this long after: from a queue, or a task that the handler has
    /// left behind. So long the units are held, whatever the response and also where the client hangs up, unless the request
    /// was refused; and then a count tells how many rows there are.
    #[must_use]
    pub fn late_rows(mut self, within: Duration) -> Self {
        self.late_rows = Some(within);
        self
    }
}

/// What a request does with the rows that it is charged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Makes rows.
    #[default]
    Create,
    /// Makes a row, or updates the one that is there: charged only when a [probe](Charge::probe) finds none.
    Upsert,
    /// Removes rows; the charges say of what, and how many at most.
    Delete,
    /// Makes rows count again that were archived: charged only when a [probe](Charge::probe) finds none that counts.
    Restore,
    /// Neither makes nor removes anything. A rule that says so exempts a route that only looks like a creation.
    Ignore,
}

/// What happens to a request when the quota can't be checked. In the modes `off` and `warn` it passes, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnFailure {
    /// What `QuotaLayer::on_failure` says for the whole layer.
    #[default]
    Inherit,
    /// It passes; but in `strict`, which has no exceptions, it is refused.
    Open,
    /// It is refused.
    Closed,
}

/// So many units of one resource type.
#[derive(Debug, Clone)]
pub struct Charge {
    pub(super) resource: Resource,
    pub(super) amount: Amount,
    pub(super) when: Vec<Predicate>,
    pub(super) when_each: Vec<Predicate>,
    pub(super) probes: Vec<Probe>,
    pub(super) null_is_empty: bool,
}

/// Which resource type is charged.
#[derive(Debug, Clone)]
pub(super) enum Resource {
    Fixed(String),
    Chosen { field: String, values: BTreeMap<String, String> },
}

impl Charge {
    /// One unit of the resource type called `resource`.
    pub fn of(resource: impl Into<String>) -> Self {
        Self::new(Resource::Fixed(resource.into()))
    }

    /// One unit of the resource type that the string at `field`, a JSON pointer into the body, stands for: `values`
    /// has pairs of such a string and the name of a resource type. Any other string is answered with 400
    /// `INVALID_RESOURCE_TYPE`.
    pub fn chosen_by<V, R>(field: impl Into<String>, values: impl IntoIterator<Item = (V, R)>) -> Self
    where
        V: Into<String>,
        R: Into<String>,
    {
        let values = values.into_iter().map(|(value, resource)| (value.into(), resource.into())).collect();
        Self::new(Resource::Chosen { field: field.into(), values })
    }

    pub(super) fn new(resource: Resource) -> Self {
        Self {
            resource,
            amount: Amount::Constant(1),
            when: Vec::new(),
            when_each: Vec::new(),
            probes: Vec::new(),
            null_is_empty: false,
        }
    }

    /// How many units.
    #[must_use]
    pub fn amount(mut self, amount: Amount) -> Self {
        self.amount = amount;
        self
    }

    /// Charges only bodies for which `predicate` holds, along with every other one that was added.
    #[must_use]
    pub fn when(mut self, predicate: Predicate) -> Self {
        self.when.push(predicate);
        self
    }

    /// Counts only those elements of the amount's array for which `predicate` holds, along with every other one that was
    /// added: its pointer is into the element.
    #[must_use]
    pub fn when_each(mut self, predicate: Predicate) -> Self {
        self.when_each.push(predicate);
        self
    }

    /// Says how to find out whether the row is there already.
    ///
    /// The first probe whose value the request has is used. Those after it are no fallbacks: a request that gives an
    /// id which doesn't exist creates a row, whatever else it gives.
    #[must_use]
    pub fn probe(mut self, probe: Probe) -> Self {
        self.probes.push(probe);
        self
    }

    /// A `null` of the body where a probe or an element has its value is the empty text, and not absent: for a service behind
    /// that makes texts of what it is sent, as Fastify does where its schema wants one.
    #[must_use]
    pub fn null_is_empty(mut self) -> Self {
        self.null_is_empty = true;
        self
    }
}

/// How many units a request is charged. Pointers are JSON pointers (RFC 6901) into the body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Amount {
    /// The same for every request; 1 or more.
    Constant(u64),
    /// As many as the array at this pointer has elements.
    Length(String),
    /// As many as there are different values in an array; `1` and `"1"` are different.
    Distinct {
        /// Where the array is.
        array: String,
        /// Where in each element the value is: the first of these places that has one. An empty pointer is the element.
        element: Vec<String>,
    },
    /// As many as there are different values in an array for which there is no row yet.
    ///
    /// They are looked up as text: where a row has the text `1`, both `1` and `"1"` are known.
    DistinctUnknown {
        /// Where the array is.
        array: String,
        /// Where in each element the value is: the first of these places that has one. An empty pointer is the element.
        element: Vec<String>,
        /// The column that has these values in the host's table.
        column: Arc<str>,
    },
    /// Not known before the response, but never more than this: so much is held, and a count settles it.
    AtMost(u64),
    /// The same, but never more than the body has lines after its first so many, whatever the body is: for uploads of which
    /// each line may become a row. A line ends with a line feed, a carriage return or both.
    LinesAfter(u64),
}

impl Amount {
    /// [`Amount::Length`] of the array at `array`.
    pub fn length(array: impl Into<String>) -> Self {
        Self::Length(array.into())
    }

    /// [`Amount::Distinct`] values in the array at `array`, each at the first of the pointers `element` that has one.
    ///
    /// ```
    /// use tower_quota::Amount;
    ///
    /// let plain = Amount::distinct("/userIds", [""]);
    /// let nested = Amount::distinct("/batch", ["/userId", "/anonymousId"]);
    /// # let _ = (plain, nested);
    /// ```
    pub fn distinct(array: impl Into<String>, element: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Distinct { array: array.into(), element: element.into_iter().map(Into::into).collect() }
    }

    /// [`Amount::DistinctUnknown`]: the same, for those that are not in `column` yet.
    pub fn distinct_unknown(
        array: impl Into<String>,
        element: impl IntoIterator<Item = impl Into<String>>,
        column: impl Into<Arc<str>>,
    ) -> Self {
        let element = element.into_iter().map(Into::into).collect();
        Self::DistinctUnknown { array: array.into(), element, column: column.into() }
    }
}

/// A condition on a field of the body, which a JSON pointer names.
///
/// A field that is `null` counts as absent, as it does for most APIs.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    pub(super) field: String,
    pub(super) test: Test,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    Equals(Value),
    NotEquals(Value),
    Present,
    Absent,
}

impl Predicate {
    /// The field is there and has this value. Numbers are compared by what they are worth: 1 equals 1.0.
    pub fn equals(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { field: field.into(), test: Test::Equals(value.into()) }
    }

    /// The field has another value, or is absent.
    pub fn not_equals(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { field: field.into(), test: Test::NotEquals(value.into()) }
    }

    /// The field is there.
    pub fn present(field: impl Into<String>) -> Self {
        Self { field: field.into(), test: Test::Present }
    }

    /// The field is not there.
    pub fn absent(field: impl Into<String>) -> Self {
        Self { field: field.into(), test: Test::Absent }
    }

    pub(super) fn holds(&self, body: Option<&Value>) -> bool {
        let found = body.and_then(|body| body.pointer(&self.field)).filter(|value| !value.is_null());
        match &self.test {
            Test::Equals(value) => found.is_some_and(|found| same(found, value)),
            Test::NotEquals(value) => !found.is_some_and(|found| same(found, value)),
            Test::Present => found.is_some(),
            Test::Absent => found.is_none(),
        }
    }
}

/// JSON doesn't tell 1 from 1.0, and neither do the clients that write one for the other.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        // Only where one is a fraction by its spelling: whole numbers may differ by less than a double can tell.
        (Value::Number(left), Value::Number(right)) if left.is_f64() || right.is_f64() => {
            left.as_f64() == right.as_f64()
        }
        _ => left == right,
    }
}

/// A value of the request, and the column of the host's table in which a row would have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub(super) source: ProbeSource,
    pub(super) column: Arc<str>,
    pub(super) uuid: bool,
    pub(super) uncounted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProbeSource {
    Body(String),
    Path(String),
    Query(String),
}

impl Probe {
    /// The string or whole number at `pointer`, a JSON pointer into the body.
    pub fn body(pointer: impl Into<String>, column: impl Into<Arc<str>>) -> Self {
        Self::new(ProbeSource::Body(pointer.into()), column)
    }

    /// The path parameter `param`.
    pub fn path(param: impl Into<String>, column: impl Into<Arc<str>>) -> Self {
        Self::new(ProbeSource::Path(param.into()), column)
    }

    /// The query parameter `key`.
    pub fn query(key: impl Into<String>, column: impl Into<Arc<str>>) -> Self {
        Self::new(ProbeSource::Query(key.into()), column)
    }

    fn new(source: ProbeSource, column: impl Into<Arc<str>>) -> Self {
        Self { source, column: column.into(), uuid: false, uncounted: false }
    }

    /// The value is a UUID in its hyphenated form, and is looked up in lower case, in whichever case the client writes it.
    /// Any other value is refused with 400.
    #[must_use]
    pub fn uuid(mut self) -> Self {
        self.uuid = true;
        self
    }

    /// Finds rows that aren't counted, too, such as archived ones: for a request that edits them and leaves them uncounted.
    ///
    /// Such a row is in no books. Where it is deleted at the very moment at which the request is on its way, and made anew
    /// as one that counts, nobody has held a unit for it: the next count sees a row too many.
    #[must_use]
    pub fn or_uncounted(mut self) -> Self {
        self.uncounted = true;
        self
    }
}

/// A place that names the workspace of a request.
///
/// [`Extension`](Self::Extension) and [`Resolver`](Self::Resolver) are trusted: the first of them that knows the
/// workspace decides, and what the client says is not looked at. Otherwise all the other places are read, and a request
/// that names two different workspaces is refused with `WORKSPACE_MISMATCH`.
#[derive(Clone)]
#[non_exhaustive]
pub enum WorkspaceSource {
    /// A path parameter.
    Path(String),
    /// A header.
    Header(HeaderName),
    /// A query parameter.
    Query(String),
    /// The string or whole number at a JSON pointer into the body.
    Body(String),
    /// A [`WorkspaceClaim`] among the request's extensions.
    Extension,
    /// The host's own code.
    Resolver(Arc<dyn WorkspaceResolver>),
}

impl WorkspaceSource {
    /// The path parameter `param`.
    pub fn path(param: impl Into<String>) -> Self {
        Self::Path(param.into())
    }

    /// The header `name`.
    pub fn header(name: HeaderName) -> Self {
        Self::Header(name)
    }

    /// The query parameter `key`.
    pub fn query(key: impl Into<String>) -> Self {
        Self::Query(key.into())
    }

    /// The string or whole number at `pointer`, a JSON pointer into the body.
    pub fn body(pointer: impl Into<String>) -> Self {
        Self::Body(pointer.into())
    }

    /// The host's own code.
    pub fn resolver(resolver: impl WorkspaceResolver) -> Self {
        Self::Resolver(Arc::new(resolver))
    }

    pub(super) fn is_trusted(&self) -> bool {
        matches!(self, Self::Extension | Self::Resolver(_))
    }
}

/// For messages to clients: where to put the workspace.
impl fmt::Display for WorkspaceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(param) => write!(f, "the path parameter `{param}`"),
            Self::Header(name) => write!(f, "the header `{name}`"),
            Self::Query(key) => write!(f, "the query parameter `{key}`"),
            Self::Body(pointer) => write!(f, "the body field `{pointer}`"),
            Self::Extension | Self::Resolver(_) => f.write_str("the authentication"),
        }
    }
}

impl fmt::Debug for WorkspaceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(param) => f.debug_tuple("Path").field(param).finish(),
            Self::Header(name) => f.debug_tuple("Header").field(name).finish(),
            Self::Query(key) => f.debug_tuple("Query").field(key).finish(),
            Self::Body(pointer) => f.debug_tuple("Body").field(pointer).finish(),
            Self::Extension => f.write_str("Extension"),
            Self::Resolver(_) => f.write_str("Resolver(..)"),
        }
    }
}

/// The workspace that the host's authentication found, put among the request's extensions by a layer outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkspaceClaim(pub String);

/// Finds the workspace of a request by the host's own means, such as a look-up of the key that it came with.
pub trait WorkspaceResolver: Send + Sync + 'static {
    /// The workspace of the request with these `parts`; `None` where it is left to the other sources.
    ///
    /// An error refuses the request: with 400 where it [is the caller's fault](Error::is_invalid), with 404 where it
    /// [is not found](Error::is_not_found), with 503 where the answer [is not to be had](Error::is_unavailable).
    fn resolve<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Option<String>, Error>>;
}

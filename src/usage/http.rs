//! Counts that are asked of the API that rows are behind.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

use super::UsageSource;
use crate::BoxFuture;
use crate::body::check_pointer;
use crate::error::Error;
use crate::peer::{causes, encoded, tls_config};
use crate::resource::{ResourceCatalog, ResourceType, check_identifier, shown};
use crate::workspace::WorkspaceId;

/// How many values of a request are looked up, one after the other; those beyond count as new.
const MOST_VALUES: usize = 100;

/// How long a value may be that is looked up, in bytes: a URL that is much longer is refused by many servers.
const MOST_BYTES: usize = 2048;

/// Counts rows by asking an HTTP API: where they are behind a service whose tables can't be read.
///
/// Each resource type has the template of a URL that is read with `GET`, and a JSON pointer ([RFC 6901]) that leads, in the
/// answer, to the number of rows, or to an array of all of them. In templates, `{workspace}` stands for the id of the workspace,
/// `{value}` for what an existence probe looks up; both are percent-encoded, in paths and in queries. A template that begins with
/// a slash is put behind the base URL.
///
/// ```no_run
/// use tower_quota::{HttpUsage, ResourceCatalog};
///
/// # fn usage(token: http::HeaderValue) -> Result<(), tower_quota::Error> {
/// let usage = HttpUsage::builder("http://127.0.0.1:3000", &ResourceCatalog::default())
///     .header(http::header::AUTHORIZATION, token)
///     // {"segments": [ … ], "total": 45}
///     .count("segments", "/api/segments?workspaceId={workspace}&limit=1", "/total")
///     // {"users": [ … ]}
///     .count("users", "/api/workspaces/{workspace}/users", "/users")
///     // 200, or 404.
///     .exists("segments", "id", "/api/segments/{value}?workspaceId={workspace}", None)
///     // {"segments": []} where there is none.
///     .exists("segments", "name", "/api/segments?workspaceId={workspace}&name={value}", "/segments")
///     .build()?;
/// # Ok(())
/// # }
/// ```
///
/// # What the API must promise
///
/// A count sees every row that was made before the request began: no cache may be in between, and no database that lags. An array
/// must have all rows: of an API that answers with pages, take the number that it tells beside them. `workspace` of an answer is
/// not looked at.
///
/// Of a request, up to 100 values of up to 2048 bytes are looked up. Others, and empty ones, count as new rows.
///
/// # Errors
///
/// Anything else than such an answer is an [`Error::is_unavailable`] that tells what came, and never 0: a status that is no
/// success (redirects are not followed), what isn't JSON, a pointer that leads to nothing, a number that is negative or a fraction,
/// a body that is too long, a time-out.
///
/// It can't list workspaces ([`UsageSource::page`]).
///
/// [RFC 6901]: https://www.rfc-editor.org/rfc/rfc6901
pub struct HttpUsage {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    headers: HeaderMap,
    timeout: Duration,
    body_cap: usize,
    counts: BTreeMap<String, Lookup>,
    /// By resource type and column.
    existing: BTreeMap<(String, String), Lookup>,
}

/// Builds an [`HttpUsage`].
#[derive(Clone)]
#[must_use]
pub struct HttpUsageBuilder {
    base: String,
    catalog: ResourceCatalog,
    headers: HeaderMap,
    timeout: Duration,
    body_cap: usize,
    roots: Vec<Vec<u8>>,
    counts: BTreeMap<String, Written>,
    existing: BTreeMap<(String, String), Written>,
}

/// A template and a pointer, as they were given.
type Written = (String, Option<String>);

impl HttpUsage {
    /// Asks the API at `base`, an absolute URL such as `http://127.0.0.1:3000/v1`, about resource types of `catalog`.
    pub fn builder(base: impl Into<String>, catalog: &ResourceCatalog) -> HttpUsageBuilder {
        HttpUsageBuilder {
            base: base.into(),
            catalog: catalog.clone(),
            headers: HeaderMap::new(),
            timeout: Duration::from_secs(5),
            body_cap: 1 << 20,
            roots: Vec::new(),
            counts: BTreeMap::new(),
            existing: BTreeMap::new(),
        }
    }

    /// What is at a URL: the JSON of an answer 200, or `None` for 404.
    async fn get(&self, uri: &Uri) -> Result<Option<Bytes>, String> {
        let mut request = Request::get(uri.clone())
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .header(CACHE_CONTROL, "no-cache")
            .header(USER_AGENT, concat!("tower-quota/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        let response = self.client.request(request).await.map_err(|error| {
            // The client only says in which step it failed.
            std::error::Error::source(&error).map_or_else(|| error.to_string(), causes)
        })?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(format!("the answer is {status}")),
        }
        let body = Limited::new(response.into_body(), self.body_cap).collect().await;
        body.map(|body| Some(body.to_bytes())).map_err(|error| {
            format!("its answer, of which at most {} bytes are read, broke off: {error}", self.body_cap)
        })
    }

    /// Asks, and understands the answer.
    async fn ask<T>(
        &self,
        resource: &ResourceType,
        lookup: &Lookup,
        workspace: &WorkspaceId,
        value: &str,
        read: impl FnOnce(Option<&[u8]>) -> Result<T, String>,
    ) -> Result<T, Error> {
        let written = lookup.template.fill(workspace.as_str(), value);
        let asking = async {
            let uri = written.parse().map_err(|error| format!("it is no URL: {error}"))?;
            read(self.get(&uri).await?.as_deref())
        };
        let answer = timeout(self.timeout, asking).await;
        answer.unwrap_or_else(|_| Err(format!("there was no answer within {:?}", self.timeout))).map_err(|problem| {
            Error::unavailable(format!("asking {written} about {} failed: {problem}", resource.name()))
        })
    }
}

impl HttpUsageBuilder {
    /// Sends this header with each request, such as one that authorizes it. It isn't logged.
    pub fn header(mut self, name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        self.headers.insert(name, value);
        self
    }

    /// How long an answer may take, with its body; five seconds by default. The engine has a time of its own, too:
    /// [`QuotaBuilder::io_timeout`](crate::QuotaBuilder::io_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The longest body of an answer, in bytes; 1 MiB by default.
    pub fn body_cap(mut self, bytes: usize) -> Self {
        self.body_cap = bytes;
        self
    }

    /// Root certificates in PEM, one or several, that are trusted beside those of the system.
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Where rows of `resource` are counted: `pointer` leads to their number, or to an array with one element for each.
    pub fn count(
        mut self,
        resource: impl Into<String>,
        template: impl Into<String>,
        pointer: impl Into<String>,
    ) -> Self {
        self.counts.insert(resource.into(), (template.into(), Some(pointer.into())));
        self
    }

    /// Where it is asked whether a row of `resource` exists that has `{value}` in `column`: it doesn't where the answer is 404,
    /// and does where it is 200. With a pointer, it doesn't either where that leads to `null`, `false`, 0, or an empty text, array
    /// or object.
    ///
    /// An existence probe asks for one value after the other.
    pub fn exists<'p>(
        mut self,
        resource: impl Into<String>,
        column: impl Into<String>,
        template: impl Into<String>,
        pointer: impl Into<Option<&'p str>>,
    ) -> Self {
        let pointer = pointer.into().map(str::to_owned);
        self.existing.insert((resource.into(), column.into()), (template.into(), pointer));
        self
    }

    /// Checks templates and pointers. The API is not asked.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when a resource type is not in the catalog, when a URL, a template or a pointer is malformed, and when a
    /// root certificate can't be read.
    pub fn build(self) -> Result<HttpUsage, Error> {
        let base = base(&self.base)?;
        let known = |name: &str| self.catalog.by_name(name).map_err(|error| Error::config(error.message()));
        let lookup = |of: String, (template, pointer): &Written, names: &[Name]| {
            Lookup::new(&base, template, pointer.as_deref(), names)
                .map_err(|problem| Error::config(format!("the URL of {of}: {problem}")))
        };
        let mut counts = BTreeMap::new();
        for (name, written) in &self.counts {
            known(name)?;
            counts.insert(name.clone(), lookup(name.clone(), written, &[Name::Workspace])?);
        }
        let mut existing = BTreeMap::new();
        for ((name, column), written) in &self.existing {
            known(name)?;
            check_identifier("column", column)?;
            let of = format!("{name} by {column}");
            existing.insert((name.clone(), column.clone()), lookup(of, written, &[Name::Workspace, Name::Value])?);
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(self.timeout));
        connector.set_nodelay(true);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(&self.roots)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(https);
        let Self { headers, timeout, body_cap, .. } = self;
        Ok(HttpUsage { client, headers, timeout, body_cap, counts, existing })
    }
}

impl UsageSource for HttpUsage {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        _at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            let lookup = self.counts.get(resource.name()).ok_or_else(|| {
                Error::config(format!(
                    "{name} can't be counted over HTTP: give the HttpUsage a URL with count(\"{name}\", …)",
                    name = resource.name()
                ))
            })?;
            self.ask(resource, lookup, workspace, "", |body| {
                let body = body.ok_or("the answer is 404 Not Found")?;
                rows(&lookup.find(body)?)
            })
            .await
        })
    }

    fn existing<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(async move {
            let key = (resource.name().to_owned(), column.to_owned());
            let lookup = self.existing.get(&key).ok_or_else(|| {
                Error::config(format!(
                    "a rule looks {name} up by {column:?}, and nobody tells where: give the HttpUsage a URL with \
                     exists(\"{name}\", \"{column}\", …)",
                    name = resource.name()
                ))
            })?;
            let mut found = Vec::with_capacity(values.len());
            for (at, value) in values.iter().enumerate() {
                // Without a value the URL may be that of a list, which is always there. And whoever can make the question fail
                // would get past it, where failures let pass.
                if value.is_empty() || value.len() > MOST_BYTES || at >= MOST_VALUES {
                    found.push(false);
                    continue;
                }
                let exists = self.ask(resource, lookup, workspace, value, |body| match (body, &lookup.pointer) {
                    (None, _) => Ok(false),
                    (Some(_), None) => Ok(true),
                    (Some(body), Some(_)) => lookup.find(body).map(|found| !is_nothing(&found)),
                });
                found.push(exists.await?);
            }
            Ok(found)
        })
    }
}

impl fmt::Debug for HttpUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpUsage")
            .field("counts", &self.counts)
            .field("existing", &self.existing)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HttpUsageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpUsageBuilder")
            .field("counts", &self.counts)
            .field("existing", &self.existing)
            .finish_non_exhaustive()
    }
}

/// Where something is asked, and where it stands in the answer.
#[derive(Debug)]
struct Lookup {
    template: Template,
    pointer: Option<String>,
}

impl Lookup {
    fn new(base: &str, written: &str, pointer: Option<&str>, names: &[Name]) -> Result<Self, String> {
        let whole = if written.starts_with('/') { format!("{base}{written}") } else { written.to_owned() };
        let template = Template::parse(&whole, names)?;
        check_url(&template.fill("x", "x"))?;
        pointer.map_or(Ok(()), check_pointer)?;
        Ok(Self { template, pointer: pointer.map(str::to_owned) })
    }

    /// What the pointer leads to.
    fn find(&self, body: &[u8]) -> Result<Value, String> {
        let mut json: Value =
            serde_json::from_slice(body).map_err(|error| format!("its answer is not JSON: {error}"))?;
        let pointer = self.pointer.as_deref().unwrap_or_default();
        let found = json.pointer_mut(pointer).map(Value::take);
        found.ok_or_else(|| format!("its answer has nothing at {pointer:?}"))
    }
}

/// A URL with gaps.
#[derive(Debug)]
struct Template(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Text(String),
    Gap(Name),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Workspace,
    Value,
}

impl Name {
    fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => "{workspace}",
            Self::Value => "{value}",
        }
    }
}

impl Template {
    /// What may stand in it are `names`; the last of them has to.
    fn parse(written: &str, names: &[Name]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = written;
        while let Some(at) = rest.find(['{', '}']) {
            let (text, gap) = rest.split_at(at);
            let Some(name) = names.iter().find(|name| gap.starts_with(name.as_str())) else {
                let known: Vec<_> = names.iter().map(|name| name.as_str()).collect();
                let known = known.join(" and ");
                return Err(format!("{} has braces around something else than {known}", shown(written)));
            };
            pieces.extend([Piece::Text(text.to_owned()), Piece::Gap(*name)]);
            rest = &gap[name.as_str().len()..];
        }
        pieces.push(Piece::Text(rest.to_owned()));
        match names.last().filter(|name| !pieces.iter().any(|piece| matches!(piece, Piece::Gap(gap) if gap == *name))) {
            None => Ok(Self(pieces)),
            Some(name) => Err(format!("{} has no {}: write where it belongs", shown(written), name.as_str())),
        }
    }

    fn fill(&self, workspace: &str, value: &str) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str().into(),
            Piece::Gap(Name::Workspace) => encoded(workspace),
            Piece::Gap(Name::Value) => encoded(value),
        });
        pieces.collect()
    }
}

/// The base without a slash at its end.
fn base(written: &str) -> Result<String, Error> {
    check_url(written).map_err(|problem| Error::config(format!("the base URL: {problem}")))?;
    if written.contains(['?', '{', '}']) {
        let message = format!("the base URL: {} has more than scheme, host and path", shown(written));
        return Err(Error::config(message));
    }
    Ok(written.trim_end_matches('/').to_owned())
}

fn check_url(written: &str) -> Result<(), String> {
    let example = "write one such as http://127.0.0.1:3000/api";
    let url = Url::parse(written).map_err(|error| format!("{} is no URL ({error}): {example}", shown(written)))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("{} has to begin with http:// or https://: {example}", shown(written)));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it has a user or password: leave them out, and give a header instead".to_owned());
    }
    if url.fragment().is_some() {
        return Err(format!("{} has a fragment, which no server sees: leave it out", shown(written)));
    }
    // What is sent is what was written.
    written
        .parse::<Uri>()
        .map(drop)
        .map_err(|error| format!("{} can't be sent ({error}): percent-encode what is not plain", shown(written)))
}

fn rows(found: &Value) -> Result<u64, String> {
    match found {
        Value::Array(rows) => Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX)),
        Value::Number(number) => {
            number.as_u64().ok_or_else(|| format!("its answer has {number} rows, which is no number of rows"))
        }
        other => {
            let kind = match other {
                Value::Null => "null",
                Value::Bool(_) => "a boolean",
                Value::String(_) => "a text",
                _ => "an object",
            };
            Err(format!("its answer has {kind} where a number or an array is expected"))
        }
    }
}

/// Whether it says that there is none.
fn is_nothing(found: &Value) -> bool {
    match found {
        Value::Null => true,
        Value::Bool(there) => !there,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(template: &str, pointer: &str) -> Result<HttpUsage, Error> {
        HttpUsage::builder("http://127.0.0.1:1/v1/", &ResourceCatalog::default())
            .count("segments", template, pointer)
            .build()
    }

    #[test]
    fn gaps_are_filled_with_what_stays_one_part() {
        let names = [Name::Workspace, Name::Value];
        let template = Template::parse("http://h/{workspace}/{value}?w={workspace}", &names).unwrap();
        assert_eq!(template.fill("a/b?&c#é", ".."), "http://h/a%2Fb%3F%26c%23%C3%A9/%2E%2E?w=a%2Fb%3F%26c%23%C3%A9");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (template, pointer, says) in [
            ("/x/{workspaces}", "", "something else than {workspace}"),
            ("/x/{value}", "", "something else than {workspace}"),
            ("/x/{workspace", "", "something else than {workspace}"),
            ("x/{workspace}", "", "is no URL"),
            ("ftp://h/{workspace}", "", "has to begin with http"),
            ("http://me:secret@h/{workspace}", "", "user or password"),
            ("/x/{workspace}#there", "", "fragment"),
            ("/x y/{workspace}", "", "percent-encode"),
            ("/x", "", "has no {workspace}"),
            ("/x/{workspace}", "total", "is not a JSON pointer"),
        ] {
            let error = usage(template, pointer).unwrap_err();
            assert!(error.is_config() && error.message().contains(says), "{template}: {error}");
            assert!(!error.message().contains("secret"), "{error}");
        }
        let builder = |base| HttpUsage::builder(base, &ResourceCatalog::default());
        assert!(builder("http://h/?x").build().unwrap_err().message().contains("base URL"));
        assert!(builder("http://h").count("cats", "/", "").build().unwrap_err().is_config());
        let error = builder("http://h").exists("segments", "id", "/{workspace}", None).build().unwrap_err();
        assert!(error.message().contains("has no {value}"), "{error}");
        assert!(builder("http://h").exists("segments", "a b", "/{value}", None).build().unwrap_err().is_config());
    }

    #[test]
    fn only_numbers_of_rows_are_numbers_of_rows() {
        let rows = |json: &str| rows(&serde_json::from_str(json).unwrap());
        assert_eq!((rows("0"), rows("45"), rows("[1,[2,3]]")), (Ok(0), Ok(45), Ok(2)));
        for wrong in ["-1", "4.5", "1e3", "null", "true", "\"45\"", "{}"] {
            assert!(rows(wrong).is_err(), "{wrong}");
        }
    }
}

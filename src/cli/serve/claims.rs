//! Whose a request is, where only a key that comes with it says so: that is looked up in the database of the rows.

use std::collections::HashMap;
use std::str;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{Entry, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use moka::sync::Cache;
use sqlx::{PgPool, SqlitePool};
use tokio::time::timeout;
use tower_quota::{ErrorCode, Problem, ProblemFormat, RouteMap};

use super::config::Scheme;

/// How long a look-up may take, with its wait for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keys that are remembered.
const REMEMBERED: u64 = 10_000;

/// How long it is remembered at most that nobody has a key, so that whoever sends one over and over asks the database now and then
/// only, and a new key counts soon.
const IN_VAIN: Duration = Duration::from_secs(2);

/// How many bytes of such keys are remembered: anybody can send more of them.
const REMEMBERED_IN_VAIN: u64 = 1 << 20;

/// Where keys are looked up.
#[derive(Clone)]
pub(super) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Which rules' requests come with a key, and how that is looked up.
#[derive(Clone, PartialEq)]
pub(super) struct Claimed {
    pub(super) rules: Vec<String>,
    pub(super) header: HeaderName,
    pub(super) scheme: Scheme,
    /// Has the parameter `$1`, and `$2` with the scheme `basic`, and answers one column.
    pub(super) sql: String,
    pub(super) keep: Duration,
}

/// Who knows whose requests of some rules are.
#[derive(Clone)]
pub(super) struct Claims(Arc<HashMap<String, Arc<Lookup>>>);

impl Claims {
    pub(super) fn new(claimed: &[Claimed], pool: &Pool) -> Self {
        let lookups = claimed.iter().flat_map(|of| {
            let lookup = Arc::new(Lookup::new(of, pool.clone()));
            of.rules.iter().map(move |rule| (rule.clone(), Arc::clone(&lookup)))
        });
        Self(Arc::new(lookups.collect()))
    }

    /// What tells whose a request is; `None` where the rules know.
    pub(super) fn of<B>(&self, routes: &RouteMap, request: &Request<B>) -> Option<Arc<Lookup>> {
        if self.0.is_empty() {
            return None;
        }
        let found = routes.find(request.method(), request.uri().path(), None)?;
        self.0.get(found.rule().name()).map(Arc::clone)
    }

    /// Has the database run each statement, so that a wrong one is found at the start.
    pub(super) async fn check(&self) -> Result<(), String> {
        for lookup in self.0.values() {
            lookup.ask(&Key::default()).await?;
        }
        Ok(())
    }
}

/// How a key is looked up.
pub(super) struct Lookup {
    header: HeaderName,
    scheme: Scheme,
    sql: String,
    pool: Pool,
    /// Those that were found.
    known: Cache<Key, Arc<str>>,
    /// Those that were not, for a moment.
    unknown: Cache<Key, ()>,
}

/// What a header has: with the scheme `basic` a name and a password, otherwise one text.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Key {
    text: String,
    password: Option<String>,
}

impl Key {
    /// About how many bytes it takes, in memory and beside it.
    fn size(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.password.as_ref().map_or(0, String::len)
    }
}

impl Lookup {
    fn new(claimed: &Claimed, pool: Pool) -> Self {
        // On a line of its own, since a comment may end the statement.
        let sql = format!(
            "WITH claimed (workspace) AS (\n{}\n) SELECT CAST(workspace AS TEXT) FROM claimed LIMIT 2",
            claimed.sql.trim().trim_end_matches(';')
        );
        let known = Cache::builder().max_capacity(REMEMBERED).time_to_live(claimed.keep).build();
        let unknown = Self::unknown(claimed.keep.min(IN_VAIN));
        Self { header: claimed.header.clone(), scheme: claimed.scheme, sql, pool, known, unknown }
    }

    fn unknown(keep: Duration) -> Cache<Key, ()> {
        let size = |key: &Key, (): &()| u32::try_from(key.size()).unwrap_or(u32::MAX);
        Cache::builder().weigher(size).max_capacity(REMEMBERED_IN_VAIN).time_to_live(keep).build()
    }

    /// The answer in place of the API's.
    pub(super) fn answer(&self, problem: &Problem, headers: &HeaderMap) -> Response<Bytes> {
        let mut response = problem.to_response(ProblemFormat::negotiate(headers));
        if let Entry::Occupied(mut challenge) = response.headers_mut().entry(WWW_AUTHENTICATE) {
            match self.scheme {
                Scheme::Bearer => {}
                // RFC 7617, 2.
                Scheme::Basic => drop(challenge.insert(HeaderValue::from_static("Basic realm=\"workspaces\""))),
                // It has no name.
                Scheme::Plain => drop(challenge.remove()),
            }
        }
        response
    }

    /// The workspace of a request, or why there is none.
    pub(super) async fn workspace(&self, parts: &Parts) -> Result<String, Problem> {
        let key = self.key(&parts.headers)?;
        if let Some(workspace) = self.known.get(&key) {
            return Ok(workspace.as_ref().to_owned());
        }
        let nobody = || Problem::new(ErrorCode::Unauthenticated, format!("no workspace has this `{}`", self.header));
        if self.unknown.contains_key(&key) {
            return Err(nobody());
        }
        match self.ask(&key).await {
            Ok(Some(workspace)) => {
                self.known.insert(key, workspace.as_str().into());
                Ok(workspace)
            }
            Ok(None) => {
                self.unknown.insert(key, ());
                Err(nobody())
            }
            Err(error) => {
                tracing::error!(%error, header = %self.header, "whose a request is can't be looked up: refused");
                Err(Problem::new(ErrorCode::QuotaUnavailable, "whose this request is can't be found out: try again"))
            }
        }
    }

    fn key(&self, headers: &HeaderMap) -> Result<Key, Problem> {
        let wrong = |message: String| Problem::new(ErrorCode::Unauthenticated, message);
        let mut values = headers.get_all(&self.header).iter();
        let (header, sample) = (&self.header, self.scheme.sample());
        let Some(value) = values.next() else {
            return Err(wrong(format!("a key is required: send `{header}: {sample}`")));
        };
        if values.next().is_some() {
            return Err(wrong(format!("there are several `{header}` headers: send one")));
        }
        let read = value.to_str().ok().and_then(|value| self.scheme.read(value.trim()));
        read.ok_or_else(|| wrong(format!("the header is not `{header}: {sample}`")))
    }

    /// The workspace of a key, if there is one.
    async fn ask(&self, key: &Key) -> Result<Option<String>, String> {
        let asked = async {
            // The statement is the operator's own.
            let sql = sqlx::AssertSqlSafe(self.sql.as_str());
            match &self.pool {
                Pool::Sqlite(pool) => {
                    let query = sqlx::query_scalar::<_, Option<String>>(sql).bind(&key.text);
                    let query = if self.scheme.has_password() { query.bind(&key.password) } else { query };
                    query.fetch_all(pool).await
                }
                Pool::Postgres(pool) => {
                    let query = sqlx::query_scalar::<_, Option<String>>(sql).bind(&key.text);
                    let query = if self.scheme.has_password() { query.bind(&key.password) } else { query };
                    query.fetch_all(pool).await
                }
            }
        };
        let found = match timeout(PATIENCE, asked).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) if no_such_value(&error) => return Ok(None),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no answer within {PATIENCE:?}")),
        };
        match found.as_slice() {
            [] => Ok(None),
            [workspace] => Ok(workspace.clone()),
            _ => Err("one key is of several workspaces".to_owned()),
        }
    }
}

/// Whether a key is no value of the column's type at all, such as one that is no UUID.
fn no_such_value(error: &sqlx::Error) -> bool {
    // Class 22 of Postgres: data exceptions.
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code.len() == 5 && code.starts_with("22"))
}

impl Scheme {
    fn sample(self) -> &'static str {
        match self {
            Self::Plain => "<key>",
            Self::Basic => "Basic <name and password>",
            Self::Bearer => "Bearer <token>",
        }
    }

    pub(super) fn has_password(self) -> bool {
        self == Self::Basic
    }

    fn read(self, value: &str) -> Option<Key> {
        let credentials = |name: &str| {
            let (scheme, credentials) = value.split_once(' ')?;
            // Schemes are compared without regard to case (RFC 9110, 11.1).
            scheme.eq_ignore_ascii_case(name).then_some(credentials.trim())
        };
        match self {
            Self::Plain => Some(Key { text: value.to_owned(), password: None }),
            Self::Bearer => Some(Key { text: credentials("bearer")?.to_owned(), password: None }),
            Self::Basic => {
                let decoded = STANDARD.decode(credentials("basic")?).ok()?;
                let (name, password) = str::from_utf8(&decoded).ok()?.split_once(':')?;
                Some(Key { text: name.to_owned(), password: Some(password.to_owned()) })
            }
        }
        // No database has such a text.
        .filter(|key| !key.text.contains('\0') && !key.password.as_ref().is_some_and(|text| text.contains('\0')))
    }
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    use super::*;

    const AUTHORIZATION: HeaderName = HeaderName::from_static("authorization");

    async fn keys() -> SqlitePool {
        let memory = SqliteConnectOptions::new().in_memory(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(memory).await.unwrap();
        let sql = "CREATE TABLE keys (name TEXT, password TEXT, workspace TEXT);
            INSERT INTO keys VALUES ('ann', 's3:cret', 'acme'), ('ben', '', 'globex'), ('both', 'x', 'acme'),
            ('both', 'x', 'globex'), ('nobody', 'x', NULL)";
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        pool
    }

    fn claimed(scheme: Scheme, sql: &str) -> Claimed {
        let (sql, keep) = (sql.to_owned(), Duration::from_secs(3600));
        Claimed { rules: vec!["event".to_owned()], header: AUTHORIZATION, scheme, sql, keep }
    }

    fn lookup(pool: &SqlitePool, scheme: Scheme) -> Lookup {
        let sql = match scheme {
            Scheme::Basic => "SELECT workspace FROM keys WHERE name = $1 AND password = $2; ",
            _ => "SELECT workspace FROM keys WHERE name = $1 -- a comment",
        };
        Lookup::new(&claimed(scheme, sql), Pool::Sqlite(pool.clone()))
    }

    async fn told(lookup: &Lookup, values: &[&str]) -> Result<String, ErrorCode> {
        let mut request = Request::new(());
        for value in values {
            request.headers_mut().append(AUTHORIZATION, value.parse().unwrap());
        }
        let (parts, ()) = request.into_parts();
        lookup.workspace(&parts).await.map_err(|problem| problem.code())
    }

    #[tokio::test]
    async fn each_scheme_has_its_key() {
        let pool = keys().await;
        let unknown = Err(ErrorCode::Unauthenticated);
        let basic = |text: &str| format!("basic  {}", STANDARD.encode(text));
        let lookup_basic = lookup(&pool, Scheme::Basic);
        assert_eq!(told(&lookup_basic, &[&basic("ann:s3:cret")]).await.unwrap(), "acme");
        assert_eq!(told(&lookup_basic, &[&basic("ben:")]).await.unwrap(), "globex");
        for wrong in [basic("ann:s3"), basic("ann"), basic("ann:s3:cret\0"), "Bearer ann".into(), "Basic ann".into()] {
            assert_eq!(told(&lookup_basic, &[&wrong]).await, unknown, "{wrong}");
        }
        // Another text for the same key, which some decoders take and others don't: without padding, with bits left over, with
        // what is no letter, in the alphabet for URLs.
        assert_eq!(STANDARD.encode("ben:"), "YmVuOg==");
        for wrong in ["YmVuOg", "YmVuOg=", "YmVuOg===", "YmVuOh==", "YmVu Og==", "YmVuOg-_"] {
            assert_eq!(told(&lookup_basic, &[&format!("Basic {wrong}")]).await, unknown, "{wrong}");
        }
        assert_eq!(told(&lookup_basic, &[]).await, unknown);
        assert_eq!(told(&lookup_basic, &[&basic("ann:s3:cret"), &basic("ben:")]).await, unknown);
        assert_eq!(told(&lookup_basic, &[&basic("nobody:x")]).await, unknown);
        // Whose it is can't be said.
        assert_eq!(told(&lookup_basic, &[&basic("both:x")]).await, Err(ErrorCode::QuotaUnavailable));

        let lookup_bearer = lookup(&pool, Scheme::Bearer);
        assert_eq!(told(&lookup_bearer, &["BEARER ann"]).await.unwrap(), "acme");
        assert_eq!(told(&lookup_bearer, &["ann"]).await, unknown);
        let lookup_plain = lookup(&pool, Scheme::Plain);
        assert_eq!(told(&lookup_plain, &[" ann "]).await.unwrap(), "acme");
        assert_eq!(told(&lookup_plain, &["Bearer ann"]).await, unknown);
    }

    #[tokio::test]
    async fn who_has_no_key_is_told_of_which_kind_it_is() {
        let pool = keys().await;
        let problem = Problem::new(ErrorCode::Unauthenticated, "a key is required");
        for (scheme, challenge) in [
            (Scheme::Basic, Some("Basic realm=\"workspaces\"")),
            (Scheme::Bearer, Some("Bearer")),
            (Scheme::Plain, None),
        ] {
            let answer = lookup(&pool, scheme).answer(&problem, &HeaderMap::new());
            let told = answer.headers().get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap());
            assert_eq!((answer.status().as_u16(), told), (401, challenge));
        }
    }

    #[tokio::test]
    async fn what_was_found_is_remembered() {
        let pool = keys().await;
        let lookup = lookup(&pool, Scheme::Plain);
        assert_eq!(told(&lookup, &["ann"]).await.unwrap(), "acme");
        let change = "DELETE FROM keys; INSERT INTO keys (name, workspace) VALUES ('new', 'acme')";
        sqlx::raw_sql(change).execute(&pool).await.unwrap();
        assert_eq!(told(&lookup, &["new"]).await.unwrap(), "acme");
        assert_eq!(told(&lookup, &["ann"]).await.unwrap(), "acme");
        // What is remembered needs no database.
        pool.close().await;
        assert_eq!(told(&lookup, &["ann"]).await.unwrap(), "acme");
        assert_eq!(told(&lookup, &["ben"]).await, Err(ErrorCode::QuotaUnavailable));
    }

    #[tokio::test]
    async fn what_was_not_found_is_remembered_for_a_moment() {
        let pool = keys().await;
        let mut lookup = lookup(&pool, Scheme::Plain);
        assert_eq!(told(&lookup, &["new"]).await, Err(ErrorCode::Unauthenticated));
        let change = "INSERT INTO keys (name, workspace) VALUES ('new', 'acme')";
        sqlx::raw_sql(change).execute(&pool).await.unwrap();
        // Of itself, a new key is known soon.
        while told(&lookup, &["new"]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // And with a longer moment, that nothing more is asked can be seen.
        lookup.unknown = Lookup::unknown(Duration::from_secs(3600));
        let long = "x".repeat(2 * usize::try_from(REMEMBERED_IN_VAIN).unwrap());
        for key in ["late", &long] {
            assert_eq!(told(&lookup, &[key]).await, Err(ErrorCode::Unauthenticated));
        }
        lookup.unknown.run_pending_tasks();
        pool.close().await;
        assert_eq!(told(&lookup, &["late"]).await, Err(ErrorCode::Unauthenticated));
        // It has no room for all that anybody may send.
        assert_eq!(told(&lookup, &[&long]).await, Err(ErrorCode::QuotaUnavailable));
    }

    #[tokio::test]
    async fn a_wrong_statement_is_told_at_the_start() {
        let pool = keys().await;
        let claims = |sql: &str| Claims::new(&[claimed(Scheme::Plain, sql)], &Pool::Sqlite(pool.clone()));
        assert_eq!(claims("SELECT workspace FROM keys WHERE name = $1").check().await, Ok(()));
        for (sql, says) in [
            ("SELECT workspace FROM key WHERE name = $1", "no such table"),
            ("SELECT workspace, name FROM keys WHERE name = $1", "2 values for 1 column"),
            ("DELETE FROM keys WHERE name = $1", "syntax error"),
        ] {
            let error = claims(sql).check().await.unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}

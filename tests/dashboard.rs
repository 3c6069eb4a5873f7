//! The dashboard over real sockets, on real databases: what it sends, whom it lets, and how it reads a long list.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use http::HeaderMap;
use http::request::Parts;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, PgPool, Row, SqlitePool};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tower_quota::{
    Authenticator, BoxFuture, ClosureUsage, Dashboard, ErrorCode, Expect, Limit, LimitSet, MemoryStore, PostgresStore,
    Principal, Problem, Quota, ResourceCatalog, ResourceSpec, Role, SqliteStore, SqliteUsage, StaticTokens, Workspaces,
    bearer_token,
};

mod support;

const ROOT: &str = "root-token";
const ACME: &str = "acme-token";
const BOSS: &str = "boss-token";
const READER: &str = "reader-token";

fn tokens() -> StaticTokens {
    StaticTokens::builder()
        .admin(ROOT)
        .member(ACME, ["acme"])
        .admin_of(BOSS, ["acme", "initech"])
        .token(READER, Principal::new("reader", Role::Member, Workspaces::All))
        .build()
        .unwrap()
}

fn catalog() -> ResourceCatalog {
    let segments = ResourceSpec::new("segments", "maxSegments", Limit::of(50)).label("Segment").table("Segment");
    ResourceCatalog::empty().resource(segments).build().unwrap()
}

/// A server with a dashboard, and a browser without cookies of its own.
struct Server {
    address: SocketAddr,
    client: Client,
    quota: Quota,
    pool: SqlitePool,
    _folder: TempDir,
}

/// What a browser keeps of a session.
struct Session {
    cookie: String,
    form: String,
}

async fn listen(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

fn client() -> Client {
    Client::builder().redirect(Policy::none()).build().unwrap()
}

impl Server {
    async fn start() -> Self {
        Self::with(|dashboard| dashboard).await
    }

    async fn with(set_up: impl FnOnce(Dashboard) -> Dashboard) -> Self {
        Self::known_by(tokens(), set_up).await
    }

    async fn known_by(authenticator: impl Authenticator, set_up: impl FnOnce(Dashboard) -> Dashboard) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(folder.path().join("quota.db")).create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(20));
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
        sqlx::raw_sql(r#"CREATE TABLE "Segment" ("workspaceId" TEXT NOT NULL)"#).execute(&pool).await.unwrap();
        let usage = SqliteUsage::builder(pool.clone(), &catalog()).build().unwrap();
        let store = SqliteStore::new(pool.clone(), &catalog()).await.unwrap();
        let quota = Quota::builder(catalog()).store(store).usage(usage).snapshots(None).build().unwrap();
        let dashboard = set_up(Dashboard::new(quota.clone(), authenticator));
        let address = listen(Router::new().nest("/dashboard", dashboard.into_router())).await;
        Self { address, client: client(), quota, pool, _folder: folder }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/dashboard{path}", self.address)
    }

    async fn anonymous(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    async fn try_token(&self, token: &str, origin: &str) -> Response {
        let form = self.client.post(self.url("/sign-in")).header("origin", origin);
        form.header("content-type", "application/x-www-form-urlencoded")
            .body(format!("token={token}"))
            .send()
            .await
            .unwrap()
    }

    async fn sign_in(&self, token: &str) -> Session {
        let answer = self.try_token(token, &format!("http://{}", self.address)).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let mut session = Session { cookie, form: String::new() };
        let page = self.text(&session, "").await;
        session.form = page.split(r#"name="form" value=""#).nth(1).unwrap().split('"').next().unwrap().to_owned();
        session
    }

    async fn get(&self, session: &Session, path: &str) -> Response {
        self.client.get(self.url(path)).header("cookie", &session.cookie).send().await.unwrap()
    }

    async fn text(&self, session: &Session, path: &str) -> String {
        let answer = self.get(session, path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.unwrap()
    }

    /// A form that one of the session's own pages sends.
    async fn post(&self, session: &Session, path: &str, fields: &[(&str, &str)]) -> Response {
        let mut body = form_urlencoded(&[("form", &session.form)]);
        body.push('&');
        body.push_str(&form_urlencoded(fields));
        self.post_raw(session, path, &body, &[("sec-fetch-site", "same-origin")]).await
    }

    async fn post_raw(&self, session: &Session, path: &str, body: &str, headers: &[(&str, &str)]) -> Response {
        let mut form = self.client.post(self.url(path)).header("cookie", &session.cookie);
        for (name, value) in headers {
            form = form.header(*name, *value);
        }
        form.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned()).send().await.unwrap()
    }

    /// Rows of segments that exist.
    async fn rows(&self, workspace: &str, rows: usize) {
        let insert = r#"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
            INSERT INTO "Segment" SELECT $1 FROM n"#;
        sqlx::query(insert).bind(workspace).bind(i64::try_from(rows).unwrap()).execute(&self.pool).await.unwrap();
    }

    async fn limit(&self, workspace: &str) -> Limit {
        self.quota.usage(&self.quota.workspace(workspace).unwrap()).await.unwrap()[0].limit
    }

    /// Workspaces `w000000` and so on, as full as the remainder of their numbers by 100.
    async fn many(&self, workspaces: u32) {
        let insert = r#"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < $1 - 1)
            INSERT INTO "QuotaOverview" SELECT printf('w%06d', i), -(i % 100), 1800000000000,
            printf('{"segments":[%d,100]}', i % 100) FROM n"#;
        sqlx::query(insert).bind(workspaces).execute(&self.pool).await.unwrap();
    }
}

fn form_urlencoded(fields: &[(&str, &str)]) -> String {
    let encoded = |text: &str| percent_encoding(text);
    fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&")
}

fn percent_encoding(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The workspaces that a page lists, in its order.
fn listed(page: &str) -> Vec<String> {
    let links = page.split(r#"role="rowheader""#).skip(1);
    links.map(|row| row.split("</a>").next().unwrap().rsplit('>').next().unwrap().to_owned()).collect()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).unwrap_or_else(|| panic!("no {name}: {headers:?}")).to_str().unwrap()
}

#[tokio::test]
async fn every_answer_says_what_the_browser_may_do() {
    let server = Server::start().await;
    let root = server.sign_in(ROOT).await;
    let answers = [
        server.anonymous("/sign-in").await,
        server.anonymous("").await,
        server.get(&root, "").await,
        server.get(&root, "/workspaces/acme").await,
        server.get(&root, "/plans").await,
        server.get(&root, "/modes").await,
        server.get(&root, "/audit").await,
        server.get(&root, "/no-such-page").await,
        server.client.put(server.url("/modes")).header("sec-fetch-site", "same-origin").send().await.unwrap(),
        server.post_raw(&root, "/modes", "mode=off", &[]).await,
    ];
    for answer in answers {
        let (url, headers) = (answer.url().clone(), answer.headers().clone());
        let policy = header(&headers, "content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self';"), "{url}: {policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{url}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"), "{url}: {policy}");
        assert_eq!(header(&headers, "x-content-type-options"), "nosniff");
        assert_eq!(header(&headers, "x-frame-options"), "DENY");
        assert_eq!(header(&headers, "referrer-policy"), "same-origin");
        assert_eq!(header(&headers, "cache-control"), "no-store");
        let page = answer.text().await.unwrap();
        assert!(!page.contains(" style=") && !page.contains("<style") && !page.contains(" onclick"), "{url}");
        // Scripts are files, and each of them is the crate's own.
        for script in page.split("<script").skip(1) {
            assert!(script.starts_with(r#" src="/dashboard/assets/"#), "{url}: {script}");
        }
    }
}

#[tokio::test]
async fn assets_are_kept_for_long_by_what_is_in_them() {
    let server = Server::start().await;
    let page = server.anonymous("/sign-in").await.text().await.unwrap();
    let path = page.split(r#"<script src="/dashboard"#).nth(1).unwrap().split('"').next().unwrap();
    let answer = server.anonymous(path).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(answer.headers(), "cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(header(answer.headers(), "content-type"), "text/javascript; charset=utf-8");
    assert_eq!(server.anonymous("/assets/0123456789abcdef/dashboard.js").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_cookie_is_no_token_and_stays_where_it_belongs() {
    let server = Server::start().await;
    let answer = server.try_token(ROOT, &format!("http://{}", server.address)).await;
    let cookie = header(answer.headers(), "set-cookie").to_owned();
    assert!(cookie.ends_with("; Path=/dashboard; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(ROOT));
    let id = cookie.strip_prefix("tower_quota_session=").unwrap().split(';').next().unwrap();
    assert!(id.len() == 64 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    // A browser that sees the page over https says so, whatever a proxy has made of it.
    let answer = server.try_token(ROOT, &format!("https://{}", server.address)).await;
    assert!(header(answer.headers(), "set-cookie").ends_with("; Secure"));
    // And it is another one each time.
    assert!(!header(answer.headers(), "set-cookie").contains(id));
}

#[tokio::test]
async fn nobody_gets_in_without_a_session() {
    let server = Server::start().await;
    for path in ["", "/workspaces/acme", "/requests", "/plans", "/modes", "/audit", "/no-such-page/../plans"] {
        let answer = server.anonymous(path).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{path}");
        let to = header(answer.headers(), "location");
        assert!(to.starts_with("/dashboard/sign-in?then=%2Fdashboard"), "{path}: {to}");
    }
    for cookie in ["tower_quota_session=", "tower_quota_session=0000", "other=1"] {
        let session = Session { cookie: cookie.to_owned(), form: String::new() };
        assert_eq!(server.get(&session, "/plans").await.status(), StatusCode::SEE_OTHER, "{cookie}");
        let posted = server.post(&session, "/modes", &[("mode", "off")]).await;
        assert_eq!(posted.status(), StatusCode::SEE_OTHER, "{cookie}");
    }
    // A token is for signing in: the pages themselves don't take it.
    let answer = server.client.get(server.url("/plans")).bearer_auth(ROOT).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(server.quota.mode(), tower_quota::EnforcementMode::Enforce);
}

#[tokio::test]
async fn after_signing_in_nobody_is_led_elsewhere() {
    let server = Server::start().await;
    for (then, to) in [
        ("/dashboard/plans", "/dashboard/plans"),
        ("https://evil.example/", "/dashboard"),
        ("//evil.example/dashboard", "/dashboard"),
        ("/dashboard\\@evil.example", "/dashboard"),
        ("/dashboardevil", "/dashboard"),
    ] {
        let body = form_urlencoded(&[("token", ROOT), ("then", then)]);
        let nobody = Session { cookie: String::new(), form: String::new() };
        let answer = server.post_raw(&nobody, "/sign-in", &body, &[("sec-fetch-site", "same-origin")]).await;
        assert_eq!((answer.status(), header(answer.headers(), "location")), (StatusCode::SEE_OTHER, to), "{then}");
    }
}

#[tokio::test]
async fn wrong_tokens_are_refused_and_after_some_of_them_all() {
    let origin = Arc::new(Mutex::new("dashboard 192.0.2.1".to_owned()));
    let told = Arc::clone(&origin);
    let server = Server::with(move |dashboard| dashboard.origin(move |_: &Parts| told.lock().unwrap().clone())).await;
    let here = format!("http://{}", server.address);
    for token in ["", "wrong", "root-toke", "caf%C3%A9", "a%0d%0ab"] {
        let answer = server.try_token(token, &here).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{token}");
        assert!(!answer.headers().contains_key("set-cookie"));
    }
    let mut tries = 5;
    while server.try_token("wrong", &here).await.status() == StatusCode::UNAUTHORIZED {
        tries += 1;
        assert!(tries < 1000, "nothing stops who guesses");
    }
    assert_eq!(tries, 20);
    // Now the right one is refused too, but not that of another client.
    let answer = server.try_token(ROOT, &here).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(answer.headers(), "retry-after"), "60");
    "dashboard 192.0.2.2".clone_into(&mut origin.lock().unwrap());
    assert_eq!(server.try_token(ROOT, &here).await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_form_needs_its_own_session_and_its_own_site() {
    let server = Server::start().await;
    let (root, other) = (server.sign_in(ROOT).await, server.sign_in(ROOT).await);
    let body = |form: &str| form_urlencoded(&[("form", form), ("mode", "warn")]);
    let here = format!("http://{}", server.address);
    let same = [("sec-fetch-site", "same-origin")];
    let refused: [(&str, &[(&str, &str)]); 7] = [
        ("", &same),
        (&other.form, &same),
        (&root.form, &[]),
        (&root.form, &[("sec-fetch-site", "cross-site"), ("origin", &here)]),
        (&root.form, &[("sec-fetch-site", "same-site")]),
        (&root.form, &[("origin", "https://evil.example")]),
        (&root.form, &[("origin", "null")]),
    ];
    for (form, headers) in refused {
        let answer = server.post_raw(&root, "/modes", &body(form), headers).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{form:?} {headers:?}");
        assert_eq!(server.quota.mode(), tower_quota::EnforcementMode::Enforce);
    }
    let answer = server.post_raw(&root, "/modes", &body(&root.form), &[("origin", &here)]).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(server.quota.mode(), tower_quota::EnforcementMode::Warn);
    // To sign somebody in from another site, as oneself, is refused as well.
    assert_eq!(server.try_token(ROOT, "https://evil.example").await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_session_ends_by_signing_out() {
    let server = Server::start().await;
    let root = server.sign_in(ROOT).await;
    let answer = server.post(&root, "/sign-out", &[]).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert!(header(answer.headers(), "set-cookie").contains("Max-Age=0"));
    assert_eq!(server.get(&root, "/plans").await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_session_ends_when_nobody_clicks() {
    let server = Server::with(|dashboard| dashboard.idle(Duration::from_millis(300))).await;
    let root = server.sign_in(ROOT).await;
    let begun = Instant::now();
    // What a page does by itself is no click.
    let live = async || {
        let asked = server.client.get(server.url("/plans")).header("cookie", &root.cookie).header("x-live", "1");
        asked.send().await.unwrap()
    };
    loop {
        let answer = live().await;
        if answer.status() == StatusCode::SEE_OTHER {
            assert!(header(answer.headers(), "location").ends_with("&ended"));
            break;
        }
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(begun.elapsed() < Duration::from_secs(30), "it never ends");
    }
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(server.get(&root, "/plans").await.status(), StatusCode::SEE_OTHER);
}

/// Tokens that somebody takes back, in a place that may be out of reach.
#[derive(Clone, Default)]
struct Revocable {
    revoked: Arc<AtomicBool>,
    down: Arc<AtomicBool>,
}

impl Authenticator for Revocable {
    fn authenticate<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Principal, Problem>> {
        let token = bearer_token(&parts.headers);
        let answer = match token {
            _ if self.down.load(Ordering::SeqCst) => Err(Problem::new(ErrorCode::QuotaUnavailable, "no answer")),
            Ok(ROOT) if !self.revoked.load(Ordering::SeqCst) => Ok(Principal::admin("root")),
            _ => Err(Problem::new(ErrorCode::Unauthenticated, "no")),
        };
        assert!(parts.headers.get("cookie").is_none(), "the session's id is nobody else's business");
        Box::pin(std::future::ready(answer))
    }
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let tokens = Revocable::default();
    let server = Server::known_by(tokens.clone(), |dashboard| dashboard).await;
    let root = server.sign_in(ROOT).await;
    tokens.down.store(true, Ordering::SeqCst);
    assert_eq!(server.get(&root, "/plans").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    tokens.down.store(false, Ordering::SeqCst);
    assert_eq!(server.get(&root, "/plans").await.status(), StatusCode::OK);
    tokens.revoked.store(true, Ordering::SeqCst);
    assert_eq!(server.get(&root, "/plans").await.status(), StatusCode::SEE_OTHER);
    // For good: the session is gone, not only refused.
    tokens.revoked.store(false, Ordering::SeqCst);
    assert_eq!(server.get(&root, "/plans").await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn who_may_see_and_change_what() {
    let server = Server::start().await;
    server.rows("acme", 45).await;
    let (root, acme, boss, reader) = (
        server.sign_in(ROOT).await,
        server.sign_in(ACME).await,
        server.sign_in(BOSS).await,
        server.sign_in(READER).await,
    );
    for (who, path, status) in [
        (&root, "/workspaces/globex", 200),
        (&acme, "/workspaces/acme", 200),
        (&acme, "/workspaces/globex", 403),
        (&boss, "/workspaces/initech", 200),
        (&boss, "/workspaces/globex", 403),
        (&reader, "/workspaces/globex", 200),
        (&root, "/audit", 200),
        (&boss, "/audit", 403),
        (&reader, "/audit", 403),
        (&root, "/requests", 200),
        (&acme, "/requests", 200),
        (&reader, "/requests", 403),
        (&acme, "/plans", 200),
        (&acme, "/modes", 200),
    ] {
        assert_eq!(server.get(who, path).await.status().as_u16(), status, "{path}");
    }
    let raise = [("resource", "segments"), ("limit", "70"), ("reason", "more"), ("version", "0")];
    for (who, path, fields, status) in [
        (&acme, "/workspaces/acme/limits", &raise[..], 403),
        (&reader, "/workspaces/acme/limits", &raise[..], 403),
        (&boss, "/workspaces/globex/limits", &raise[..], 403),
        (&acme, "/workspaces/acme/recalculate", &[], 403),
        (&acme, "/workspaces/acme/settings", &[("version", "0")], 403),
        (&acme, "/workspaces/globex/requests", &[("resource", "segments"), ("amount", "5"), ("reason", "more")], 403),
        (&boss, "/modes", &[("mode", "off")], 403),
        (&boss, "/plans", &[("name", "pro")], 403),
        (&boss, "/plans/pro/delete", &[("sure", "on")], 403),
        (&reader, "/modes", &[("mode", "off")], 403),
    ] {
        assert_eq!(server.post(who, path, fields).await.status().as_u16(), status, "{path}");
    }
    assert_eq!(server.limit("acme").await, Limit::of(50));
    assert_eq!(server.post(&boss, "/workspaces/acme/limits", &raise).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(server.limit("acme").await, Limit::of(70));
    assert!(server.text(&boss, "/workspaces/acme").await.contains("The limit of segments is 70 now."));
    // Each list is that of its reader.
    assert_eq!(listed(&server.text(&acme, "").await), ["acme"]);
    assert_eq!(listed(&server.text(&boss, "").await), ["acme", "initech"]);
    assert!(listed(&server.text(&reader, "").await).contains(&"globex".to_owned()));
    // And what was asked for is decided by admins only.
    let ask = [("resource", "segments"), ("amount", "5"), ("reason", "a campaign")];
    assert_eq!(server.post(&acme, "/workspaces/acme/requests", &ask).await.status(), StatusCode::SEE_OTHER);
    let workspace = server.quota.workspace("acme").unwrap();
    let request = server.quota.requests(Some(&workspace), None, None, 10).await.unwrap().remove(0);
    let decide = |verdict: &str| format!("/workspaces/acme/requests/{}/{verdict}", request.id);
    assert_eq!(server.post(&acme, &decide("approve"), &[]).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(server.limit("acme").await, Limit::of(70));
    assert_eq!(server.post(&boss, &decide("approve"), &[]).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(server.limit("acme").await, Limit::of(75));
}

#[tokio::test]
async fn a_limit_that_somebody_else_has_changed_is_not_overwritten() {
    let server = Server::start().await;
    let root = server.sign_in(ROOT).await;
    let version = |page: &str| {
        page.split(r#"id="limit-segments""#)
            .nth(1)
            .unwrap()
            .split(r#"name="version" value=""#)
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned()
    };
    let raise = async |version: &str, limit: &str| {
        let fields = [("resource", "segments"), ("limit", limit), ("reason", "more"), ("version", version)];
        assert_eq!(server.post(&root, "/workspaces/acme/limits", &fields).await.status(), StatusCode::SEE_OTHER);
        server.text(&root, "/workspaces/acme").await
    };
    // Neither where there was no record yet, nor where there was one.
    for place in 0..2 {
        let before = version(&server.text(&root, "/workspaces/acme").await);
        let segments = server.quota.catalog().by_name("segments").unwrap().id();
        let acme = server.quota.workspace("acme").unwrap();
        let theirs = LimitSet::new().with(segments, Limit::of(60 + place));
        server.quota.update_limits(&acme, &theirs, &Expect::Anything).await.unwrap();
        let page = raise(&before, "99").await;
        assert!(page.contains("Somebody else has changed this workspace meanwhile"), "{page}");
        assert_eq!(server.limit("acme").await, Limit::of(60 + place));
    }
    let now = version(&server.text(&root, "/workspaces/acme").await);
    assert!(raise(&now, "99").await.contains("The limit of segments is 99 now."));
    assert_eq!(server.limit("acme").await, Limit::of(99));
}

#[tokio::test]
async fn bad_input_is_told_and_changes_nothing() {
    let server = Server::start().await;
    let root = server.sign_in(ROOT).await;
    let version = "0";
    for (fields, told) in [
        (vec![("resource", "segments"), ("limit", "-1"), ("reason", "x")], "A limit is a whole number of 0 or more"),
        (vec![("resource", "segments"), ("limit", "1.5"), ("reason", "x")], "A limit is a whole number of 0 or more"),
        (vec![("resource", "segments"), ("limit", "9223372036854775808"), ("reason", "x")], "limit"),
        (vec![("resource", "segments"), ("limit", "70")], "The reason is missing"),
        (vec![("resource", "widgets"), ("limit", "70"), ("reason", "x")], "segments"),
        (vec![("limit", "70"), ("reason", "x")], "segments"),
    ] {
        let mut fields = fields;
        fields.push(("version", version));
        let answer = server.post(&root, "/workspaces/acme/limits", &fields).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{fields:?}");
        let page = server.text(&root, "/workspaces/acme").await;
        let flash = page.split(r#"role="alert""#).nth(1).unwrap_or_else(|| panic!("nothing is told: {fields:?}"));
        assert!(flash.split("</p>").next().unwrap().contains(told), "{fields:?}: {flash}");
        assert_eq!(server.limit("acme").await, Limit::of(50));
    }
    for (path, status) in [
        ("/workspaces/%00", 400),
        ("/workspaces/%FF", 400),
        ("/webhooks/not-an-id", 404),
        ("/workspaces", 404),
        ("?after=nonsense&sort=sideways&show=everything", 200),
        ("/audit?before=never", 200),
        ("/requests?before=never", 200),
        ("/workspaces/acme?type=widgets", 200),
    ] {
        assert_eq!(server.get(&root, path).await.status().as_u16(), status, "{path}");
    }
    let long = "x".repeat(70_000);
    let answer = server.post(&root, "/plans", &[("name", &long)]).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn what_people_write_is_never_taken_for_html() {
    let server = Server::start().await;
    let root = server.sign_in(ROOT).await;
    let evil = r#"<script>alert("x")</script>&'"#;
    let path = format!("/workspaces/{}", percent_encoding(evil));
    let fields = [("resource", "segments"), ("limit", "70"), ("reason", evil), ("version", "0")];
    assert_eq!(server.post(&root, &format!("{path}/limits"), &fields).await.status(), StatusCode::SEE_OTHER);
    let ask = [("resource", "segments"), ("amount", "5"), ("reason", evil)];
    assert_eq!(server.post(&root, &format!("{path}/requests"), &ask).await.status(), StatusCode::SEE_OTHER);
    for page in [
        &path,
        "",
        "/audit",
        "/requests",
        &format!("?q={}", percent_encoding(evil)),
        &format!("{path}?type={}", percent_encoding(evil)),
    ] {
        let page = server.text(&root, page).await;
        assert!(!page.contains("<script>alert") && page.contains("&lt;script&gt;alert"), "{page}");
    }
}

#[tokio::test]
async fn the_list_follows_what_happens() {
    let server = Server::start().await;
    let root = server.sign_in(ROOT).await;
    assert!(server.text(&root, "").await.contains("There are no workspaces yet."));
    server.rows("acme", 45).await;
    // What was looked at by somebody is listed at once.
    server.text(&root, "/workspaces/acme").await;
    let page = server.text(&root, "").await;
    assert_eq!(listed(&page), ["acme"]);
    assert!(page.contains("90 %") && page.contains("Near limit"), "{page}");
    // What a request does, soon.
    let globex = server.quota.workspace("globex").unwrap();
    let segments = server.quota.catalog().by_name("segments").unwrap().id();
    let demand = tower_quota::Demand::new(segments, 49);
    match server.quota.reserve(&globex, &[demand]).await.unwrap() {
        tower_quota::Decision::Admitted(reservation) => {
            server.rows("globex", 49).await;
            reservation.post();
        }
        tower_quota::Decision::Refused(refusal) => panic!("{refusal:?}"),
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while listed(&server.text(&root, "").await) != ["globex", "acme"] {
        assert!(Instant::now() < deadline, "it never gets there: {}", server.text(&root, "").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // So does a change of its limit, and its end.
    let raise = LimitSet::new().with(segments, Limit::of(500));
    server.quota.update_limits(&globex, &raise, &Expect::Anything).await.unwrap();
    while listed(&server.text(&root, "").await) != ["acme", "globex"] {
        assert!(Instant::now() < deadline, "it never gets there: {}", server.text(&root, "").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn pages_follow_each_other_and_leave_nobody_out() {
    let server = Server::start().await;
    server.many(1234).await;
    let root = server.sign_in(ROOT).await;
    for (query, most) in
        [("", 1234), ("?sort=name", 1234), ("?show=near", 120), ("?q=W0001", 100), ("?q=7&sort=name", 1234)]
    {
        let (mut seen, mut path) = (Vec::new(), query.to_owned());
        loop {
            let page = server.text(&root, &path).await;
            let rows = listed(&page);
            assert!(!rows.is_empty() && rows.len() <= 50, "{path}");
            seen.extend(rows);
            let Some(next) = page.split(r#"rel="next" href="/dashboard"#).nth(1) else { break };
            path = next.split('"').next().unwrap().replace("&amp;", "&");
        }
        let mut expected: Vec<_> = (0..1234).map(|n| (n, format!("w{n:06}"))).collect();
        if !query.contains("sort=name") {
            expected.sort_by_key(|(n, id)| (std::cmp::Reverse(n % 100), id.clone()));
        }
        expected.retain(|(n, id)| match query {
            "?show=near" => n % 100 >= 90,
            "?q=W0001" => id.contains("w0001"),
            "?q=7&sort=name" => id.contains('7'),
            _ => true,
        });
        let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
        assert!(expected.len() <= most && seen == expected, "{query}: {} instead of {}", seen.len(), expected.len());
    }
    let nobody = server.text(&root, "?q=100%25_").await;
    assert!(nobody.contains("No workspace has “100%_” in its id."), "{nobody}");
}

/// The statements of a page, as the dashboard sends them: see `src/store/sql_overview.rs`, which
/// has a test of the same with SQLite.
const FULLEST: &str = r#"SELECT "workspaceId", "at", "usage" FROM "QuotaOverview"
    WHERE ("rank", "workspaceId") > (CAST(-50 AS BIGINT), 'w000050') ORDER BY "rank", "workspaceId" LIMIT 51"#;
const BY_NAME: &str = r#"SELECT "workspaceId", "at", "usage" FROM "QuotaOverview"
    WHERE "workspaceId" > 'w000050' ORDER BY "workspaceId" LIMIT 51"#;

#[tokio::test]
async fn a_page_of_many_workspaces_is_read_by_an_index_in_postgres() {
    let url = support::postgres::shared().database();
    let store = PostgresStore::connect(&url, &catalog()).await.unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    let many = r#"INSERT INTO "QuotaOverview" SELECT 'w' || lpad(i::text, 6, '0'), -(i % 100), 1800000000000,
        '{"segments":[' || i % 100 || ',100]}' FROM generate_series(0, 99999) i; ANALYZE "QuotaOverview""#;
    sqlx::raw_sql(many).execute(&pool).await.unwrap();
    for statement in [FULLEST, BY_NAME] {
        let explain = AssertSqlSafe(format!("EXPLAIN {statement}"));
        let rows = sqlx::query(explain).fetch_all(&pool).await.unwrap();
        let plan: String = rows.iter().map(|row| row.get::<String, _>(0) + "\n").collect();
        assert!(plan.contains("Index Scan") && !plan.contains("Seq Scan") && !plan.contains("Sort"), "{plan}");
    }
    // The same pages, by the same statements, over the dashboard.
    let usage = ClosureUsage::new(|_, _, _| async { Ok::<_, std::io::Error>(0) });
    let quota = Quota::builder(catalog()).store(store).usage(usage).snapshots(None).build().unwrap();
    let app = Router::new().nest("/dashboard", Dashboard::new(quota.clone(), tokens()).into_router());
    let server = Server {
        address: listen(app).await,
        client: client(),
        quota,
        pool: SqlitePool::connect_lazy("sqlite::memory:").unwrap(),
        _folder: tempfile::tempdir().unwrap(),
    };
    let root = server.sign_in(ROOT).await;
    let page = server.text(&root, "").await;
    assert_eq!(listed(&page)[..2], ["w000099", "w000199"]);
    let next =
        page.split(r#"rel="next" href="/dashboard"#).nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    assert_eq!(listed(&server.text(&root, &next).await)[0], "w005099");
    assert_eq!(listed(&server.text(&root, "?q=W099999").await), ["w099999"]);
    assert_eq!(listed(&server.text(&root, "?sort=name").await)[0], "w000000");
    // What is looked at is kept there, too.
    server.text(&root, "/workspaces/acme").await;
    assert_eq!(listed(&server.text(&root, "?q=acme").await), ["acme"]);
}

/// By the median of rounds in which both take turns, so that a busy machine slows both.
#[tokio::test]
async fn a_page_of_many_workspaces_takes_at_most_twice_as_long_as_one_of_few() {
    /// What the network and the clock may add.
    const SLACK: Duration = Duration::from_millis(5);
    const ROUNDS: usize = 41;
    const TRIES: usize = 5;
    let mut servers = Vec::new();
    for workspaces in [100, 100_000] {
        let server = Server::start().await;
        server.many(workspaces).await;
        let root = server.sign_in(ROOT).await;
        assert_eq!(listed(&server.text(&root, "").await).len(), 50);
        servers.push((server, root));
    }
    let measure = async || {
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            for ((server, root), times) in servers.iter().zip(&mut times) {
                let begun = Instant::now();
                server.text(root, "").await;
                times.push(begun.elapsed());
            }
        }
        times.map(|mut times| {
            times.sort_unstable();
            times[ROUNDS / 2]
        })
    };
    let mut measured = Vec::new();
    for _ in 0..TRIES {
        let [few, many] = measure().await;
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        println!("a page of 100 workspaces: {few:?}, of 100,000: {many:?}, ratio {ratio:.2}");
        if many <= 2 * few + SLACK {
            return;
        }
        measured.push((few, many));
    }
    panic!("never at most twice the time: {measured:?}");
}

#[tokio::test]
async fn a_store_without_a_list_still_has_pages_of_workspaces() {
    let usage = ClosureUsage::new(|_, _, _| async { Ok::<_, std::io::Error>(45) });
    let quota = Quota::builder(catalog()).store(MemoryStore::new()).usage(usage).build().unwrap();
    // At the root of a server, too.
    let address = listen(Router::new().merge(Dashboard::new(quota, tokens()).into_router())).await;
    let client = client();
    let signed = client.post(format!("http://{address}/sign-in")).header("origin", format!("http://{address}"));
    let answer = signed.body(format!("token={ROOT}")).send().await.unwrap();
    assert_eq!((answer.status(), header(answer.headers(), "location")), (StatusCode::SEE_OTHER, "/"));
    let cookie = header(answer.headers(), "set-cookie").to_owned();
    assert!(cookie.contains("; Path=/; "), "{cookie}");
    for (path, has) in [
        ("/", "There are no workspaces yet."),
        ("/?q=acme", r#"href="/workspaces/acme""#),
        ("/workspaces/acme", "90 %"),
    ] {
        let answer = client.get(format!("http://{address}{path}")).header("cookie", &cookie).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let page = answer.text().await.unwrap();
        assert!(page.contains(has), "{path}: {page}");
    }
}

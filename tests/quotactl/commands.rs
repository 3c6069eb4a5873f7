//! Every command, on success and on what it may meet.

use serde_json::{Value, json};
use tower_quota::Provisioning;

use crate::host::{Host, serve};
use crate::support::database::Database;
use crate::support::postgres::shared;
use crate::support::quickstart::{ACME, ADMIN, Quickstart, Server, create, create_all};
use crate::support::receiver::Receiver;
use crate::support::until;
use crate::transcript::Session;

fn names(many: u32) -> impl Iterator<Item = String> {
    (1..=many).map(|number| format!("number {number}"))
}

fn started() -> (Quickstart, Session) {
    let server = Quickstart::start(Server::Sqlite);
    let session = Session::at(server.address, ADMIN);
    (server, session)
}

/// What the README shows has happened.
#[test]
fn readme() {
    let (server, mut session) = started();
    create_all(&mut server.connect(), "acme", names(45));
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart/routes.toml");
    session.file("routes.toml", &std::fs::read_to_string(examples).unwrap());
    session.all(&[
        "update --workspace acme --max-segments 48",
        "validate --workspace acme --resource segments --increment 5",
        "update --workspace acme --max-zebras 5",
        "routes explain routes.toml PUT /api/segments '{\"workspaceId\": \"acme\", \"name\": \"Big spenders\"}'",
        "doctor --workspace acme --routes routes.toml",
    ]);
    session.is("readme.txt");
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let shown = include_str!("transcripts/readme.txt").replace("[ADDRESS]", "127.0.0.1:3000");
    assert!(readme.contains(&shown), "{shown}");
}

#[test]
fn status() {
    let (server, mut session) = started();
    create_all(&mut server.connect(), "acme", names(45));
    session.all(&["status --workspace acme", "status -w acme --output csv", "status -w acme --output json"]);
    session.run("update -w acme --max-segments 45");
    session.run("status -w acme");
    session.set("QUOTA_TOKEN", ACME);
    session.all(&["status -w acme --output csv", "status -w globex", "status", "status -w acme --output xml"]);
    session.is("status.txt");
}

#[test]
fn update() {
    let (server, mut session) = started();
    create_all(&mut server.connect(), "acme", names(3));
    session.all(&[
        "update --workspace acme --max-segments 100 --max-users 5000",
        "update -w acme --max-custom-metrics unlimited --max-email-templates=7 --reason 'as agreed'",
        "update -w acme --limit-field maxUsers=6000",
        "update -w acme --max-segments 2",
        "update -w acme --max-segments 9 --if-match 5 --output json",
        "update -w acme --max-segments 10 --if-match 5",
        "update -w acme --max-zebras 1",
        "update -w acme --max-segments",
        "update -w acme --max-segments -1",
        "update -w acme --max-segments 9223372036854775808",
        "update -w acme",
        "status -w acme --max-segments 1",
    ]);
    session.set("QUOTA_TOKEN", ACME);
    session.run("update -w acme --max-segments 100");
    session.is("update.txt");
}

#[test]
fn validate() {
    let (server, mut session) = started();
    create_all(&mut server.connect(), "acme", names(45));
    session.all(&[
        "validate -w acme --resource segments --increment 5",
        "validate -w acme --resource segments --increment 6",
        "validate -w acme --resource segments --increment 6 --output json",
        "validate -w acme --resource zebras",
        "validate -w acme --resource segments --increment 0",
        "validate -w acme",
    ]);
    session.comment("in mode `warn` it would pass");
    session.run("mode set warn -w acme");
    session.run("validate -w acme --resource segments --increment 6");
    session.is("validate.txt");
}

#[test]
fn recalculate() {
    let (server, mut session) = started();
    create_all(&mut server.connect(), "acme", names(3));
    session.run("recalculate -w acme --output csv");
    session.comment("a row is deleted, and none of this is told to the layer");
    server.database().run(r#"DELETE FROM "Segment" WHERE "name" = 'number 2'"#.to_owned());
    session.all(&["recalculate -w acme --dry-run", "recalculate -w acme", "recalculate -w acme --output json"]);
    session.run("recalculate -w acme --dry-run");
    session.set("QUOTA_TOKEN", ACME);
    session.run("recalculate -w acme");
    session.is("recalculate.txt");
}

#[test]
fn plans() {
    let (_server, mut session) = started();
    session.all(&[
        "plans list",
        "plans set pro --max-segments 200 --max-custom-metrics unlimited",
        "plans set pro --max-segments 300 --if-match 1",
        "plans set pro --max-segments 400 --if-match 1",
        "plans set pro --max-zebras 1",
        "plans set pro",
        "plans set 'no name' --max-segments 1",
        "plans show pro",
        "plans show absent",
        "plans list --output csv",
        "plans assign pro -w acme",
        "plans assign absent -w acme",
        "status -w acme --output csv",
        "plans delete pro",
        "plans assign --none -w acme",
        "plans delete pro --output json",
        "plans delete pro",
        "plans assign -w acme",
    ]);
    session.set("QUOTA_TOKEN", ACME);
    session.all(&["plans list", "plans set pro --max-segments 200"]);
    session.is("plans.txt");
}

#[test]
fn grace() {
    let (server, mut session) = started();
    session.all(&[
        "grace show -w acme",
        "grace set -w acme --percentage 50 --duration 24h --resource segments",
        "update -w acme --max-segments 2",
    ]);
    session.comment("three segments are made");
    create_all(&mut server.connect(), "acme", names(3));
    session.all(&[
        "grace show -w acme",
        "grace show -w acme --output json",
        "status -w acme",
        "grace off -w acme",
        "grace set -w acme --percentage 50 --duration soon",
        "grace set -w acme --percentage 5000 --duration 1h",
        "grace set -w acme --percentage 5 --duration 1h --resource zebras",
        "grace set -w globex --percentage 5 --duration 7d --reason 'moving in' --output json",
    ]);
    session.is("grace.txt");
}

#[test]
fn overrides() {
    let (_server, mut session) = started();
    session.run("override list -w acme");
    session.run("override add -w acme --resource segments --limit 75 --until 7d --reason 'spring sale' --output json");
    session.run("override list -w acme");
    session.run("override add -w acme --resource segments --limit 80 --until 1d --reason 'the same time'");
    session.run("override add -w acme --resource segments --limit 80 --until yesterday --reason x");
    session.run("override add -w acme --resource segments --limit many --until 1d --reason x");
    session.run("override add -w acme --resource zebras --limit 80 --until 1d --reason x");
    session.run("override add -w acme --resource users --limit unlimited --from 1d --until 2d --reason 'to come'");
    let listed = session.run("override list -w acme --output json").stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let id = listed[0]["id"].as_str().unwrap();
    session.run(&format!("override remove -w acme {id}"));
    session.run(&format!("override remove -w acme {id}"));
    session.run("override remove -w acme nothing");
    session.run("override list -w acme --output csv");
    session.is("override.txt");
}

#[test]
fn requests() {
    let (_server, mut session) = started();
    session.set("QUOTA_TOKEN", ACME);
    let mut ids = Vec::new();
    for reason in ["for the launch", "=SUM(A1:A9)", "one\nmore \x1b[31mred"] {
        // A reason is anybody's: it commands neither a terminal nor a spreadsheet.
        let made = session
            .run(&format!("requests make -w acme --resource segments --amount 10 --reason '{reason}' --output json"));
        let made: Value = serde_json::from_str(&made.stdout).unwrap();
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    session.run("requests list -w acme");
    session.run("requests list --all");
    session.run(&format!("requests approve -w acme {}", ids[0]));
    session.run(&format!("requests withdraw -w acme {}", ids[2]));
    session.set("QUOTA_TOKEN", ADMIN);
    session.run(&format!("requests approve -w acme {} --note welcome --until 30d", ids[0]));
    session.run(&format!("requests deny -w acme {} --note 'no formulas'", ids[1]));
    session.run(&format!("requests deny -w acme {}", ids[1]));
    session.run("requests approve -w acme nothing");
    session.all(&[
        "requests list --all --output csv",
        "requests list --all --status pending",
        "requests list --all --status open",
        "requests list -w acme --count 2",
        "requests list",
        "requests make -w acme --resource segments --amount 0 --reason x",
    ]);
    session.is("requests.txt");
}

#[test]
fn audit() {
    let (_server, mut session) = started();
    session.all(&[
        "update -w acme --max-segments 10 --reason first",
        "update -w acme --max-users 20",
        "plans set pro --max-segments 200",
        "audit -w acme",
        "audit -w acme --resource users --output csv",
        "audit --all --count 2",
        "audit --all --count 2 --cursor 2 --output json",
        "audit -w acme --since 2024-01-01T00:00:00Z --until 2024-01-02T00:00:00Z",
        "audit -w acme --since yesterday",
        "audit -w acme --cursor x",
        "audit -w acme --count 1001",
        "audit -w acme --resource zebras",
        "audit",
    ]);
    session.set("QUOTA_TOKEN", ACME);
    session.all(&["audit -w acme", "audit --all"]);
    session.is("audit.txt");
}

#[test]
fn mode() {
    let (_server, mut session) = started();
    session.all(&[
        "mode show",
        "mode set warn",
        "mode set strict --resource segments",
        "mode show --output json",
        "mode set inherit --resource segments --output csv",
        "mode set inherit",
        "mode set on",
        "mode set enforce --resource zebras",
        "mode show -w acme",
        "mode set off -w acme --reason 'a migration'",
        "mode set strict -w acme --resource segments",
        "mode set inherit -w acme --output json",
    ]);
    session.set("QUOTA_TOKEN", ACME);
    session.all(&["mode show", "mode set off"]);
    session.is("mode.txt");
}

#[test]
fn migrate() {
    let (server, mut session) = started();
    let mut connection = server.connect();
    create_all(&mut connection, "acme", names(5));
    create_all(&mut connection, "globex", names(11));
    create(&mut connection, "initech", "one").expect(201);
    session.all(&[
        "update -w globex --max-segments 11",
        "migrate analyze",
        "migrate analyze --percent 200 --floor 5 --show 1 --output json",
        "migrate analyze --percent 0",
        "migrate apply --percent 150",
        "status -w acme --output csv",
        "audit -w acme --resource segments",
        "migrate apply --output json",
    ]);
    session.set("QUOTA_TOKEN", ACME);
    session.run("migrate apply");
    session.is("migrate.txt");
}

#[test]
fn shadow() {
    let (server, mut session) = started();
    session.all(&[
        "shadow show",
        "shadow start",
        "shadow start --max-zebras 1",
        "shadow start --max-segments 1 -w acme",
    ]);
    session.comment("two segments are made");
    create_all(&mut server.connect(), "acme", names(2));
    session.all(&["shadow show", "shadow show --output csv", "shadow stop --output json", "shadow stop"]);
    session.is("shadow.txt");
}

#[test]
fn cleanup() {
    let host = Host::start(Provisioning::Automatic);
    let mut session = Session::at(host.address, ADMIN);
    host.insert("acme", 1..=5);
    session.all(&[
        "cleanup -w acme --resource segments",
        "status -w acme --output csv",
        "cleanup -w acme --resource segments --apply --batch 1",
        "cleanup -w acme --resource segments --output json",
        "cleanup -w acme --resource zebras",
        "cleanup -w acme --resource segments --apply --batch 0",
    ]);
    let (_server, mut nothing) = started();
    nothing.hide("[OTHER]", "none");
    session.is("cleanup.txt");
    nothing.run("cleanup -w acme --resource segments");
    nothing.is("cleanup-nothing.txt");
}

#[test]
fn webhooks() {
    let host = Host::start(Provisioning::Automatic);
    let receiver = host.runtime.block_on(Receiver::start());
    let mut session = Session::at(host.address, ADMIN);
    session.hide("[RECEIVER]", receiver.url.clone());
    let url = receiver.url.clone();
    session.run("webhooks list");
    let added =
        session.run(&format!("webhooks add {url} --description 'the team' --event quota.exceeded --output json"));
    let added: Value = serde_json::from_str(&added.stdout).unwrap();
    let (id, secret) = (added["id"].as_str().unwrap().to_owned(), added["secret"].as_str().unwrap().to_owned());
    session.run(&format!("webhooks show {id}"));
    session.run("webhooks list");
    session.run(&format!("webhooks test {id}"));
    until("the test arrives", || receiver.requests().len() == 1);
    receiver.requests()[0].verify(&[&secret]);
    let listed = |session: &Session| {
        let listed = session.command().args(["webhooks", "deliveries", &id, "--output", "json"]).output().unwrap();
        serde_json::from_slice::<Value>(&listed.stdout).unwrap()["deliveries"].clone()
    };
    let settled = |session: &Session| {
        until("it is known to have arrived", || {
            listed(session).as_array().unwrap().iter().all(|one| one["status"] == "delivered")
        });
    };
    settled(&session);
    session.run(&format!("webhooks deliveries {id}"));
    let delivery = listed(&session)[0]["id"].as_str().unwrap().to_owned();
    session.run(&format!("webhooks replay {id} {delivery}"));
    until("it arrives again", || receiver.requests().len() == 2);
    settled(&session);
    session.run(&format!("webhooks deliveries {id} --status dead"));
    let secret_file = session.file("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    let rotated = session.run(&format!("webhooks secret {id} --secret-file {}", secret_file.display()));
    assert!(rotated.stdout.contains("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    session.run_with(&format!("webhooks secret {id} --secret-file -"), "short\n");
    session.run(&format!("webhooks update {id} --active false --event quota.warning,quota.exceeded"));
    session.run(&format!("webhooks update {id}"));
    session.run(&format!("webhooks update {id} --event quota.lost"));
    session.run("webhooks add http://10.0.0.1/hook");
    session.run("webhooks add nowhere");
    session.run(&format!("webhooks replay {id} nothing"));
    session.run(&format!("webhooks delete {id}"));
    for line in ["show", "delete", "test", "secret", "deliveries"] {
        session.run(&format!("webhooks {line} {id}"));
    }
    session.set("QUOTA_TOKEN", ACME);
    session.run("webhooks list");
    session.is("webhooks.txt");
}

#[test]
fn a_workspace_without_a_record() {
    let host = Host::start(Provisioning::Explicit);
    let mut session = Session::at(host.address, ADMIN);
    session.all(&[
        "status -w acme",
        "doctor -w acme",
        "monitor -w acme",
        "update -w acme --max-segments 1",
        "status -w acme",
    ]);
    session.is("unknown-workspace.txt");
}

#[test]
fn doctor() {
    let server = Quickstart::with(Server::Sqlite, &[("QUOTA_ENFORCEMENT_MODE", "off")]);
    let mut session = Session::at(server.address, ADMIN);
    let rules =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart/routes.toml")).unwrap();
    session.file("routes.toml", &rules);
    let other = "[[rule]]\nname = \"one\"\nmethods = [\"POST\"]\npaths = [\"/w/{w}/users\"]\n\
                 workspace = [{ path = \"w\" }]\ncharge = [{ resource = \"users\" }]\n";
    session.file("other.toml", other);
    session.all(&["doctor", "mode set enforce", "doctor -w acme --routes routes.toml"]);
    session.comment("rows are made around the layer, and limits are reached");
    let mut connection = server.connect();
    create_all(&mut connection, "acme", names(3));
    connection.send("POST", "/api/workspaces/acme/journeys", r#"{"name": "x"}"#).expect(201);
    // Not of the type that is at its limit: that is counted for its thresholds, too, and believed rightly then.
    server.database().run(r#"INSERT INTO "Journey" SELECT 'x', "workspaceId", 'y' FROM "Journey" LIMIT 1"#.to_owned());
    session.all(&[
        "update -w acme --max-segments 3",
        "mode set warn -w acme --resource segments",
        "mode set off --resource users",
        "doctor -w acme --routes other.toml",
    ]);
    session.set("QUOTA_TOKEN", ACME);
    session.run("doctor -w acme --output json");
    session.set("QUOTA_TOKEN", "unknown");
    session.run("doctor -w acme --output csv");
    session.run("doctor --routes absent.toml");
    session.is("doctor.txt");
}

/// How the set-up stands.
fn standing(server: &Quickstart) -> Value {
    server.connect().send("GET", "/api/system/quota-status", "").expect(200).json()
}

fn replicas(server: &Quickstart) -> Vec<Value> {
    standing(server)["replicas"].as_array().unwrap().clone()
}

/// Waits until one sees so many.
fn all_are_there(server: &Quickstart, many: usize) {
    let seen = |replica: &Value| replica["seenAt"].is_string();
    until("all replicas have shown life", || {
        let replicas = replicas(server);
        replicas.len() == many && replicas.iter().all(seen)
    });
}

#[test]
fn doctor_looks_at_all_replicas() {
    let url = shared().database();
    let first = Quickstart::on(&url, &[]);
    let mut session = Session::at(first.address, ADMIN);
    session.run("doctor");
    let alike = Quickstart::on(&url, &[]);
    all_are_there(&first, 2);
    for replica in replicas(&first) {
        // RFC 3339, with the same zone: in the order of time.
        let (joined, seen) = (replica["joinedAt"].as_str().unwrap(), replica["seenAt"].as_str().unwrap());
        assert!(joined[..19] <= seen[..19], "{replica}");
    }
    session.comment("another replica has started");
    session.run("doctor");
    drop(alike);

    session.comment("replicas in another mode, and with other rules");
    let folder = tempfile::tempdir().unwrap();
    let rules = include_str!("../../examples/quickstart/routes.toml");
    let other = rules.split("\n\n").filter(|block| !block.contains("webhooks")).collect::<Vec<_>>().join("\n\n");
    let file = folder.path().join("other.toml");
    std::fs::write(&file, other.replace("default = 50", "default = 60")).unwrap();
    // Its leases have ended by then.
    until("the one that was killed is forgotten", || replicas(&first).len() == 1);
    let warns = Quickstart::on(&url, &[("QUOTA_ENFORCEMENT_MODE", "warn")]);
    all_are_there(&first, 2);
    let differs = Quickstart::on(&url, &[("QUOTA_ROUTES", file.to_str().unwrap())]);
    all_are_there(&first, 3);
    session.run("doctor");
    drop(differs);

    session.comment("the mode is set at the one, and the other stops");
    Session::at(warns.address, ADMIN).run("mode set enforce");
    Session::at(warns.address, ADMIN).run("mode set strict --resource users");
    until("it is told", || {
        let all = replicas(&first);
        all.len() == 2
            && all.iter().all(|of| of["config"]["mode"] == "enforce")
            && all[1]["config"]["modes"] != json!({})
    });
    session.run("doctor");

    session.comment("a replica of an older version tells nothing, and one of another version tells that");
    let mut database = Database::postgres(&url);
    let id = replicas(&first)[1]["id"].as_str().unwrap().to_owned();
    let set = |to: &str| format!(r#"UPDATE "_tower_quota_replica" SET "config" = {to} WHERE "id" = '{id}'"#);
    database.run(set("NULL"));
    session.run("doctor");
    let ours = "(SELECT \"config\" FROM \"_tower_quota_replica\" ORDER BY \"id\" LIMIT 1)";
    database.run(set(&format!(r#"{ours} || '{{"version": "0.0.1", "of tomorrow": true}}'"#)));
    session.run("doctor");
    database.run(set(ours));

    session.comment("the tables are of a newer version, and then of an older one");
    let known = standing(&first)["store"]["schema"]["known"].as_u64().unwrap();
    session.hide("[KNOWS]", format!("knows up to {known}"));
    session.hide("[NEEDS]", format!("version {}, and the program needs {known}", known - 1));
    database.run(r#"INSERT INTO "_tower_quota_migrations" VALUES (99, '2999-01-01T00:00:00Z')"#.to_owned());
    session.run("doctor");
    database.run(format!(r#"DELETE FROM "_tower_quota_migrations" WHERE "version" >= {known}"#));
    session.run("doctor --output csv");
    session.is("doctor-replicas.txt");
}

/// As the contract has it; the quickstart keeps no history.
#[test]
fn analytics_and_reports() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let analytics = json!({
        "trends": [
            {"date": "2024-01-01", "usage": {"segments": 30, "journeys": 10, "users": 500}},
            {"date": "2024-01-02", "usage": {"segments": 31, "journeys": null, "users": 500}, "carried": ["users"]},
        ],
        "forecast": {
            "segments": {"projectedDate": "2024-01-12", "daysUntilLimit": 10, "growthRate": 0.02,
                         "earliest": "2024-01-10", "latest": null},
            "users": {"projectedDate": null, "daysUntilLimit": null, "growthRate": null, "reason": "noGrowth"},
        },
    });
    let report = "workspaceId,period,resourceType,last\r\nacme,monthly,segments,31\r\n";
    let address = runtime.block_on(async {
        use axum::extract::{Json, RawQuery};
        use axum::routing::get;
        let told = get(move |RawQuery(query): RawQuery| async move {
            match query.unwrap_or_default().contains("startDate=2024-01-01&endDate=2024-01-02&granularity=day") {
                true => Ok(Json(analytics)),
                false => Err(http::StatusCode::IM_A_TEAPOT),
            }
        });
        let report = |all: bool| {
            get(move |RawQuery(query): RawQuery| async move {
                let told = format!("{report}# {}, {}\r\n", if all { "all" } else { "one" }, query.unwrap_or_default());
                ([(http::header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present")], told)
            })
        };
        let app = axum::Router::new()
            .route("/api/workspaces/acme/quota/analytics", told)
            .route("/api/workspaces/acme/quota/report", report(false))
            .route("/api/system/quota-report", report(true));
        serve(app).await
    });
    let mut session = Session::at(address, ADMIN);
    session.all(&[
        "analytics -w acme --start 2024-01-01 --end 2024-01-02 --granularity day",
        "analytics -w acme --start 2024-01-01 --end 2024-01-02 --granularity day --forecast",
        "analytics -w acme --start 2024-01-01 --end 2024-01-02 --granularity day --output csv",
        "analytics -w acme --start 2024-01-01 --end 2024-01-02 --granularity day --output json",
        "analytics -w acme --start 2024-13-01",
        "analytics -w acme --granularity year",
        "analytics -w globex",
        "report --workspace acme --format csv --output usage-report.csv",
        "report -w acme --format json --period weekly",
        "report --all",
        "report -w acme --format pdf",
        "report -w acme --output /nowhere/at/all.csv",
        "report",
    ]);
    let written = std::fs::read_to_string(session.home.path().join("usage-report.csv")).unwrap();
    assert_eq!(written, format!("{report}# one, format=csv&period=monthly\r\n"));
    session.is("insight.txt");
}

//! What the sections of the configuration change.

use serde_json::json;

use crate::host::Folder;
use crate::support::quickstart::Server;
use crate::support::receiver::Receiver;
use crate::support::{smtp, until};

/// A runtime for peers; it works beside the test.
fn peers() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn notices_go_out_at_the_thresholds() {
    let runtime = peers();
    let receiver = runtime.block_on(Receiver::start());
    let mut mails =
        runtime.block_on(smtp::Server::start(json!({"tls": "wrapper", "user": "quotas", "password": "s3cret"})));
    let folder = Folder::new(Server::Sqlite);
    folder.private("smtp-password", "s3cret");
    folder.write("smtp-root.pem", &mails.root);
    folder.append(&format!(
        r#"[webhooks]
allow_networks = ["127.0.0.0/8"]
[smtp]
url = "smtps://localhost:{}"
from = "Quotas <quotas@example.com>"
user = "quotas"
password = "file:smtp-password"
root_certificate = "smtp-root.pem"
[thresholds]
warning = 20
critical = 30
exceeded = 101
[metrics]
path = "/numbers"
[api]
path = "/v1/quotas"
"#,
        mails.port
    ));
    let service = folder.start();
    let mut admin = service.admin();
    let endpoint = json!({"url": receiver.url}).to_string();
    admin.send("POST", "/v1/quotas/system/webhooks", &endpoint).expect(201);
    let contacts = json!({"emails": ["ada@example.org"]}).to_string();
    admin.send("PUT", "/v1/quotas/workspaces/acme/quota/contacts", &contacts).expect(200);
    // One row of three: 33 %.
    folder.insert(1);
    admin.send("POST", "/v1/quotas/workspaces/acme/quota/recalculate", "").expect(200);
    until("both are told", || receiver.requests().len() == 2);
    let told: Vec<_> = receiver.bodies().iter().map(|body| body["data"]["threshold"].clone()).collect();
    assert_eq!(told, ["warning", "critical"], "{:?}", receiver.bodies());
    let mail = runtime.block_on(mails.received());
    assert_eq!(mail.to, ["ada@example.org"]);
    assert!(mail.encrypted && mail.authenticated);
    assert_eq!((service.probe("/numbers"), service.probe("/metrics")), (Some(200), Some(404)));
}

#[test]
fn a_sqlite_file_is_beside_the_configuration() {
    let folder = Folder::new(Server::Sqlite);
    folder.insert(2);
    // The service is started elsewhere.
    folder.change(&folder.url, "sqlite://quota.db");
    let service = folder.start();
    let quota = service.admin().send("GET", "/api/workspaces/acme/quota", "").expect(200).json();
    assert_eq!(quota["usage"]["segments"], 2, "{quota}");
}

#[test]
fn parts_can_be_turned_off() {
    let folder = Folder::new(Server::Sqlite);
    folder.insert(3);
    folder.append(
        r#"[thresholds]
enabled = false
[snapshots]
every_seconds = 1
[metrics]
enabled = false
"#,
    );
    let service = folder.start();
    service.logs("snapshots of usage were taken workspaces=1");
    assert_eq!(service.probe("/metrics"), Some(404));
    // Thresholds are looked at every second, and snapshots are taken so: with them it would be told by then.
    service.admin().send("POST", "/api/workspaces/acme/quota/recalculate", "").expect(200);
    let taken = || service.log().matches("snapshots of usage were taken").count();
    let before = taken();
    until("it goes on", || taken() >= before + 4);
    assert!(!service.log().contains("threshold="), "{}", service.log());
}

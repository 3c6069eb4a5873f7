use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::events::mail::NoticeMail;

#[path = "../../../tests/support/smtp.rs"]
mod smtp;

use smtp::Server;

fn options(server: &Server, scheme: &str, query: &str) -> EmailOptions {
    let url = format!("{scheme}://localhost:{}{query}", server.port);
    EmailOptions::smtp(url, "Quotas <quotas@example.com>").root_certificate_pem(server.root.as_str())
}

fn notice<'a>(workspace: &'a str) -> NoticeMail<'a> {
    NoticeMail {
        workspace,
        resource_label: "Segment",
        resource_type: "segments",
        current_usage: 50,
        limit: 50,
        percent: 100,
        threshold: "exceeded",
        at: "2024-01-30T10:00:00Z".parse().unwrap(),
        manage_url: Some("https://example.com/quotas?a=1&b=2"),
    }
}

async fn send(options: &EmailOptions, to: &str) -> Outcome {
    Mailer::new(options).unwrap().send(to, "delivery-1", &Mail::notice(notice("acme"))).await
}

fn delivered() -> Outcome {
    Outcome::Delivered { status: "250 2.0.0 accepted".into() }
}

fn failed(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed { error, retry_after: None } => error,
        other => panic!("not failed: {other:?}"),
    }
}

fn rejected(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rejected { error } => error,
        other => panic!("not rejected: {other:?}"),
    }
}

#[tokio::test]
async fn a_notice_arrives_as_text_and_html() {
    let mut server = Server::start(json!({})).await;
    let mailer = Mailer::new(&options(&server, "smtp", "/quotas.example.com")).unwrap();
    let mail = Mail::notice(notice("Zürich & <Söhne>"));
    let mut ids = Vec::new();
    for _ in 0..2 {
        assert_eq!(mailer.send("Ada <ada@example.org>", "delivery-1", &mail).await, delivered());
        let received = server.received().await;
        assert_eq!(
            (received.from.as_str(), received.to.as_slice()),
            ("quotas@example.com", &["ada@example.org".into()][..])
        );
        assert_eq!(received.hello, "quotas.example.com");
        assert!(!received.encrypted && !received.authenticated);
        assert_eq!(received.headers("from"), ["Quotas <quotas@example.com>"]);
        assert_eq!(received.headers("to"), ["Ada <ada@example.org>"]);
        let subject = "Segment quota exceeded in workspace Zürich & <Söhne>: 50 of 50 (100 %)";
        assert_eq!(received.headers("subject"), [subject]);
        assert_eq!(received.headers("auto-submitted"), ["auto-generated"]);
        assert_eq!(received.headers("date").len(), 1);
        assert_eq!(received.r#type, "multipart/alternative");
        assert_eq!(received.text.replace("\r\n", "\n").trim_end(), mail.text.trim_end());
        assert_eq!(received.html.replace("\r\n", "\n").trim_end(), mail.html.trim_end());
        assert!(received.raw.is_ascii());
        ids.push(received.headers("message-id").join(" "));
    }
    assert_eq!(ids, ["<delivery-1@example.com>"; 2]);
}

#[tokio::test]
async fn names_and_addresses_add_no_headers_and_no_recipients() {
    let mut server = Server::start(json!({})).await;
    let mailer = Mailer::new(&options(&server, "smtp", "")).unwrap();
    let evil = "acme\r\nBcc: eve@example.net\r\n\r\n.\r\nRCPT TO:<eve@example.net>\r\n";
    let mut mail = Mail::notice(notice(evil));
    mail.subject = evil.into();
    mail.text.push_str("\r\n.\r\nMAIL FROM:<eve@example.net>\r\n");
    assert_eq!(mailer.send("ada@example.org", "delivery-1", &mail).await, delivered());
    let received = server.received().await;
    assert_eq!(received.to, ["ada@example.org"]);
    assert_eq!(received.headers("bcc"), Vec::<&str>::new());
    assert_eq!(received.headers("subject").len(), 1);
    assert!(
        received.headers("subject")[0].starts_with("acme  Bcc: eve@example.net"),
        "{}",
        received.headers("subject")[0]
    );
    let names: Vec<_> = received.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    assert_eq!(names.iter().filter(|name| !name.starts_with("x-")).count(), 8, "{names:?}");
    assert!(received.text.contains("MAIL FROM:<eve@example.net>"), "{}", received.text);

    for to in ["", "ada", "ada@example.org\r\nRCPT TO:<eve@example.net>", "ada@example.org, eve@example.net", "<>"] {
        assert!(rejected(mailer.send(to, "delivery-1", &mail).await).contains("is no e-mail address"), "{to}");
    }
    for id in ["", "a>\r\nBcc: eve@example.net", "a b", "ü"] {
        assert!(rejected(mailer.send("ada@example.org", id, &mail).await).contains("Message-ID"), "{id}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let mut server = Server::start(json!({})).await;
    let options = options(&server, "smtp", "");
    let error = rejected(send(&options, "unknown@example.org").await);
    assert_eq!(error, "the recipient was refused: permanent error (550): 5.1.1 no such user");
    for (to, told) in [("later@example.org", "451"), ("relay@example.org", "relay access denied")] {
        let error = failed(send(&options, to).await);
        assert!(error.starts_with("the recipient was refused") && error.contains(told), "{error}");
    }
    let banned = EmailOptions { from: "banned@example.com".into(), ..options.clone() };
    let error = failed(send(&banned, "ada@example.org").await);
    assert!(error.starts_with("the sender was refused") && error.contains("5.1.8"), "{error}");
    let error = failed(send(&options, "zoë@example.org").await);
    assert!(error.contains("beyond ASCII"), "{error}");
    // None of them is in the way of the next.
    assert_eq!(send(&options, "ada@example.org").await, delivered());
    assert_eq!(server.received().await.to, ["ada@example.org"]);
}

#[tokio::test]
async fn a_password_goes_over_tls_only() {
    for (tls, scheme, query) in [("starttls", "smtp", "?tls=required"), ("wrapper", "smtps", "")] {
        let mut server = Server::start(json!({ "tls": tls, "user": "quotas", "password": "s3cret:/@" })).await;
        let options = options(&server, scheme, query);
        assert_eq!(send(&options.clone().credentials("quotas", "s3cret:/@"), "ada@example.org").await, delivered());
        let received = server.received().await;
        assert!(received.encrypted && received.authenticated);

        let url = options.url.replace("localhost", "quotas:s3cret%3A%2F%40@localhost");
        assert_eq!(send(&EmailOptions { url, ..options.clone() }, "ada@example.org").await, delivered());
        assert!(server.received().await.authenticated);

        let error = failed(send(&options.clone().credentials("quotas", "wr0ng"), "ada@example.org").await);
        assert!(error.contains("535") && !error.contains("wr0ng"), "{error}");
        let error = failed(send(&options, "ada@example.org").await);
        assert!(error.contains("530"), "{error}");

        let stranger = EmailOptions { roots: Vec::new(), ..options.clone() }.credentials("quotas", "s3cret:/@");
        let error = failed(send(&stranger, "ada@example.org").await);
        assert!(error.contains("certificate"), "{error}");
        let misnamed = EmailOptions { url: options.url.replace("localhost", "127.0.0.1"), ..options };
        let error = failed(send(&misnamed.credentials("quotas", "s3cret:/@"), "ada@example.org").await);
        assert!(error.contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn starttls_that_is_required_is_not_done_without() {
    let mut server = Server::start(json!({})).await;
    let error = failed(send(&options(&server, "smtp", "?tls=required"), "ada@example.org").await);
    assert!(error.contains("STARTTLS"), "{error}");
    assert_eq!(send(&options(&server, "smtp", "?tls=opportunistic"), "ada@example.org").await, delivered());
    assert!(!server.received().await.encrypted);
    let mut server = Server::start(json!({ "tls": "starttls" })).await;
    assert_eq!(send(&options(&server, "smtp", "?tls=opportunistic"), "ada@example.org").await, delivered());
    assert!(server.received().await.encrypted);
}

#[tokio::test]
async fn a_server_that_hangs_or_is_not_there_holds_nothing_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    for url in [format!("smtp://127.0.0.1:{port}"), format!("smtps://127.0.0.1:{port}")] {
        let options = EmailOptions::smtp(url, "quotas@example.com").timeout(Duration::from_millis(200));
        assert_eq!(failed(send(&options, "ada@example.org").await), "the SMTP server took longer than 200ms");
    }
    drop(silent);
    let nobody = EmailOptions::smtp(format!("smtp://127.0.0.1:{port}"), "quotas@example.com");
    let error = failed(send(&nobody, "ada@example.org").await);
    assert!(error.starts_with("the SMTP server can't be used") && error.contains("refused"), "{error}");

    let mut server = Server::start(json!({})).await;
    let patient = options(&server, "smtp", "");
    let hurried = patient.clone().timeout(Duration::from_millis(500));
    assert_eq!(failed(send(&hurried, "hangs@example.org").await), "the SMTP server took longer than 500ms");
    // What was taken was taken.
    assert_eq!(send(&patient, "silent@example.org").await, delivered());
    assert_eq!(server.received().await.to, ["silent@example.org"]);
}

#[test]
fn options_that_cannot_work_are_refused() {
    let from = "quotas@example.com";
    for url in [
        "",
        "localhost:25",
        "smtp://",
        "http://user:s3cret@localhost/",
        "smtp://user:s3cret@localhost?tls=maybe",
        "smtps://user:s3cret@localhost?tls=required",
        "smtps://user:s3cret@localhost?timeout=1",
        "smtps://user@localhost",
        "smtps://user:s3cret%FF@localhost",
        "smtps://user:s3cret@localhost:99999",
        "smtp://user:s3cret@smtp.example.com",
        "smtp://user:s3cret@smtp.example.com?tls=opportunistic",
    ] {
        let options = EmailOptions::smtp(url, from);
        let error = Mailer::new(&options).unwrap_err();
        assert!(error.is_config(), "{url}: {error}");
        assert!(error.message().contains("write smtps://"), "{url}: {error}");
        assert!(!format!("{error:?}{options:?}").contains("s3cret"), "{error:?}");
    }
    for from in ["", "quotas", "quotas@example.com\r\nBcc: eve@example.net"] {
        let error = Mailer::new(&EmailOptions::smtp("smtps://localhost", from)).unwrap_err();
        assert!(error.is_config() && error.message().contains("sender"), "{from}: {error}");
    }
    for pem in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let options = EmailOptions::smtp("smtps://localhost", from).root_certificate_pem(pem);
        let error = Mailer::new(&options).unwrap_err();
        assert!(error.is_config() && error.message().contains("in PEM"), "{error}");
    }
}

#[test]
fn urls_say_where_the_server_is() {
    for (url, host, port) in [
        ("smtps://user:s3cret@smtp.example.com", "smtp.example.com", 465),
        ("smtp://user:s3cret@smtp.example.com?tls=required", "smtp.example.com", 587),
        ("smtp://smtp.example.com?tls=opportunistic", "smtp.example.com", 587),
        ("smtp://smtp.example.com", "smtp.example.com", 25),
        ("smtp://user:s3cret@localhost:2525", "localhost", 2525),
        ("smtp://user:s3cret@127.0.0.1", "127.0.0.1", 25),
        ("smtp://user:s3cret@[::1]:2525", "::1", 2525),
    ] {
        let mailer = Mailer::new(&EmailOptions::smtp(url, "quotas@example.com")).unwrap();
        assert_eq!((mailer.host.as_str(), mailer.port), (host, port));
        assert_eq!(mailer.credentials.is_some(), url.contains("s3cret"));
        assert!(!format!("{mailer:?}").contains("s3cret"), "{mailer:?}");
    }
}

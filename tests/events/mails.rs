//! E-mail to admins whose servers do all kinds of things.

use std::time::Duration;

use serde_json::json;
use tower_quota::{DeliveryFilter, DeliveryStatus, EmailOptions, Limit};

use crate::host::{Host, both, until};
use crate::support::smtp::Server;

async fn with(host: Host, server: &Server) -> Host {
    let url = format!("smtp://localhost:{}", server.port);
    let options = EmailOptions::smtp(url, "Quotas <quotas@example.com>").timeout(Duration::from_secs(1));
    host.with_email(options).await
}

both!(each_recipient_ends_as_its_server_says_and_keeps_no_other_waiting, host, {
    let mut server = Server::start(json!({})).await;
    let host = with(host, &server).await;
    let emails = ["ada", "busy", "closes", "hangs", "later", "unknown"].map(|name| format!("{name}@example.org"));
    host.admin().set_contacts(&host.workspace("acme"), &emails).await.unwrap();
    host.limit("acme", Limit::of(20)).await;
    host.create(0, "acme", 19).await;
    until("none is to be tried any more", async || {
        let all = host.deliveries(None).await;
        all.len() == emails.len() && all.iter().all(|delivery| delivery.status != DeliveryStatus::Pending)
    })
    .await;
    let mut ended = host.deliveries(None).await;
    ended.sort_by(|one, other| one.target.cmp(&other.target));
    let (delivered, dead) = (DeliveryStatus::Delivered, DeliveryStatus::Dead);
    let expected = [
        (delivered, 1, "250 2.0.0 accepted"),
        (delivered, 2, "250 2.0.0 accepted"),
        (dead, Host::TRIES, "the recipient was refused: "),
        (dead, Host::TRIES, "took longer than 1s"),
        (dead, Host::TRIES, "451): 4.3.0 try again later"),
        // That will never be otherwise.
        (dead, 1, "550): 5.1.1 no such user"),
    ];
    for (delivery, (status, attempts, told)) in ended.iter().zip(expected) {
        assert_eq!((delivery.status, delivery.attempts), (status, attempts), "{delivery:?}");
        assert!(delivery.log.last().unwrap().result.contains(told), "{delivery:?}");
    }
    // One has refused the message after it was sent, and got it again by the same name.
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mail = server.received().await;
        assert_eq!((mail.headers("date").len(), mail.headers("auto-submitted")), (1, vec!["auto-generated"]));
        ids.push((mail.to.join(" "), mail.headers("message-id").join(" ")));
    }
    ids.sort();
    assert_eq!(ids[1], ids[2]);
    let to: Vec<_> = ids.iter().map(|(to, _)| to.as_str()).collect();
    assert_eq!(to, ["ada@example.org", "busy@example.org", "busy@example.org"]);
    // Whom it could not be told to can be tried again.
    let unknown = ended.last().unwrap();
    host.admin().replay(&unknown.target, unknown.id).await.unwrap();
    until("it is tried again", async || {
        let mut filter = DeliveryFilter::default();
        (filter.target, filter.limit) = (Some(unknown.target.clone()), 1);
        host.quota(0).deliveries(&filter).await.unwrap().deliveries[0].log.len() == 2
    })
    .await;
});

both!(what_a_host_takes_for_addresses_is_looked_at, host, {
    let mut server = Server::start(json!({})).await;
    let host = with(host, &server).await;
    let contacts = ["email", "Ada <ada@example.com>", "Ada <ada@example.com>", "", "a@b.example\r\nBcc: eve@c.example"];
    let host = host.with_contacts(Vec::from(contacts).leak()).await;
    host.limit("acme", Limit::of(20)).await;
    host.create(0, "acme", 19).await;
    assert_eq!(server.received().await.to, ["ada@example.com"]);
    until("it is told", async || host.deliveries(Some(DeliveryStatus::Delivered)).await.len() == 1).await;
    assert_eq!(host.deliveries(None).await.len(), 1);
    // Where none of them is one, somebody may mend that.
    let host = host.with_contacts(&["email", "nobody"]).await;
    host.limit("other", Limit::of(20)).await;
    host.create(0, "other", 19).await;
    until("it is given up", async || host.deliveries(Some(DeliveryStatus::Dead)).await.len() == 1).await;
    let [dead] = &host.deliveries(Some(DeliveryStatus::Dead)).await[..] else { panic!("not one") };
    assert_eq!((dead.attempts, dead.target.as_str()), (Host::TRIES, "email"));
    assert!(dead.log[0].result.contains("is no e-mail address"), "{dead:?}");
    let host = host.with_contacts(&["bob@example.com"]).await;
    host.admin().replay(&dead.target, dead.id).await.unwrap();
    assert_eq!(server.received().await.to, ["bob@example.com"]);
});

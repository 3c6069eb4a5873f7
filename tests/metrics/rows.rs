//! What counts have found.

use crate::host::Host;

const COUNTS: &str = r#"tower_quota_counts_total{resource_type="segments"}"#;
const AVERTED: &str = r#"tower_quota_false_refusals_averted_total{resource_type="segments"}"#;
const MORE: &str = r#"tower_quota_drift_rows_total{resource_type="segments",direction="more"}"#;
const FEWER: &str = r#"tower_quota_drift_rows_total{resource_type="segments",direction="fewer"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recounts_tell_of_what_was_believed_wrongly() {
    let host = Host::with(|builder| builder.thresholds(None), |layer| layer).await;
    host.limit("acme", 100).await;
    assert_eq!(host.create("acme").await, 201);
    let acme = host.workspace("acme");
    host.quota.recount(&acme).await.unwrap();
    let before = host.told.value(COUNTS);
    assert_eq!((host.told.value(MORE), host.told.value(FEWER)), (0.0, 0.0));
    host.run(r#"INSERT INTO "Segment" ("workspaceId") VALUES ('acme'), ('acme'), ('acme')"#).await;
    host.quota.recount(&acme).await.unwrap();
    assert_eq!((host.told.value(MORE), host.told.value(FEWER)), (3.0, 0.0));
    host.run(r#"DELETE FROM "Segment" WHERE "id" IN (1, 2)"#).await;
    host.quota.recount(&acme).await.unwrap();
    assert_eq!((host.told.value(MORE), host.told.value(FEWER)), (3.0, 2.0));
    assert_eq!(host.told.value(COUNTS), before + 2.0);
    // Nobody creates anything beyond a shared ledger here.
    assert_eq!(host.told.exported().sum("tower_quota_breach_rows_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demand_that_the_books_would_have_refused_is_told() {
    let host = Host::new().await;
    // What was never counted would not be refused by what is believed.
    for _ in 0..3 {
        assert_eq!(host.create("acme").await, 201);
    }
    assert_eq!(host.create("acme").await, 429);
    assert_eq!(host.told.value(AVERTED), 0.0);
    host.run(r#"DELETE FROM "Segment" WHERE "id" = 1"#).await;
    assert_eq!(host.create("acme").await, 201);
    assert_eq!(host.told.value(AVERTED), 1.0);
    assert_eq!(host.create("acme").await, 429);
    assert_eq!(host.told.value(AVERTED), 1.0);
}

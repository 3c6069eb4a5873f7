//! What a role on Postgres has to be allowed, as the README tells it.

use sqlx::{AssertSqlSafe, PgPool, query_scalar, raw_sql};
use tower_quota::{
    Actor, EndpointChange, Error, Expect, Limit, LimitSet, PostgresStore, PostgresUsage, Quota, WebhookOptions,
};

use crate::host::{catalog, until};
use crate::support::postgres::shared;
use crate::support::receiver::Receiver;

/// The owner of the tables, and a role that may do what it was granted.
struct Role {
    owner: PgPool,
    name: String,
}

impl Role {
    /// Grants what the README has in the row that begins so.
    async fn grant(&self, to: &str) {
        let readme = include_str!("../../README.md");
        let row = readme.lines().find(|line| line.starts_with(&format!("| {to}"))).unwrap();
        let (mut rights, mut granted) = ("", 0);
        for code in row.split('`').skip(1).step_by(2) {
            if code.starts_with('"') {
                self.run(&format!(r#"GRANT {rights} ON {code} TO "{}""#, self.name)).await;
                granted += 1;
            } else {
                rights = code;
            }
        }
        assert!(granted > 0, "{row}");
    }

    async fn run(&self, sql: &str) {
        raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.owner).await.unwrap();
    }
}

/// What is refused says what the role needs.
fn denied<T>(result: Result<T, Error>, table: &str) {
    let error = result.err().expect("it isn't allowed");
    let message = error.message();
    assert!(error.is_unavailable() && message.contains("GRANT SELECT") && message.contains(table), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_can_do_what_the_readme_grants_it_and_no_more() {
    let owner = PgPool::connect(&shared().database()).await.unwrap();
    let database: String = query_scalar("SELECT current_database()").fetch_one(&owner).await.unwrap();
    let role = Role { name: format!("{database}_told"), owner };
    PostgresStore::new(role.owner.clone(), &catalog()).await.unwrap();
    role.run(&format!(
        r#"CREATE TABLE "Segment" ("workspaceId" TEXT NOT NULL); CREATE ROLE "{0}" LOGIN; GRANT SELECT ON "Segment" TO "{0}""#,
        role.name
    ))
    .await;
    role.grant("run with tables").await;
    let url = shared().url_of(&role.name, &database);
    let store = PostgresStore::connect(&url, &catalog()).await.unwrap();
    let usage = PostgresUsage::builder(PgPool::connect(&url).await.unwrap(), &catalog()).build().unwrap();
    let webhooks = WebhookOptions::new().allow_networks(["127.0.0.0/8"]);
    let quota = Quota::builder(catalog()).store(store).usage(usage).webhooks(webhooks).build().unwrap();
    let (acme, admin) = (quota.workspace("acme").unwrap(), quota.admin(Actor::library()));
    let receiver = Receiver::start().await;
    let endpoint = || admin.add_endpoint(Some(&acme), &receiver.url, EndpointChange::default(), None);
    let contacts = || admin.set_contacts(&acme, &[]);

    denied(quota.contacts(&acme).await, "\"QuotaContact\"");
    denied(endpoint().await, "\"QuotaEndpoint\"");
    denied(contacts().await, "\"QuotaContact\"");
    role.grant("give [warnings]").await;
    endpoint().await.unwrap();
    contacts().await.unwrap();

    let limits: LimitSet = [(catalog().by_name("segments").unwrap().id(), Limit::of(10))].into_iter().collect();
    denied(admin.put_plan("pro", &limits, &Expect::Anything).await, "\"QuotaPlan\"");
    role.grant("change plans").await;
    quota.update_limits(&acme, &limits, &Expect::Anything).await.unwrap();
    role.run(r#"INSERT INTO "Segment" SELECT 'acme' FROM generate_series(1, 9)"#).await;
    quota.recount(&acme).await.unwrap();
    until("it is told", async || receiver.requests().len() == 1).await;
    until("that is noted", async || quota.outbox_depth().await.unwrap() == (0, 0)).await;

    #[cfg(feature = "insight")]
    {
        denied(quota.take_snapshots().await, "\"QuotaTask\"");
        role.grant("keep snapshots").await;
        quota.take_snapshots().await.unwrap();
    }
    if cfg!(feature = "dashboard") {
        role.grant("list workspaces").await;
        quota.recount(&acme).await.unwrap();
        until("it is listed", async || {
            let listed = r#"SELECT count(*) FROM "QuotaOverview""#;
            query_scalar::<_, i64>(listed).fetch_one(&role.owner).await.unwrap() == 1
        })
        .await;
    }

    denied(admin.delete_workspace(&acme, &Expect::Anything).await, "\"QuotaOverview\"");
    role.grant("delete a workspace").await;
    admin.delete_workspace(&acme, &Expect::Anything).await.unwrap();
    assert_eq!(quota.endpoints().await.unwrap(), []);
}

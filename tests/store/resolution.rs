//! The limit that Postgres grants by is the one that the crate tells.

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, query_scalar, raw_sql};
use tokio::runtime::Runtime;
use tower_quota::{Limit, PostgresStore, QuotaStore};

use crate::support::postgres::shared;
use crate::{catalog, workspace};

const DEFAULT: i64 = 50;

/// One of a family, from the child up.
#[derive(Debug, Clone)]
struct Member {
    own: Option<i64>,
    /// Its plan, and what that says.
    plan: Option<Option<Value>>,
    share: Option<u32>,
    /// Its limit, and from when to when, in hours from now.
    overrides: Vec<(Value, i64, i64)>,
    /// How much over the limit, and until when.
    grace: Option<(u32, i64)>,
}

fn limit() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![
        4 => (0_u64..2000).prop_map(Some),
        1 => Just(None),
        1 => (0_u64..1000).prop_map(|less| Some(Limit::MAX - less)),
    ]
}

fn hours() -> impl Strategy<Value = i64> {
    prop_oneof![-20_i64..0, 1_i64..20]
}

fn member() -> impl Strategy<Value = Member> {
    let stored = |limit: Option<u64>| limit.map_or(-1, |rows| i64::try_from(rows).unwrap());
    (
        weighted(0.3, limit().prop_map(stored)),
        weighted(0.4, weighted(0.7, limit().prop_map(|limit| json!(limit)))),
        weighted(0.8, 0_u32..=100),
        vec((limit().prop_map(|limit| json!(limit)), hours(), hours()), 0..2),
        weighted(0.3, (0_u32..=1000, hours())),
    )
        .prop_map(|(own, plan, share, overrides, grace)| Member { own, plan, share, overrides, grace })
}

/// Statements that make the family, whose first member is `{name}-0`.
fn make(name: &str, family: &[Member]) -> String {
    let at = |hours: i64| (Timestamp::now() + jiff::SignedDuration::from_hours(hours)).to_string();
    let mut sql = String::new();
    for (index, member) in family.iter().enumerate() {
        let overrides: Vec<_> = member
            .overrides
            .iter()
            .map(|(limit, from, to)| {
                json!({"id": "0190163d-8694-739b-aea5-966c26f8ad91", "resourceType": "segments", "limit": limit,
                       "startsAt": at(*from.min(to)), "expiresAt": at(*from.max(to)), "reason": "x", "createdBy": "y"})
            })
            .collect();
        let mut settings = json!({"overrides": overrides});
        if let Some(share) = member.share {
            settings["shares"] = json!({ "segments": share });
        }
        if let Some((percentage, until)) = member.grace {
            let used = json!({"startedAt": at(-30), "endsAt": at(until), "percentage": percentage});
            settings["graceUses"] = json!({ "segments": used });
        }
        let plan = match &member.plan {
            None => "NULL".to_owned(),
            Some(says) => {
                let limits = says.as_ref().map_or_else(|| json!({}), |limit| json!({ "maxSegments": limit }));
                let document = json!({"version": 1, "limits": limits, "createdAt": at(-1), "updatedAt": at(-1)});
                sql.push_str(&format!(r#"INSERT INTO "QuotaPlan" VALUES ('{name}-{index}', '{document}');"#));
                format!("'{name}-{index}'")
            }
        };
        let parent = if index + 1 < family.len() { format!("'{name}-{}'", index + 1) } else { "NULL".to_owned() };
        let own = member.own.map_or_else(|| "NULL".to_owned(), |limit| limit.to_string());
        sql.push_str(&format!(
            r#"INSERT INTO "WorkspaceQuota"
               ("id", "workspaceId", "version", "createdAt", "updatedAt", "plan", "parent", "settings", "maxSegments")
               VALUES (gen_random_uuid(), '{name}-{index}', 1, now(), now(), {plan}, {parent}, '{settings}', {own});"#
        ));
    }
    sql
}

#[test]
fn what_is_granted_by_is_what_is_told() {
    static CASES: AtomicUsize = AtomicUsize::new(0);
    let runtime = Runtime::new().unwrap();
    let store = runtime.block_on(PostgresStore::connect(&shared().database(), &catalog())).unwrap();
    let known = catalog();
    let segments = known.by_name("segments").unwrap();
    let in_force = |name: &str, grace: bool| {
        let limit = r#"SELECT "_tower_quota_limit"($1, 'segments', 'maxSegments', $2, $3)"#;
        let limit = query_scalar::<_, i64>(limit).bind(format!("{name}-0")).bind(DEFAULT).bind(grace);
        u64::try_from(runtime.block_on(limit.fetch_one(store.pool())).unwrap()).ok()
    };
    let config = ProptestConfig { cases: 300, ..ProptestConfig::default() };
    proptest!(config, |(family in vec(member(), 1..10))| {
        let name = format!("w{}", CASES.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(raw_sql(AssertSqlSafe(make(&name, &family))).execute(store.pool())).unwrap();
        let lineage = runtime.block_on(store.lineage(&workspace(&format!("{name}-0")))).unwrap();
        prop_assert_eq!(lineage.kin().len(), family.len());
        let trace = lineage.trace(segments, Timestamp::now());
        prop_assert_eq!(in_force(&name, false), trace.limit.rows());
        let with_grace = trace.grace.map_or(trace.limit, |(limit, _)| limit);
        prop_assert_eq!(in_force(&name, true), with_grace.rows());
    });
    // Without a record there is nothing but the default.
    assert_eq!(in_force("nobody", true), Some(50));
}

//! The limit in force is the same by the engine and by the function that the books and the backstop go by.

use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;
use tower_quota::{Limit, PostgresStore, QuotaStore, ResourceCatalog, ResourceSpec};

use crate::postgres::run;
use crate::support::postgres::shared;
use crate::workspace;

/// Of each kind of default.
const TYPES: [&str; 3] = ["cats", "dogs", "fish"];

/// `None` is unlimited.
type Rows = Option<u64>;

/// Hours from now.
type Hours = i64;

/// One of a family: all that says something about the limit of one resource type.
#[derive(Debug, Clone)]
struct Member {
    own: Option<Rows>,
    /// A plan, and what it says.
    plan: Option<Option<Rows>>,
    share: Option<u32>,
    /// From when, for how long. They may be of another resource type.
    overrides: Vec<(Rows, Hours, Hours, bool)>,
    grace: Option<(Hours, u32)>,
    cap: Option<Rows>,
    kin: Kin,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kin {
    Child,
    /// Its parent's record is gone.
    Orphan,
    Top,
}

fn rows() -> impl Strategy<Value = Rows> {
    prop_oneof![
        4 => (0_u64..2000).prop_map(Some),
        1 => Just(None),
        2 => (0_u64..1000).prop_map(|less| Some(Limit::MAX - less)),
    ]
}

/// Neither of them near now.
fn hours() -> impl Strategy<Value = Hours> {
    prop_oneof![-9_i64..=-1, 1_i64..=9]
}

/// `says` is how likely it is that a level has something to say, and limits don't come from above.
fn member(says: f64) -> impl Strategy<Value = Member> {
    let temporary = (rows(), hours(), hours(), proptest::bool::weighted(0.3))
        .prop_map(|(limit, one, other, elsewhere)| (limit, one.min(other), one.max(other), elsewhere));
    let kin = prop_oneof![16 => Just(Kin::Child), 1 => Just(Kin::Orphan), 1 => Just(Kin::Top)];
    (
        weighted(says, rows()),
        weighted(0.3, weighted(says, rows())),
        weighted(0.95, prop_oneof![8 => 0_u32..=100, 1 => Just(0), 1 => Just(100)]),
        weighted(says, vec(temporary, 0..3)),
        weighted(0.4, (hours(), 0_u32..=1000)),
        weighted(0.3, rows()),
        kin,
    )
        .prop_map(|(own, plan, share, overrides, grace, cap, kin)| Member {
            own,
            plan,
            share,
            overrides: overrides.unwrap_or_default(),
            grace,
            cap,
            kin,
        })
}

impl Member {
    fn settings(&self, resource: &str, now: Timestamp) -> Value {
        let time = |hours| (now + SignedDuration::from_hours(hours)).to_string();
        let mut settings = Map::new();
        let mut say = |field: &str, value: Value| settings.insert(field.to_owned(), value);
        if let Some(share) = self.share {
            say("shares", json!({ resource: share }));
        }
        if let Some(cap) = self.cap {
            say("caps", json!({ resource: cap }));
        }
        if let Some((ends, percentage)) = self.grace {
            let (starts, ends) = (time(ends.min(0) - 1), time(ends));
            say("graceUses", json!({ resource: { "startedAt": starts, "endsAt": ends, "percentage": percentage } }));
        }
        if !self.overrides.is_empty() {
            let overrides = self.overrides.iter().map(|(limit, from, until, elsewhere)| {
                json!({
                    "id": uuid::Uuid::now_v7(),
                    "resourceType": if *elsewhere { "others" } else { resource },
                    "limit": limit,
                    "startsAt": time(*from),
                    "expiresAt": time(*until),
                    "reason": "because",
                    "createdBy": "ann",
                })
            });
            say("overrides", overrides.collect());
        }
        settings.into()
    }
}

fn stored(rows: Rows) -> i64 {
    rows.map_or(-1, |rows| i64::try_from(rows).unwrap())
}

/// The statements that make the family in the place of the one before.
fn family(members: &[Member], resource: &str, field: &str, now: Timestamp) -> String {
    let mut sql = r#"DELETE FROM "WorkspaceQuota"; DELETE FROM "QuotaPlan";"#.to_owned();
    for (at, member) in members.iter().enumerate() {
        let own = member.own.map_or("NULL".to_owned(), |rows| stored(rows).to_string());
        let parent = match member.kin {
            Kin::Child if at + 1 < members.len() => format!("'w{}'", at + 1),
            Kin::Orphan => "'gone'".to_owned(),
            _ => "NULL".to_owned(),
        };
        let plan = if member.plan.is_some() { format!("'p{at}'") } else { "NULL".to_owned() };
        if let Some(said) = member.plan {
            let limits = said.map_or(json!({ "maxOthers": 1 }), |rows| json!({ field: rows }));
            let document = json!({ "version": 1, "limits": limits, "createdAt": now, "updatedAt": now });
            sql += &format!(r#"INSERT INTO "QuotaPlan" VALUES ('p{at}', '{document}');"#);
        }
        let settings = member.settings(resource, now);
        sql += &format!(
            r#"INSERT INTO "WorkspaceQuota"
                 ("id", "workspaceId", "version", "createdAt", "updatedAt", "plan", "parent", "{field}", "settings")
               VALUES (gen_random_uuid(), 'w{at}', 1, now(), now(), {plan}, {parent}, {own}, '{settings}');"#
        );
    }
    sql
}

#[test]
fn the_function_says_what_the_engine_says() {
    let runtime = Runtime::new().unwrap();
    let catalog = ResourceCatalog::empty()
        .resource(ResourceSpec::new("cats", "maxCats", Limit::of(700)))
        .resource(ResourceSpec::new("dogs", "maxDogs", Limit::Unlimited))
        .resource(ResourceSpec::new("fish", "maxFish", Limit::finite(Limit::MAX).unwrap()))
        .build()
        .unwrap();
    let store = runtime.block_on(PostgresStore::connect(&shared().database(), &catalog)).unwrap();
    let config = ProptestConfig { cases: 128, ..ProptestConfig::default() };
    // Up to one more than a lineage goes up.
    let families = prop_oneof![vec(member(0.3), 0..=10), vec(member(0.02), 10)];
    let families = (families, proptest::sample::select(&TYPES));
    proptest!(config, |((members, resource) in families)| {
        let resource = catalog.by_name(resource).unwrap();
        let (name, field, default) = (resource.name(), resource.limit_field(), stored(resource.default_limit().rows()));
        let function = async |workspace: &str, grace: bool| {
            sqlx::query_scalar::<_, i64>(r#"SELECT "_tower_quota_limit"($1, $2, $3, $4, $5)"#)
                .bind(workspace.to_owned())
                .bind(name)
                .bind(field)
                .bind(default)
                .bind(grace)
                .fetch_one(store.pool())
                .await
                .unwrap()
        };
        runtime.block_on(async {
            let now = Timestamp::now();
            run(store.pool(), &family(&members, name, field, now)).await;
            for at in 0..=members.len() {
                let id = format!("w{at}");
                let trace = store.lineage(&workspace(&id)).await.unwrap().trace(resource, now);
                prop_assert_eq!(trace.steps[0].limit, trace.limit, "{} of {:?}", id, trace.steps);
                let with_grace = trace.grace.map_or(trace.limit, |(limit, _)| limit);
                prop_assert_eq!(function(&id, false).await, stored(trace.limit.rows()), "{} of {:?}", id, trace.steps);
                prop_assert_eq!(function(&id, true).await, stored(with_grace.rows()), "{} with grace", id);
                let cap = trace.caps.first().filter(|cap| cap.workspace.as_str() == id).and_then(|cap| cap.cap.rows());
                prop_assert_eq!(function(&format!("\u{1f}{id}"), true).await, stored(cap), "the cap on {}", id);
            }
            Ok(())
        })?;
    });
}

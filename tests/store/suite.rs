//! What every store promises. Each test has a store to itself.

use std::sync::Arc;

use tower_quota::{Expect, Limit, LimitSet, QuotaStore, WorkspaceId};

use crate::{catalog, limits, workspace};

pub(crate) async fn provisioning_happens_once(store: Arc<dyn QuotaStore>) {
    let acme = workspace("acme");
    assert_eq!(store.load(&acme).await.unwrap(), None);
    let made = store.provision(&acme).await.unwrap();
    assert_eq!((made.version, &made.workspace, made.limits.is_empty()), (1, &acme, true));
    assert_eq!(made.id.get_version_num(), 7);
    assert_eq!(made.created_at, made.updated_at);
    assert_eq!(store.provision(&acme).await.unwrap(), made);
    assert_eq!(store.load(&acme).await.unwrap(), Some(made.clone()));
    let other = store.provision(&workspace("Acme")).await.unwrap();
    assert_ne!(other.id, made.id);
}

pub(crate) async fn provisioning_races_make_one_record(store: Arc<dyn QuotaStore>) {
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.provision(&workspace("acme")).await.unwrap() })
        })
        .collect();
    let record = store.provision(&workspace("acme")).await.unwrap();
    for task in tasks {
        assert_eq!(task.await.unwrap(), record);
    }
}

pub(crate) async fn an_update_leaves_other_limits_alone(store: Arc<dyn QuotaStore>) {
    let (catalog, acme) = (catalog(), workspace("acme"));
    let first = limits(&catalog, &[("maxUsers", Limit::of(5)), ("maxSegments", Limit::of(6))]);
    let made = store.update(&acme, &first, &Expect::Anything).await.unwrap();
    assert_eq!((made.version, &made.limits), (1, &first));

    let second = limits(&catalog, &[("maxSegments", Limit::of(7)), ("maxJourneys", Limit::Unlimited)]);
    let changed = store.update(&acme, &second, &Expect::Anything).await.unwrap();
    assert_eq!((changed.version, changed.id, changed.created_at), (2, made.id, made.created_at));
    assert!(changed.updated_at >= made.updated_at);
    let all = [("maxUsers", Limit::of(5)), ("maxSegments", Limit::of(7)), ("maxJourneys", Limit::Unlimited)];
    assert_eq!(changed.limits, limits(&catalog, &all));
    assert_eq!(store.load(&acme).await.unwrap(), Some(changed));
}

pub(crate) async fn every_limit_comes_back(store: Arc<dyn QuotaStore>) {
    let (catalog, acme) = (catalog(), workspace("acme"));
    let largest = Limit::finite(Limit::MAX).unwrap();
    for limit in [Limit::Unlimited, Limit::of(0), Limit::of(1), largest] {
        let all = catalog.iter().map(|resource| (resource.id(), limit)).collect();
        let changed = store.update(&acme, &all, &Expect::Anything).await.unwrap();
        assert_eq!(changed.limits, all);
        assert_eq!(store.load(&acme).await.unwrap().unwrap().limits, all);
    }
}

pub(crate) async fn conditions_guard_an_update(store: Arc<dyn QuotaStore>) {
    let (catalog, acme) = (catalog(), workspace("acme"));
    let changes = limits(&catalog, &[("maxUsers", Limit::of(5))]);
    let nothing = LimitSet::new();
    let one = Expect::Versions(vec![1]);

    for expect in [&Expect::Existing, &one] {
        for changes in [&changes, &nothing] {
            let error = store.update(&acme, changes, expect).await.unwrap_err();
            assert!(error.is_conflict(), "{error}");
            assert!(error.message().contains("acme"), "{error}");
            assert_eq!(store.load(&acme).await.unwrap(), None, "a condition that fails makes no record");
        }
    }

    store.provision(&acme).await.unwrap();
    assert_eq!(store.update(&acme, &changes, &one).await.unwrap().version, 2);
    let many: Vec<u64> = (10..40).chain([u64::MAX]).collect();
    for versions in [vec![1], vec![], vec![u64::MAX], many.clone()] {
        for changes in [&changes, &nothing] {
            let error = store.update(&acme, changes, &Expect::Versions(versions.clone())).await.unwrap_err();
            assert!(error.is_conflict(), "{error}");
            assert!(error.message().len() < 300, "{error}");
        }
    }
    assert_eq!(store.load(&acme).await.unwrap().unwrap().version, 2);
    let several = Expect::Versions(many.into_iter().chain([2]).collect());
    assert_eq!(store.update(&acme, &changes, &several).await.unwrap().version, 3);
    assert_eq!(store.update(&acme, &changes, &Expect::Existing).await.unwrap().version, 4);
}

pub(crate) async fn no_changes_no_new_version(store: Arc<dyn QuotaStore>) {
    let (acme, nothing) = (workspace("acme"), LimitSet::new());
    let made = store.update(&acme, &nothing, &Expect::Anything).await.unwrap();
    assert_eq!(made.version, 1);
    for expect in [Expect::Anything, Expect::Existing, Expect::Versions(vec![1])] {
        assert_eq!(store.update(&acme, &nothing, &expect).await.unwrap(), made);
    }
}

pub(crate) async fn concurrent_updates_all_count(store: Arc<dyn QuotaStore>) {
    let catalog = catalog();
    let tasks: Vec<_> = (0..32_u32)
        .map(|number| {
            let (store, types) = (Arc::clone(&store), catalog.clone());
            tokio::spawn(async move {
                // The first of each nine tasks fight over one field, the others have one each of the rest.
                let resource = types.iter().nth(number as usize % types.len()).unwrap().id();
                let changes = LimitSet::new().with(resource, Limit::of(number));
                store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap().version
            })
        })
        .collect();
    let mut versions = Vec::new();
    for task in tasks {
        versions.push(task.await.unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=32).collect::<Vec<u64>>(), "each update has a version to itself");
    let record = store.load(&workspace("acme")).await.unwrap().unwrap();
    for (index, (resource, limit)) in record.limits.iter().enumerate() {
        assert_eq!(resource.index(), index);
        assert_eq!(usize::try_from(limit.rows().unwrap()).unwrap() % catalog.len(), index);
    }
    assert_eq!(record.limits.iter().count(), catalog.len(), "no field was lost");
}

pub(crate) async fn one_of_many_conditional_updates_wins(store: Arc<dyn QuotaStore>) {
    let catalog = catalog();
    store.provision(&workspace("acme")).await.unwrap();
    let tasks: Vec<_> = (0..32)
        .map(|number| {
            let (store, changes) = (Arc::clone(&store), limits(&catalog, &[("maxUsers", Limit::of(number))]));
            tokio::spawn(async move { store.update(&workspace("acme"), &changes, &Expect::Versions(vec![1])).await })
        })
        .collect();
    let mut won = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(record) => won.push(record),
            Err(error) => assert!(error.is_conflict(), "{error}"),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(store.load(&workspace("acme")).await.unwrap().unwrap(), won[0]);
}

pub(crate) async fn odd_workspace_ids_stay_apart(store: Arc<dyn QuotaStore>) {
    let catalog = catalog();
    let long = "é".repeat(127) + "x";
    let ids =
        ["a'; DROP TABLE \"WorkspaceQuota\"; --", "a\"b", "a'b", "%", "$1", "NULL", "日本語 🦀", &long, "1", "01"];
    assert_eq!(long.len(), WorkspaceId::MAX_LEN);
    for (id, limit) in ids.into_iter().zip(0..) {
        let changes = limits(&catalog, &[("maxUsers", Limit::of(limit))]);
        store.update(&workspace(id), &changes, &Expect::Anything).await.unwrap();
    }
    for (id, limit) in ids.into_iter().zip(0..) {
        let record = store.load(&workspace(id)).await.unwrap().unwrap();
        assert_eq!((record.version, record.workspace.as_str()), (1, id));
        assert_eq!(record.limits, limits(&catalog, &[("maxUsers", Limit::of(limit))]));
    }
}

pub(crate) async fn it_answers(store: Arc<dyn QuotaStore>) {
    store.ping().await.unwrap();
}

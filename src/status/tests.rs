use super::*;
use crate::crd::WorkPoolState;

fn at(second: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
}

fn synced() -> Outcome {
    Outcome {
        block: ConditionUpdate::True(Reason::Resolved, "block read".to_owned()),
        secret: ConditionUpdate::True(Reason::Synced, "synced".to_owned()),
        injected: None,
        restarted: None,
        suspended: false,
        resolved: Some(ResolvedConfigs {
            are_listed: false,
            ..resolved(vec![("my-project".to_owned(), "dev".to_owned())])
        }),
        secret_name: "my-project-dev".to_owned(),
        job_secret: None,
        job_files: None,
        content: Some(SecretContent {
            key_count: 4,
            excluded_keys: vec![],
            hash: "h1".to_owned(),
            files: None,
        }),
        prefect_version: Some("3.8.8".to_owned()),
        refreshed: None,
        pools: vec![],
        entries: vec![],
        deleting: None,
    }
}

fn find<'a>(status: &'a DopplerPrefectBindingStatus, kind: &str) -> &'a Condition {
    status.conditions.iter().find(|c| c.type_ == kind).unwrap()
}

#[test]
fn equal_outcome_leaves_the_status_unchanged() {
    let first = status(None, Some(1), &synced(), &at(1));
    let second = status(Some(&first), Some(1), &synced(), &at(1000));
    assert_eq!(first, second);
}

#[test]
fn ready_without_injected_when_no_pool_is_named() {
    let status = status(None, Some(3), &synced(), &at(1));
    assert_eq!(find(&status, READY).status, "True");
    assert_eq!(find(&status, READY).observed_generation, Some(3));
    assert!(status.conditions.iter().all(|c| c.type_ != INJECTED));
    assert_eq!(
        (status.key_count, status.last_change_time),
        (Some(4), Some(at(1)))
    );
}

#[test]
fn ready_gives_the_first_failed_condition() {
    let mut outcome = synced();
    outcome.secret =
        ConditionUpdate::False(Reason::DopplerUnauthorized, "token refused".to_owned());
    outcome.injected = Some(ConditionUpdate::False(
        Reason::PoolMissing,
        "no pool".to_owned(),
    ));
    let status = status(None, Some(1), &outcome, &at(1));
    assert_eq!(find(&status, READY).reason, "DopplerUnauthorized");
    assert_eq!(find(&status, BLOCK_RESOLVED).status, "True");
}

/// The types of the conditions that only clients of kstatus read.
fn progress_of(status: &DopplerPrefectBindingStatus) -> Vec<&str> {
    let conditions = status.conditions.iter();
    let types = conditions.map(|condition| condition.type_.as_str());
    types
        .filter(|type_| [RECONCILING, STALLED].contains(type_))
        .collect()
}

#[test]
fn what_only_a_user_can_mend_is_stalled() {
    let with = |reason| {
        let mut outcome = synced();
        outcome.secret = ConditionUpdate::False(reason, "why".to_owned());
        outcome
    };
    let before = status(None, Some(1), &synced(), &at(1));
    assert!(progress_of(&before).is_empty(), "it is Ready");
    let stalled = status(
        Some(&before),
        Some(1),
        &with(Reason::DopplerUnauthorized),
        &at(2),
    );
    assert_eq!(progress_of(&stalled), [STALLED]);
    let condition = find(&stalled, STALLED);
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("True", "DopplerUnauthorized")
    );
    assert_eq!(condition.message, find(&stalled, READY).message);
    let retried = status(
        Some(&stalled),
        Some(1),
        &with(Reason::DopplerUnreachable),
        &at(3),
    );
    assert_eq!(progress_of(&retried), [RECONCILING]);
    // A failure that does not change a condition changes this one neither.
    let mut quiet = synced();
    quiet.secret = ConditionUpdate::Unchanged;
    let later = status(Some(&retried), Some(1), &quiet, &at(9));
    assert_eq!(progress_of(&later), [RECONCILING]);
    assert_eq!(find(&later, RECONCILING), find(&retried, RECONCILING));
    let mended = status(Some(&later), Some(1), &synced(), &at(10));
    assert!(progress_of(&mended).is_empty());
}

#[test]
fn neither_a_suspended_nor_a_deleted_binding_is_stalled() {
    let mut outcome = synced();
    outcome.suspended = true;
    assert!(progress_of(&status(None, Some(1), &outcome, &at(1))).is_empty());
    let mut outcome = synced();
    outcome.deleting = Some("waits for the workers".to_owned());
    assert!(progress_of(&status(None, Some(1), &outcome, &at(1))).is_empty());
}

#[test]
fn a_reason_of_another_version_is_being_reconciled() {
    let mut before = status(None, Some(1), &synced(), &at(1));
    for condition in &mut before.conditions {
        condition.status = "False".to_owned();
        condition.reason = "OfAnotherVersion".to_owned();
    }
    let mut outcome = synced();
    outcome.block = ConditionUpdate::Unchanged;
    outcome.secret = ConditionUpdate::Unchanged;
    let after = status(Some(&before), Some(1), &outcome, &at(2));
    assert_eq!(find(&after, READY).reason, "OfAnotherVersion");
    assert_eq!(progress_of(&after), [RECONCILING]);
}

#[test]
fn failed_pool_leaves_secret_synced_true() {
    let mut outcome = synced();
    outcome.injected = Some(ConditionUpdate::False(
        Reason::PoolMissing,
        "no pool".to_owned(),
    ));
    outcome.pools = vec![WorkPoolStatus {
        name: "k8s".to_owned(),
        state: Some(WorkPoolState::Missing),
        shadowed_keys: vec![],
        unserved_namespaces: vec![],
        used_by: Vec::new(),
    }];
    let status = status(None, Some(1), &outcome, &at(1));
    assert_eq!(find(&status, SECRET_SYNCED).status, "True");
    assert_eq!(find(&status, READY).reason, "PoolMissing");
}

#[test]
fn transient_failure_leaves_the_status_unchanged() {
    let first = status(None, Some(1), &synced(), &at(1));
    let mut outcome = synced();
    outcome.block = ConditionUpdate::Unchanged;
    outcome.secret = ConditionUpdate::Unchanged;
    outcome.resolved = None;
    outcome.content = None;
    assert_eq!(status(Some(&first), Some(1), &outcome, &at(9)), first);
}

#[test]
fn a_condition_is_true_by_its_own_status() {
    let mut outcome = synced();
    outcome.secret = ConditionUpdate::False(Reason::DopplerUnreachable, "down".to_owned());
    let status = status(None, Some(1), &outcome, &at(1));
    assert!(is_true(&status, BLOCK_RESOLVED));
    assert!(!is_true(&status, SECRET_SYNCED), "it is False");
    assert!(!is_true(&status, INJECTED), "it does not exist");
    assert!(!is_true(&DopplerPrefectBindingStatus::default(), READY));
}

#[test]
fn ready_follows_a_condition_that_stays_as_it_was() {
    let (missing, unread) = (Reason::BlockMissing, Reason::PrefectUnreachable);
    for failed in [
        ConditionUpdate::False(missing, "no block".to_owned()),
        ConditionUpdate::Unknown(unread, "no answer".to_owned()),
    ] {
        let mut outcome = synced();
        outcome.block = failed;
        let first = status(None, Some(1), &outcome, &at(1));
        outcome.block = ConditionUpdate::Unchanged;
        let second = status(Some(&first), Some(1), &outcome, &at(2));
        assert_eq!(find(&second, READY), find(&first, READY));
    }
    let mut outcome = synced();
    outcome.injected = Some(ConditionUpdate::False(
        Reason::PoolMissing,
        "no pool".to_owned(),
    ));
    let first = status(None, Some(1), &outcome, &at(1));
    outcome.block = ConditionUpdate::Unchanged;
    outcome.injected = Some(ConditionUpdate::True(
        Reason::Injected,
        "injected".to_owned(),
    ));
    let second = status(Some(&first), Some(1), &outcome, &at(2));
    assert!(!is_true(&first, READY) && is_true(&second, READY));
}

#[test]
fn ready_counts_the_pools() {
    let pool = |name: &str| WorkPoolStatus {
        name: name.to_owned(),
        state: Some(WorkPoolState::Patched),
        shadowed_keys: vec![],
        unserved_namespaces: vec![],
        used_by: Vec::new(),
    };
    for (pools, end) in [
        (vec![], "is in place"),
        (vec![pool("a")], "is in place and in 1 work pool"),
        (
            vec![pool("a"), pool("b")],
            "is in place and in 2 work pools",
        ),
    ] {
        let outcome = Outcome { pools, ..synced() };
        let status = status(None, Some(1), &outcome, &at(1));
        let message = &find(&status, READY).message;
        assert_eq!(*message, format!("Secret my-project-dev {end}"));
    }
}

#[test]
fn transition_time_changes_only_with_the_status() {
    let first = status(None, Some(1), &synced(), &at(1));
    let mut outcome = synced();
    outcome.secret = ConditionUpdate::False(Reason::DopplerUnreachable, "down".to_owned());
    let second = status(Some(&first), Some(1), &outcome, &at(2));
    outcome.secret = ConditionUpdate::False(Reason::DopplerUnauthorized, "refused".to_owned());
    let third = status(Some(&second), Some(1), &outcome, &at(3));
    assert_eq!(find(&third, SECRET_SYNCED).last_transition_time, at(2));
    assert_eq!(find(&third, BLOCK_RESOLVED).last_transition_time, at(1));
    assert_eq!(
        third.last_change_time,
        Some(at(1)),
        "the content did not change"
    );
}

#[test]
fn names_and_messages_are_bounded_lines() {
    let mut outcome = synced();
    let forged = format!("k8s\nINFO forged{}", "x".repeat(100_000));
    outcome.block = ConditionUpdate::False(Reason::BlockMissing, forged.clone());
    outcome.resolved = Some(resolved(vec![(forged.clone(), forged.clone())]));
    let key = |end: &str| ExcludedKey {
        name: format!("{forged}{end}"),
        reason: forged.clone(),
    };
    let pool = |end: &str| WorkPoolStatus {
        name: format!("{forged}{end}"),
        state: None,
        shadowed_keys: vec![forged.clone(); 2 * MAX_LISTED],
        unserved_namespaces: vec![forged.clone(); 2 * MAX_LISTED],
        used_by: vec![forged.clone(); 2 * MAX_LISTED],
    };
    let content = outcome.content.as_mut().unwrap();
    content.excluded_keys = vec![key("1"), key("2")];
    outcome.pools = vec![pool("1"), pool("2")];
    let first = status(None, Some(1), &outcome, &at(1));
    assert_eq!(first.excluded_keys.len(), 1, "a map by name");
    assert_eq!(first.work_pools.len(), 1, "a map by name");
    let text = serde_json::to_string(&first).unwrap();
    assert!(!text.contains("\\n"), "{text}");
    assert!(text.len() < 32 * 1024, "{}", text.len());
    assert_eq!(status(Some(&first), Some(1), &outcome, &at(9)), first);
}

#[test]
fn a_binding_that_is_being_deleted_is_not_ready_for_a_reason_of_its_own() {
    let first = status(None, Some(1), &synced(), &at(1));
    let entry = InjectedEntry {
        server: "http://s/api".to_owned(),
        pool: "k8s".to_owned(),
        secret: "s".to_owned(),
        variable: None,
        mount: false,
    };
    let outcome = Outcome {
        block: ConditionUpdate::Unchanged,
        secret: ConditionUpdate::Unchanged,
        deleting: Some("it waits for pool k8s".to_owned()),
        suspended: true,
        entries: vec![entry.clone()],
        ..synced()
    };
    let second = status(Some(&first), Some(2), &outcome, &at(2));
    let ready = find(&second, READY);
    assert_eq!((&*ready.status, &*ready.reason), ("False", "Deleting"));
    assert_eq!(ready.message, "it waits for pool k8s");
    assert_eq!(second.injected_entries, std::slice::from_ref(&entry));
    // The record is no list that may be shortened.
    assert_eq!(conditions_only(second).injected_entries, [entry]);
}

#[test]
fn suspended_binding_keeps_the_other_conditions() {
    let first = status(None, Some(1), &synced(), &at(1));
    let outcome = Outcome {
        block: ConditionUpdate::Unchanged,
        secret: ConditionUpdate::Unchanged,
        suspended: true,
        content: None,
        resolved: None,
        ..synced()
    };
    let second = status(Some(&first), Some(2), &outcome, &at(2));
    assert_eq!(find(&second, READY).reason, "Suspended");
    assert_eq!(find(&second, SECRET_SYNCED).status, "True");
    assert_eq!(second.key_count, Some(4));
}

/// Every list and name at its worst: characters that JSON escapes, and more items than fit.
fn worst(pools: usize, keys: usize) -> Outcome {
    let long = |number: usize| format!("{number}{}", "\"\\".repeat(4000));
    let mut outcome = synced();
    outcome.block = ConditionUpdate::False(Reason::BlockMissing, long(0));
    outcome.secret = ConditionUpdate::False(Reason::DopplerError, long(0));
    outcome.injected = Some(ConditionUpdate::False(Reason::PoolMissing, long(0)));
    outcome.resolved = Some(resolved(
        (0..16).map(|n| (long(n), "\"\\".repeat(30))).collect(),
    ));
    outcome.secret_name = long(0);
    outcome.prefect_version = Some(long(0));
    let names: Vec<String> = (0..2 * MAX_LISTED).map(long).collect();
    let pool = |number| WorkPoolStatus {
        name: long(number),
        state: Some(WorkPoolState::OtherNamespace),
        shadowed_keys: names.clone(),
        unserved_namespaces: names.clone(),
        used_by: names.clone(),
    };
    let key = |number| ExcludedKey {
        name: long(number),
        reason: long(number),
    };
    outcome.pools = (0..pools).map(pool).collect();
    outcome.content.as_mut().unwrap().excluded_keys = (0..keys).map(key).collect();
    outcome
}

#[test]
fn status_has_a_total_bound() {
    for (pools, keys) in [(0, 200), (1, 0), (16, 200), (60, 200)] {
        let outcome = worst(pools, keys);
        let first = status(None, Some(1), &outcome, &at(1));
        let bytes = serde_json::to_vec(&first).unwrap().len();
        assert!(bytes <= 64 * 1024, "{pools} pools, {keys} keys: {bytes}");
        assert_eq!(status(Some(&first), Some(1), &outcome, &at(9)), first);
        assert_eq!(first.work_pools.is_empty(), pools == 0);
    }
    let first = status(None, Some(1), &worst(16, 200), &at(1));
    assert_eq!(first.work_pools.len(), 16, "every pool shows its state");
}

#[test]
fn names_of_ordinary_length_are_all_listed() {
    let mut outcome = synced();
    let names = |prefix: &str, pool: usize| {
        let name = |n: usize| format!("{prefix}_{pool}_{n}");
        (0..MAX_LISTED).map(name).collect()
    };
    let pool = |n: usize| WorkPoolStatus {
        name: format!("pool-{n}"),
        state: Some(WorkPoolState::Patched),
        shadowed_keys: names("DATABASE", n),
        unserved_namespaces: names("team", n),
        used_by: Vec::new(),
    };
    outcome.pools = (0..8).map(pool).collect();
    let first = status(None, Some(1), &outcome, &at(1));
    assert_eq!(first.work_pools, outcome.pools);
}

#[test]
fn lists_of_an_earlier_status_are_bounded() {
    let mut outcome = synced();
    let key = |n: usize| ExcludedKey {
        name: format!("{n}{}", "x".repeat(1000)),
        reason: "y".repeat(1000),
    };
    let before = DopplerPrefectBindingStatus {
        excluded_keys: (0..200).map(key).collect(),
        ..Default::default()
    };
    outcome.content = None;
    let after = status(Some(&before), Some(1), &outcome, &at(1));
    let bytes = serde_json::to_vec(&after).unwrap().len();
    assert!(
        bytes <= 64 * 1024 && !after.excluded_keys.is_empty(),
        "{bytes}"
    );
}

#[test]
fn short_status_keeps_conditions() {
    let whole = status(None, Some(1), &worst(3, 3), &at(1));
    let short = conditions_only(whole.clone());
    assert_eq!(short.conditions, whole.conditions);
    assert_eq!(short.content_hash, whole.content_hash);
    assert!(short.work_pools.is_empty() && short.excluded_keys.is_empty());
}

#[test]
fn an_answered_request_stays_in_the_status() {
    let mut outcome = synced();
    outcome.refreshed = Some("deploy 7".to_owned());
    let first = status(None, Some(1), &outcome, &at(1));
    assert_eq!(first.refreshed.as_deref(), Some("deploy 7"));
    outcome.refreshed = None;
    let second = status(Some(&first), Some(1), &outcome, &at(2));
    assert_eq!(second, first);
}

fn resolved(configs: Vec<(String, String)>) -> ResolvedConfigs {
    ResolvedConfigs {
        configs,
        are_listed: true,
    }
}

#[test]
fn lists_several_configs_and_shows_the_last() {
    let mut outcome = synced();
    let pair = |project: &str| (project.to_owned(), "prd".to_owned());
    let several = resolved(vec![pair("shared"), pair("etl")]);
    outcome.resolved = Some(several.clone());
    let after = status(None, Some(1), &outcome, &at(1));
    assert_eq!(after.project.as_deref(), Some("etl"));
    let listed: Vec<&str> = after.configs.iter().map(|of| of.project.as_str()).collect();
    assert_eq!(listed, ["shared", "etl"]);
    assert_eq!(resolved_before(&after), Some(several.to_string()));
    // What was resolved stays until something else is.
    outcome.resolved = None;
    let later = status(Some(&after), Some(1), &outcome, &at(1));
    assert_eq!(later.configs, after.configs);
    outcome.resolved = Some(ResolvedConfigs {
        are_listed: false,
        ..resolved(vec![pair("etl")])
    });
    let single = status(Some(&after), Some(2), &outcome, &at(1));
    assert!(single.configs.is_empty());
    assert_eq!(resolved_before(&single).as_deref(), Some("etl/prd"));
}

//! The status of a binding that was detached. Pure.
//!
//! Input: the last status, and the entries that are still in a work pool.
//! Output: a status that says that nothing is injected and synced any more.
//! Invariants: an entry that could not be removed stays recorded, so that an operator that starts
//! later can remove it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    crd::{DopplerPrefectBindingStatus, InjectedEntry, WorkPoolStatus},
    inject::template::EntryKey,
    reason::Reason,
    status::{ConditionUpdate, INJECTED, Outcome, status},
};

/// The status of a detached binding. `left` are the entries that could not be removed.
pub(super) fn detached_status(
    before: &DopplerPrefectBindingStatus,
    secret: &str,
    left: &[InjectedEntry],
    now: &Time,
) -> DopplerPrefectBindingStatus {
    let mut message = match left.first() {
        None => "detach removed the operator: nothing is injected any more".to_owned(),
        Some(entry @ InjectedEntry { server, pool, .. }) => format!(
            "detach removed the operator, and could not remove {} from work pool {pool} of {server}: remove it from the pool's template before you delete Secret {secret}",
            EntryKey::from(entry).description()
        ),
    };
    message.push_str("; the Secret keeps its last values and is no longer synced");
    let detached = || ConditionUpdate::False(Reason::Detached, message.clone());
    let mut conditions = before.conditions.iter();
    let was_injected = conditions.any(|condition| condition.type_ == INJECTED);
    let is_left = |pool: &&WorkPoolStatus| left.iter().any(|entry| entry.pool == pool.name);
    let pools = before.work_pools.iter().map(|pool| WorkPoolStatus {
        state: Some(pool).filter(is_left).and_then(|pool| pool.state),
        ..pool.clone()
    });
    let outcome = Outcome {
        block: ConditionUpdate::Unchanged,
        secret: detached(),
        injected: was_injected.then(detached),
        restarted: None,
        suspended: false,
        resolved: None,
        secret_name: secret.to_owned(),
        job_secret: None,
        job_files: None,
        content: None,
        prefect_version: before.prefect_version.clone(),
        refreshed: None,
        pools: pools.collect(),
        entries: left.to_vec(),
        deleting: None,
    };
    status(Some(before), before.observed_generation, &outcome, now)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::status::STALLED;

    fn ready() -> DopplerPrefectBindingStatus {
        let condition = |type_: &str| {
            json!({
                "type": type_, "status": "True", "reason": "Ready", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let kinds = ["BlockResolved", "SecretSynced", "Injected", "Ready"];
        serde_json::from_value(json!({
            "conditions": kinds.map(condition),
            "secretName": "s",
            "workPools": [{"name": "k8s", "state": "Patched"}],
            "injectedEntries": [{"server": "http://a/api", "pool": "k8s", "secret": "s"}],
        }))
        .unwrap()
    }

    fn now() -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(1).unwrap())
    }

    #[test]
    fn says_that_nothing_is_injected() {
        let after = detached_status(&ready(), "s", &[], &now());
        for condition in &after.conditions[1..] {
            // Clients of kstatus do not wait for it.
            let expected = match condition.type_.as_str() {
                STALLED => "True",
                _ => "False",
            };
            let (status, reason) = (&*condition.status, &*condition.reason);
            assert_eq!((status, reason), (expected, "Detached"), "{condition:?}");
            assert!(condition.message.contains("nothing is injected"));
        }
        assert_eq!(after.work_pools[0].state, None);
        assert!(after.injected_entries.is_empty());
    }

    #[test]
    fn names_an_entry_that_is_left_and_keeps_it_recorded() {
        let left = ready().injected_entries;
        let after = detached_status(&ready(), "s", &left, &now());
        let message = &after.conditions[3].message;
        assert!(message.contains("k8s of http://a/api"), "{message}");
        assert_eq!(after.injected_entries, left);
        assert!(after.work_pools[0].state.is_some());
    }
}

//! Computes a binding's status from the outcome of a reconcile. Pure.
//!
//! Input: the outcome, the previous status, and the current time.
//! Output: the new status. It equals the previous one if nothing changed.
//! Invariants: it reads no clock and sends no request.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{
    crd::{DopplerPrefectBindingStatus, ExcludedKey, InjectedEntry, WorkPoolStatus},
    failure::Failure,
    printable::{self, MAX_MESSAGE_BYTES, one_line},
    reason::Reason,
};

/// Condition: the block provided project, config and token.
pub const BLOCK_RESOLVED: &str = "BlockResolved";
/// Condition: the Secret holds the values that Doppler last returned.
pub const SECRET_SYNCED: &str = "SecretSynced";
/// Condition: every work pool in the spec references the Secret.
pub const INJECTED: &str = "Injected";
/// Condition: all of the above hold for this generation.
pub const READY: &str = "Ready";

/// Maximum number of names in one list of the status.
pub const MAX_LISTED: usize = 50;
/// Length of all names of one such list, in bytes.
const MAX_LISTED_BYTES: usize = 4096;
/// Longest explanation of an excluded key, in bytes.
const MAX_EXPLANATION_BYTES: usize = 1024;

/// How a reconcile changes a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionUpdate {
    /// The condition becomes True.
    True(Reason, String),
    /// The condition becomes False.
    False(Reason, String),
    /// The condition becomes Unknown.
    Unknown(Reason, String),
    /// The condition stays as it is. A condition that does not exist yet becomes Unknown.
    Unchanged,
}

impl ConditionUpdate {
    /// Maps a failure to a condition, the only place that does so. `persistent` says whether the
    /// failure needs a change or has lasted too long, `was_true` what the condition's status was.
    #[must_use]
    pub fn of_failure(failure: &Failure, persistent: bool, was_true: bool) -> Self {
        match (persistent, was_true) {
            (false, true) => Self::Unchanged,
            (true, _) | (false, false) => Self::False(failure.reason, failure.message.clone()),
        }
    }
}

/// The content of the Secret, as the status describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretContent {
    /// Number of its keys.
    pub key_count: usize,
    /// Doppler keys that are not in the Secret.
    pub excluded_keys: Vec<ExcludedKey>,
    /// Keyed hash of the content.
    pub hash: String,
}

/// The outcome of a reconcile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The condition `BlockResolved`.
    pub block: ConditionUpdate,
    /// The condition `SecretSynced`.
    pub secret: ConditionUpdate,
    /// The condition `Injected`. None if the spec names no work pool.
    pub injected: Option<ConditionUpdate>,
    /// Whether the binding is suspended.
    pub suspended: bool,
    /// The resolved project and config. None if they were not resolved.
    pub resolved: Option<(String, String)>,
    /// Name of the Secret.
    pub secret_name: String,
    /// The content of the Secret. None if the Secret was not compared.
    pub content: Option<SecretContent>,
    /// The work pools of the spec.
    pub pools: Vec<WorkPoolStatus>,
    /// The entries that are recorded for the binding.
    pub entries: Vec<InjectedEntry>,
    /// What a binding that is being deleted waits for.
    pub deleting: Option<String>,
}

/// Whether the condition `type_` is True.
#[must_use]
pub fn is_true(status: &DopplerPrefectBindingStatus, type_: &str) -> bool {
    status
        .conditions
        .iter()
        .any(|condition| condition.type_ == type_ && condition.status == "True")
}

/// Computes the status for `outcome`.
#[must_use]
pub fn status(
    before: Option<&DopplerPrefectBindingStatus>,
    generation: Option<i64>,
    outcome: &Outcome,
    now: &Time,
) -> DopplerPrefectBindingStatus {
    let mut after = before.cloned().unwrap_or_default();
    after.observed_generation = generation;
    let mut conditions = Vec::with_capacity(4);
    let updated = |type_: &str, update: &ConditionUpdate| {
        let old = before.and_then(|status| status.conditions.iter().find(|c| c.type_ == type_));
        condition(type_, update, old, generation, now)
    };
    conditions.push(updated(BLOCK_RESOLVED, &outcome.block));
    conditions.push(updated(SECRET_SYNCED, &outcome.secret));
    if let Some(injected) = &outcome.injected {
        conditions.push(updated(INJECTED, injected));
    }
    conditions.push(updated(READY, &ready(outcome, &conditions)));
    after.conditions = conditions;
    if let Some((project, config)) = &outcome.resolved {
        after.project = Some(printable::name(project));
        after.config = Some(printable::name(config));
    }
    after.secret_name = Some(printable::name(&outcome.secret_name));
    if let Some(content) = &outcome.content {
        if after.content_hash.as_ref() != Some(&content.hash) {
            after.last_change_time = Some(now.clone());
        }
        after.key_count = i32::try_from(content.key_count).ok();
        after.excluded_keys = listed_keys(&content.excluded_keys);
        after.content_hash = Some(content.hash.clone());
    }
    after.work_pools = listed_pools(&outcome.pools);
    after.injected_entries.clone_from(&outcome.entries);
    after
}

/// The excluded keys that the status lists. The list is a map by name, and the API server rejects a
/// name that occurs twice, so two names that look alike are listed once.
fn listed_keys(keys: &[ExcludedKey]) -> Vec<ExcludedKey> {
    let mut listed: Vec<ExcludedKey> = Vec::new();
    for key in keys.iter().take(MAX_LISTED) {
        let name = printable::name(&key.name);
        if listed.iter().all(|other| other.name != name) {
            let reason = one_line(&key.reason, MAX_EXPLANATION_BYTES);
            listed.push(ExcludedKey { name, reason });
        }
    }
    listed
}

/// The first names of a list of the status, as far as they fit.
#[must_use]
pub fn listed_names(names: &[String]) -> Vec<String> {
    let mut bytes = 0;
    let names = names.iter().take(MAX_LISTED);
    names
        .map(|name| printable::name(name))
        .take_while(|name| {
            bytes += name.len();
            bytes <= MAX_LISTED_BYTES
        })
        .collect()
}

/// The work pools that the status lists, also a map by name.
fn listed_pools(pools: &[WorkPoolStatus]) -> Vec<WorkPoolStatus> {
    let mut listed: Vec<WorkPoolStatus> = Vec::with_capacity(pools.len());
    for pool in pools {
        let name = printable::name(&pool.name);
        if listed.iter().all(|other| other.name != name) {
            listed.push(WorkPoolStatus {
                name,
                state: pool.state,
                shadowed_keys: listed_names(&pool.shadowed_keys),
                unserved_namespaces: listed_names(&pool.unserved_namespaces),
            });
        }
    }
    listed
}

/// The condition `Ready`. The first condition that is not True gives its reason and message.
fn ready(outcome: &Outcome, conditions: &[Condition]) -> ConditionUpdate {
    if let Some(message) = &outcome.deleting {
        return ConditionUpdate::False(Reason::Deleting, message.clone());
    }
    if outcome.suspended {
        return ConditionUpdate::Unknown(
            Reason::Suspended,
            "the binding is suspended; set spec.suspend to false to resume it".to_owned(),
        );
    }
    let updates = [
        Some(&outcome.block),
        Some(&outcome.secret),
        outcome.injected.as_ref(),
    ];
    for (update, condition) in updates.into_iter().flatten().zip(conditions) {
        match update {
            ConditionUpdate::False(..) | ConditionUpdate::Unknown(..) => return update.clone(),
            ConditionUpdate::Unchanged if condition.status != "True" => {
                return ConditionUpdate::Unchanged;
            }
            ConditionUpdate::True(..) | ConditionUpdate::Unchanged => {}
        }
    }
    let pools = outcome.pools.len();
    let message = match pools {
        0 => format!("Secret {} is in place", outcome.secret_name),
        1 => format!(
            "Secret {} is in place and in 1 work pool",
            outcome.secret_name
        ),
        _ => format!(
            "Secret {} is in place and in {pools} work pools",
            outcome.secret_name
        ),
    };
    ConditionUpdate::True(Reason::Ready, message)
}

fn condition(
    type_: &str,
    update: &ConditionUpdate,
    old: Option<&Condition>,
    generation: Option<i64>,
    now: &Time,
) -> Condition {
    let (status, reason, message) = match update {
        ConditionUpdate::True(reason, message) => ("True", reason.as_str(), message.as_str()),
        ConditionUpdate::False(reason, message) => ("False", reason.as_str(), message.as_str()),
        ConditionUpdate::Unknown(reason, message) => ("Unknown", reason.as_str(), message.as_str()),
        ConditionUpdate::Unchanged => match old {
            Some(old) => (
                old.status.as_str(),
                old.reason.as_str(),
                old.message.as_str(),
            ),
            None => (
                "Unknown",
                Reason::Pending.as_str(),
                "waiting for the first answer",
            ),
        },
    };
    let last_transition_time = old
        .filter(|old| old.status == status)
        .map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: one_line(message, MAX_MESSAGE_BYTES),
        observed_generation: generation,
        last_transition_time,
    }
}

#[cfg(test)]
mod tests {
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
            suspended: false,
            resolved: Some(("my-project".to_owned(), "dev".to_owned())),
            secret_name: "my-project-dev".to_owned(),
            content: Some(SecretContent {
                key_count: 4,
                excluded_keys: vec![],
                hash: "h1".to_owned(),
            }),
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
        outcome.resolved = Some((forged.clone(), forged.clone()));
        let key = |end: &str| ExcludedKey {
            name: format!("{forged}{end}"),
            reason: forged.clone(),
        };
        let pool = |end: &str| WorkPoolStatus {
            name: format!("{forged}{end}"),
            state: None,
            shadowed_keys: vec![forged.clone(); 2 * MAX_LISTED],
            unserved_namespaces: vec![forged.clone(); 2 * MAX_LISTED],
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
        assert_eq!(second.injected_entries, [entry]);
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
}

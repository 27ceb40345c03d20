//! Outcome → status, as a pure function.
//!
//! In: what a reconcile came to, the status as it was, and the time. Out: the status as it should be, equal to the old one if nothing changed.
//! It never reads a clock and never writes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{
    crd::{DopplerPrefectBindingStatus, ExcludedKey, WorkPoolStatus},
    reason::Reason,
};

/// Condition: the block gave project, config and token.
pub const BLOCK_RESOLVED: &str = "BlockResolved";
/// Condition: the Secret holds what Doppler last gave.
pub const SECRET_SYNCED: &str = "SecretSynced";
/// Condition: every named pool carries the Secret.
pub const INJECTED: &str = "Injected";
/// Condition: all of the above for this generation.
pub const READY: &str = "Ready";

/// At most this many names are listed in one field of the status.
pub const MAX_LISTED: usize = 50;

/// How far a step came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionUpdate {
    /// It is done.
    True(Reason, String),
    /// It failed, or works no longer.
    False(Reason, String),
    /// It cannot be told yet.
    Unknown(Reason, String),
    /// What was said of it before still holds; where nothing was said, it is not known.
    Unchanged,
}

/// What is in the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretContent {
    /// How many keys it holds.
    pub key_count: usize,
    /// What was held back.
    pub excluded_keys: Vec<ExcludedKey>,
    /// Keyed hash of the content.
    pub hash: String,
}

/// What a reconcile came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the block gave project, config and token.
    pub block: ConditionUpdate,
    /// Whether the Secret holds what Doppler last gave.
    pub secret: ConditionUpdate,
    /// Whether every named pool carries it; nothing if none is named.
    pub injected: Option<ConditionUpdate>,
    /// Whether the binding is suspended.
    pub suspended: bool,
    /// Project and config that were resolved, if they were.
    pub resolved: Option<(String, String)>,
    /// Name of the Secret.
    pub secret_name: String,
    /// What is in the Secret, if it was looked at.
    pub content: Option<SecretContent>,
    /// The named pools.
    pub pools: Vec<WorkPoolStatus>,
}

/// Whether a condition of `kind` is True.
#[must_use]
pub fn is_true(status: &DopplerPrefectBindingStatus, kind: &str) -> bool {
    status
        .conditions
        .iter()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

/// The status that says `outcome`.
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
    let mut put = |kind: &str, step: &ConditionUpdate| {
        let old = before.and_then(|status| status.conditions.iter().find(|c| c.type_ == kind));
        conditions.push(condition(kind, step, old, generation, now));
    };
    put(BLOCK_RESOLVED, &outcome.block);
    put(SECRET_SYNCED, &outcome.secret);
    if let Some(injected) = &outcome.injected {
        put(INJECTED, injected);
    }
    let ready = ready(outcome, &conditions);
    let old = before.and_then(|status| status.conditions.iter().find(|c| c.type_ == READY));
    conditions.push(condition(READY, &ready, old, generation, now));
    after.conditions = conditions;
    if let Some((project, config)) = &outcome.resolved {
        after.project = Some(project.clone());
        after.config = Some(config.clone());
    }
    after.secret_name = Some(outcome.secret_name.clone());
    if let Some(content) = &outcome.content {
        if after.content_hash.as_ref() != Some(&content.hash) {
            after.last_change_time = Some(now.clone());
        }
        after.key_count = i32::try_from(content.key_count).ok();
        after.excluded_keys = content
            .excluded_keys
            .iter()
            .take(MAX_LISTED)
            .cloned()
            .collect();
        after.content_hash = Some(content.hash.clone());
    }
    after.work_pools.clone_from(&outcome.pools);
    after
}

/// All of the conditions together: the first that is not True says why.
fn ready(outcome: &Outcome, conditions: &[Condition]) -> ConditionUpdate {
    if outcome.suspended {
        return ConditionUpdate::Unknown(
            Reason::Suspended,
            "the binding is suspended; set spec.suspend to false to go on".to_owned(),
        );
    }
    let steps = [
        Some(&outcome.block),
        Some(&outcome.secret),
        outcome.injected.as_ref(),
    ];
    for (step, condition) in steps.into_iter().flatten().zip(conditions) {
        match step {
            ConditionUpdate::False(..) | ConditionUpdate::Unknown(..) => return step.clone(),
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
    kind: &str,
    step: &ConditionUpdate,
    old: Option<&Condition>,
    generation: Option<i64>,
    now: &Time,
) -> Condition {
    let (status, reason, message) = match step {
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
                "the first answer is awaited",
            ),
        },
    };
    let last_transition_time = old
        .filter(|old| old.status == status)
        .map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: cut(message, 32_768),
        observed_generation: generation,
        last_transition_time,
    }
}

/// `text` cut to at most `most` bytes, at a character.
fn cut(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most);
    text[..end].to_owned()
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
        }
    }

    fn find<'a>(status: &'a DopplerPrefectBindingStatus, kind: &str) -> &'a Condition {
        status.conditions.iter().find(|c| c.type_ == kind).unwrap()
    }

    #[test]
    fn nothing_changes_while_nothing_changes() {
        let first = status(None, Some(1), &synced(), &at(1));
        let second = status(Some(&first), Some(1), &synced(), &at(1000));
        assert_eq!(first, second);
    }

    #[test]
    fn ready_when_all_is_done_and_injected_is_absent_without_pools() {
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
    fn the_first_step_that_fails_says_why() {
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
    fn a_pool_that_fails_leaves_the_secret_synced() {
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
    fn a_passing_failure_changes_nothing_at_all() {
        let first = status(None, Some(1), &synced(), &at(1));
        let mut outcome = synced();
        outcome.block = ConditionUpdate::Unchanged;
        outcome.secret = ConditionUpdate::Unchanged;
        outcome.resolved = None;
        outcome.content = None;
        assert_eq!(status(Some(&first), Some(1), &outcome, &at(9)), first);
    }

    #[test]
    fn transition_times_move_only_with_the_status() {
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
    fn a_suspended_binding_says_so_and_keeps_the_rest() {
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

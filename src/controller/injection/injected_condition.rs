//! The condition `Injected`, and the pools of the status. Pure.
//!
//! Input: the observations of the claimed pools, and the last status.
//! Output: the condition, and `status.workPools`.
//! Invariants: the first failed pool gives reason and message. A transient failure leaves a True
//! condition as it is for the grace period.

use std::{collections::BTreeSet, time::Duration};

use super::pool_claims::{ObservedClaim, PoolClaims};
use crate::{
    crd::{WorkPoolState, WorkPoolStatus},
    failure::Failure,
    inject::claim::{Observation, Phase},
    printable,
    reason::{Class, Reason},
    status::{ConditionUpdate, listed_names},
};

/// Maximum number of names in one list of the condition's message.
const MAX_NAMES: usize = 10;

/// What the condition depends on beside the observations.
pub struct InjectionState<'a> {
    /// Why the pools are not read at all.
    pub unread: Option<&'a Failure>,
    /// Why the binding has no finalizer, without which no entry is added.
    pub unguarded: Option<&'a Failure>,
    /// Name of the Secret, if it does not exist yet.
    pub missing_secret: Option<&'a str>,
    /// What the binding no longer offers, while deployments choose it.
    pub in_use: Option<Failure>,
    /// Whether the condition was True.
    pub was_true: bool,
    /// For how long a transient failure leaves a True condition.
    pub grace_period: Duration,
}

/// The condition `Injected` and the pools of the status. `before` are the pools of the last status.
#[must_use]
pub fn injected_condition(
    claims: &PoolClaims,
    before: &[WorkPoolStatus],
    state: &InjectionState<'_>,
) -> (Option<ConditionUpdate>, Vec<WorkPoolStatus>) {
    let InjectionState {
        was_true,
        grace_period,
        ..
    } = *state;
    if claims.observations.is_empty() {
        let update = state.in_use.as_ref();
        let update = update.map(|failure| ConditionUpdate::of_failure(failure, true, was_true));
        return (update, Vec::new());
    }
    let mut failed: Option<Failure> = None;
    let mut unknown = false;
    let mut pools = Vec::with_capacity(claims.observations.len());
    for observed in &claims.observations {
        let observation = observed.observation.as_ref();
        add_status(&mut pools, observed, before);
        let progress = observation.map(|observation| progress(observation, was_true, grace_period));
        match progress {
            Some(Progress::Injected) => {}
            Some(Progress::Unknown) | None => unknown = true,
            Some(Progress::Failed(failure)) => {
                failed.get_or_insert(failure);
            }
        }
    }
    let update = match failed.or_else(|| state.in_use.clone()) {
        Some(failure) => ConditionUpdate::of_failure(&failure, true, was_true),
        None if unknown => unknown_condition(claims, state),
        None => ConditionUpdate::True(Reason::Injected, injected_message(claims, &pools)),
    };
    (Some(update), pools)
}

/// The condition while nothing failed and not every pool has the entry.
fn unknown_condition(claims: &PoolClaims, state: &InjectionState<'_>) -> ConditionUpdate {
    if let Some(failure) = state.unread {
        return ConditionUpdate::Unknown(
            failure.reason,
            format!(
                "the operator does not read the work pools: {}",
                failure.message
            ),
        );
    }
    if let Some(failure) = state.unguarded {
        return ConditionUpdate::False(
            failure.reason,
            format!(
                "the operator adds no entry to the work pools: {}",
                failure.message
            ),
        );
    }
    if state.was_true {
        return ConditionUpdate::Unchanged;
    }
    let in_phase = |phase: Phase| {
        let observed = claims.observations.iter();
        let names = observed
            .filter(|observed| {
                let observation = observed.observation.as_ref();
                observation.is_some_and(|observation| observation.phase == phase)
            })
            .map(|observed| printable::name(&observed.pool));
        let mut names: Vec<String> = names.collect();
        // The entry of a pool, and its mount.
        names.dedup();
        names.truncate(MAX_NAMES);
        (!names.is_empty()).then(|| names.join(", "))
    };
    let message = match (in_phase(Phase::Injectable), in_phase(Phase::InProgress)) {
        _ if claims.awaits_first_read() => {
            "the first reads of the work pools are pending".to_owned()
        }
        (Some(pools), _) => match state.missing_secret {
            Some(secret) => format!(
                "work pools {pools} can take the entry: the operator adds it once Secret {secret} exists (see SecretSynced)"
            ),
            None => format!("the operator is about to add the entry to work pools {pools}"),
        },
        (None, Some(pools)) => format!("the operator is changing the entry of work pools {pools}"),
        (None, None) => "the first reads of the work pools are pending".to_owned(),
    };
    ConditionUpdate::Unknown(Reason::Pending, message)
}

enum Progress {
    Injected,
    Unknown,
    Failed(Failure),
}

fn progress(observation: &Observation, was_true: bool, grace_period: Duration) -> Progress {
    let phase = observation.phase;
    let failing_for = observation.failing_since.map(|since| since.elapsed());
    let transient = failing_for.is_some_and(|failing_for| failing_for < grace_period)
        && observation.reason.class() != Class::WaitForChange;
    let injected = phase == Phase::Injected
        && observation.reason == Reason::Injected
        && (failing_for.is_none() || transient);
    let undecided = matches!(
        phase,
        Phase::Unknown | Phase::Injectable | Phase::InProgress
    ) && observation.reason == Reason::Pending;
    if injected || (transient && was_true) {
        Progress::Injected
    } else if undecided {
        Progress::Unknown
    } else if failing_for.is_some() || observation.reason.class() != Class::Settled {
        Progress::Failed(Failure::new(
            observation.reason,
            observation.message.clone(),
        ))
    } else if phase == Phase::Injected {
        Progress::Injected
    } else {
        Progress::Unknown
    }
}

/// Adds the status of a pool, or what its mount changes in it: the state of the first claim that the
/// pool does not serve counts.
fn add_status(
    pools: &mut Vec<WorkPoolStatus>,
    observed: &ObservedClaim,
    before: &[WorkPoolStatus],
) {
    let name = &observed.pool;
    let old = before.iter().find(|pool| pool.name == *name);
    let status = pool_status(name, observed.observation.as_ref(), old);
    let Some(entry) = pools.last_mut().filter(|_| observed.is_mount) else {
        return pools.push(status);
    };
    let is_served = |state: Option<WorkPoolState>| {
        use WorkPoolState::{AlreadyPresent, Patched};
        matches!(state, None | Some(Patched | AlreadyPresent))
    };
    if is_served(entry.state) && (!is_served(status.state) || entry.state.is_none()) {
        entry.state = status.state;
    }
}

/// The status of a pool. A pool that was not read stays as it was.
fn pool_status(
    name: &str,
    observation: Option<&Observation>,
    old: Option<&WorkPoolStatus>,
) -> WorkPoolStatus {
    let Some(observation) = observation else {
        return old.cloned().unwrap_or_else(|| WorkPoolStatus {
            name: name.to_owned(),
            ..WorkPoolStatus::default()
        });
    };
    WorkPoolStatus {
        name: name.to_owned(),
        state: observation.state.or_else(|| old.and_then(|old| old.state)),
        shadowed_keys: listed_names(&observation.shadowed_keys),
        unserved_namespaces: listed_names(&observation.unserved_namespaces),
        used_by: listed_names(&observation.used_by),
    }
}

fn injected_message(claims: &PoolClaims, pools: &[WorkPoolStatus]) -> String {
    let names = pools.iter().map(|pool| printable::name(&pool.name));
    let names: Vec<String> = names.collect();
    let mut message = format!("work pools {} reference the Secret", names.join(", "));
    let mounts = claims
        .observations
        .iter()
        .filter(|observed| observed.is_mount);
    let mounts = mounts.map(|observed| printable::name(&observed.pool));
    let mounts: Vec<String> = mounts.take(MAX_NAMES).collect();
    if !mounts.is_empty() {
        message.push_str("; its files are mounted in those of ");
        message.push_str(&mounts.join(", "));
    }
    let unserved: BTreeSet<&str> = pools
        .iter()
        .flat_map(|pool| &pool.unserved_namespaces)
        .map(String::as_str)
        .collect();
    if !unserved.is_empty() {
        let names: Vec<&str> = unserved.into_iter().take(MAX_NAMES).collect();
        message.push_str(
            "; deployments send jobs to namespaces without the Secret (add a binding there): ",
        );
        message.push_str(&names.join(", "));
    }
    for pool in pools {
        message.extend(shadowed_clause(pool));
    }
    let observations = claims.observations.iter();
    let unchecked = observations.filter_map(|observed| {
        observed
            .observation
            .as_ref()?
            .unchecked_deployments
            .as_deref()
    });
    for clause in unchecked {
        message.push_str("; ");
        message.push_str(clause);
    }
    message
}

/// Names the keys that the pool overrides, if any.
fn shadowed_clause(pool: &WorkPoolStatus) -> Option<String> {
    let keys = &pool.shadowed_keys;
    if keys.is_empty() {
        return None;
    }
    let shown = keys[..keys.len().min(MAX_NAMES)].join(", ");
    let more = match keys.len().saturating_sub(MAX_NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let name = printable::name(&pool.name);
    Some(format!(
        "; the env or a later envFrom entry of work pool {name} overrides these keys of the Secret: {shown}{more}"
    ))
}

#[cfg(test)]
mod tests;

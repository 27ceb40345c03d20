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
mod tests {
    use super::*;

    fn state() -> InjectionState<'static> {
        InjectionState {
            unread: None,
            unguarded: None,
            missing_secret: None,
            in_use: None,
            was_true: false,
            grace_period: Duration::ZERO,
        }
    }

    fn observed(phase: Phase) -> Observation {
        Observation {
            phase,
            state: None,
            reason: if phase == Phase::Injected {
                Reason::Injected
            } else {
                Reason::Pending
            },
            message: "observed".to_owned(),
            shadowed_keys: Vec::new(),
            later_sources: Vec::new(),
            unserved_namespaces: Vec::new(),
            used_by: Vec::new(),
            unchecked_deployments: None,
            failing_since: None,
            event: None,
        }
    }

    fn condition(
        observations: &[Option<Observation>],
        state: &InjectionState<'_>,
    ) -> Option<ConditionUpdate> {
        let observations = observations.iter().enumerate();
        let claims = PoolClaims {
            observations: observations
                .map(|(number, observation)| ObservedClaim {
                    pool: format!("pool-{number}"),
                    is_mount: false,
                    observation: observation.clone(),
                })
                .collect(),
            to_record: BTreeSet::new(),
        };
        injected_condition(&claims, &[], state).0
    }

    fn pending(message: &str) -> ConditionUpdate {
        ConditionUpdate::Unknown(Reason::Pending, message.to_owned())
    }

    #[test]
    fn says_what_an_injection_waits_for() {
        let waiting = InjectionState {
            missing_secret: Some("my-secret"),
            ..state()
        };
        let (ready, injected) = (
            Some(observed(Phase::Injectable)),
            Some(observed(Phase::Injected)),
        );
        assert_eq!(
            condition(&[ready.clone(), injected], &waiting),
            Some(pending(
                "work pools pool-0 can take the entry: the operator adds it once Secret my-secret exists (see SecretSynced)"
            ))
        );
        assert_eq!(
            condition(std::slice::from_ref(&ready), &state()),
            Some(pending(
                "the operator is about to add the entry to work pools pool-0"
            ))
        );
        assert_eq!(
            condition(&[ready, None], &waiting),
            Some(pending("the first reads of the work pools are pending"))
        );
        assert_eq!(
            condition(&[Some(observed(Phase::InProgress))], &state()),
            Some(pending(
                "the operator is changing the entry of work pools pool-0"
            ))
        );
    }

    #[test]
    fn says_why_pools_are_not_read() {
        let failure = Failure::new(Reason::HostNotAllowed, "x is not an allowed host");
        for was_true in [false, true] {
            let refused = InjectionState {
                unread: Some(&failure),
                was_true,
                ..state()
            };
            assert_eq!(
                condition(&[None], &refused),
                Some(ConditionUpdate::Unknown(
                    Reason::HostNotAllowed,
                    "the operator does not read the work pools: x is not an allowed host"
                        .to_owned()
                ))
            );
        }
        let before = InjectionState {
            was_true: true,
            ..state()
        };
        assert_eq!(
            condition(&[None], &before),
            Some(ConditionUpdate::Unchanged)
        );
    }

    #[test]
    fn says_that_no_entry_is_added_without_the_finalizer() {
        let failure = Failure::new(Reason::KubernetesError, "Policy p rejects the finalizer");
        let unguarded = InjectionState {
            unguarded: Some(&failure),
            ..state()
        };
        let expected = ConditionUpdate::False(
            Reason::KubernetesError,
            "the operator adds no entry to the work pools: Policy p rejects the finalizer"
                .to_owned(),
        );
        let observations = [Some(observed(Phase::Injectable))];
        assert_eq!(condition(&observations, &unguarded), Some(expected));
        // An entry that is in place is not affected.
        let observations = [Some(observed(Phase::Injected))];
        assert!(matches!(
            condition(&observations, &unguarded),
            Some(ConditionUpdate::True(..))
        ));
    }

    #[test]
    fn names_the_keys_that_a_pool_overrides() {
        let keys = |count: usize| (0..count).map(|n| format!("K{n}")).collect();
        let shadowed = |count| Observation {
            shadowed_keys: keys(count),
            ..observed(Phase::Injected)
        };
        let Some(ConditionUpdate::True(_, message)) =
            condition(&[Some(shadowed(1)), Some(shadowed(12))], &state())
        else {
            panic!("not injected")
        };
        assert!(
            message.contains("work pool pool-0 overrides these keys of the Secret: K0;")
                && message.ends_with("K9 and 2 more"),
            "{message}"
        );
    }

    #[test]
    fn unchecked_deployments_are_reported_beside_success() {
        let observation = Observation {
            phase: Phase::Injected,
            state: Some(WorkPoolState::Patched),
            reason: Reason::Injected,
            message: "the template has the entry".to_owned(),
            shadowed_keys: Vec::new(),
            later_sources: Vec::new(),
            unserved_namespaces: vec!["team".to_owned()],
            used_by: Vec::new(),
            unchecked_deployments: Some("only the first 5000 were checked".to_owned()),
            failing_since: None,
            event: None,
        };
        let claims = PoolClaims {
            observations: vec![ObservedClaim {
                pool: "k8s".to_owned(),
                is_mount: false,
                observation: Some(observation),
            }],
            to_record: BTreeSet::new(),
        };
        let (update, _) = injected_condition(&claims, &[], &state());
        let Some(ConditionUpdate::True(Reason::Injected, message)) = update else {
            panic!("{update:?}")
        };
        assert_eq!(
            message,
            "work pools k8s reference the Secret; deployments send jobs to namespaces without the Secret (add a binding there): team; only the first 5000 were checked"
        );
    }
}

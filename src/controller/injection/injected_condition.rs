//! The condition `Injected`, and the pools of the status. Pure.
//!
//! Input: the observations of the claimed pools, and the last status.
//! Output: the condition, and `status.workPools`.
//! Invariants: the first failed pool gives reason and message. A transient failure leaves a True
//! condition as it is for the grace period.

use std::{collections::BTreeSet, time::Duration};

use super::pool_claims::PoolClaims;
use crate::{
    crd::WorkPoolStatus,
    failure::Failure,
    inject::claim::{Observation, Phase},
    printable,
    reason::{Class, Reason},
    status::{ConditionUpdate, listed_names},
};

/// Maximum number of namespaces in the condition's message.
const MAX_NAMESPACES: usize = 10;

/// The condition `Injected` and the pools of the status. `before` are the pools of the last status,
/// `was_true` is the last status of the condition.
#[must_use]
pub fn injected_condition(
    claims: &PoolClaims,
    before: &[WorkPoolStatus],
    was_true: bool,
    grace_period: Duration,
) -> (Option<ConditionUpdate>, Vec<WorkPoolStatus>) {
    if claims.observations.is_empty() {
        return (None, Vec::new());
    }
    let mut failed: Option<Failure> = None;
    let mut unknown = false;
    let mut pools = Vec::with_capacity(claims.observations.len());
    for (name, observation) in &claims.observations {
        let old = before.iter().find(|pool| pool.name == *name);
        pools.push(pool_status(name, observation.as_ref(), old));
        let progress = observation
            .as_ref()
            .map(|observation| progress(observation, was_true, grace_period));
        match progress {
            Some(Progress::Injected) => {}
            Some(Progress::Unknown) | None => unknown = true,
            Some(Progress::Failed(failure)) => {
                failed.get_or_insert(failure);
            }
        }
    }
    let update = match failed {
        Some(failure) => ConditionUpdate::of_failure(&failure, true, was_true),
        None if unknown && was_true => ConditionUpdate::Unchanged,
        None if unknown => ConditionUpdate::Unknown(
            Reason::Pending,
            "the first reads of the work pools are pending".to_owned(),
        ),
        None => ConditionUpdate::True(Reason::Injected, injected_message(claims, &pools)),
    };
    (Some(update), pools)
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

/// The status of a pool. A pool that was not read stays as it was.
fn pool_status(
    name: &str,
    observation: Option<&Observation>,
    old: Option<&WorkPoolStatus>,
) -> WorkPoolStatus {
    let Some(observation) = observation else {
        return old.cloned().unwrap_or_else(|| WorkPoolStatus {
            name: name.to_owned(),
            state: None,
            shadowed_keys: Vec::new(),
            unserved_namespaces: Vec::new(),
        });
    };
    WorkPoolStatus {
        name: name.to_owned(),
        state: observation.state.or_else(|| old.and_then(|old| old.state)),
        shadowed_keys: listed_names(&observation.shadowed_keys),
        unserved_namespaces: listed_names(&observation.unserved_namespaces),
    }
}

fn injected_message(claims: &PoolClaims, pools: &[WorkPoolStatus]) -> String {
    let names = pools.iter().map(|pool| printable::name(&pool.name));
    let names: Vec<String> = names.collect();
    let mut message = format!("work pools {} reference the Secret", names.join(", "));
    let unserved: BTreeSet<&str> = pools
        .iter()
        .flat_map(|pool| &pool.unserved_namespaces)
        .map(String::as_str)
        .collect();
    if !unserved.is_empty() {
        let names: Vec<&str> = unserved.into_iter().take(MAX_NAMESPACES).collect();
        message.push_str(
            "; deployments send jobs to namespaces without the Secret (add a binding there): ",
        );
        message.push_str(&names.join(", "));
    }
    let observations = claims.observations.iter();
    let unchecked = observations
        .filter_map(|(_, observation)| observation.as_ref()?.unchecked_deployments.as_deref());
    for clause in unchecked {
        message.push_str("; ");
        message.push_str(clause);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::WorkPoolState;

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
            unchecked_deployments: Some("only the first 5000 were checked".to_owned()),
            failing_since: None,
            event: None,
        };
        let claims = PoolClaims {
            observations: vec![("k8s".to_owned(), Some(observation))],
            to_record: BTreeSet::new(),
        };
        let (update, _) = injected_condition(&claims, &[], false, Duration::ZERO);
        let Some(ConditionUpdate::True(Reason::Injected, message)) = update else {
            panic!("{update:?}")
        };
        assert_eq!(
            message,
            "work pools k8s reference the Secret; deployments send jobs to namespaces without the Secret (add a binding there): team; only the first 5000 were checked"
        );
    }
}

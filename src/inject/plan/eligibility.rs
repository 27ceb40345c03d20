//! Why a pool cannot serve a claim.
//!
//! Input: the pool, its parsed template, one claim.
//! Output: a [`Rejection`], or none.
//! Invariants: pure.

use super::deployments::Unserved;
use super::view::{KUBERNETES, ParsedTemplate, PoolView};
use crate::crd::{NO_CONFIG, WorkPoolState as State};
use crate::failure::Failure;
use crate::inject::claim::Claim;
use crate::inject::job_environment::JobNamespace;
use crate::inject::template::{EntryState, NotEditable};
use crate::reason::Reason;

/// Why a pool cannot serve a claim.
pub(super) struct Rejection {
    pub(super) state: State,
    pub(super) failure: Failure,
}

impl Rejection {
    pub(super) fn new(state: State, reason: Reason, message: String) -> Self {
        Self {
            state,
            failure: Failure::new(reason, message),
        }
    }
}

pub(super) fn find_rejection(
    view: &PoolView<'_>,
    parsed: &ParsedTemplate<'_>,
    claim: &Claim,
) -> Option<Rejection> {
    let pool = view.pool;
    if view.pool_type != KUBERNETES {
        let error = NotEditable::NotKubernetes(view.pool_type.to_owned());
        return Some(not_editable(pool, &error, claim));
    }
    // An entry that a placeholder brings needs no edit.
    let error = parsed.states.as_ref().err();
    let mount_error = parsed.mounts.error().filter(|_| claim.mount.is_some());
    if let Some(error) = error.or(mount_error)
        && parsed.claim_state(claim) == EntryState::Absent
    {
        return Some(not_editable(pool, error, claim));
    }
    if claim.variable.is_some() && claim.secret == NO_CONFIG {
        return Some(Rejection::new(
            State::NotEditable,
            Reason::PoolNotEditable,
            format!(
                "a run of work pool {pool} that chooses {NO_CONFIG} gets no values, so that no Secret of this name can be chosen: set spec.managedSecret.name"
            ),
        ));
    }
    if parsed.leaves_cluster(claim) {
        return Some(Rejection::new(
            State::OtherCluster,
            Reason::PoolOtherCluster,
            format!(
                "work pool {pool} sends its jobs to the cluster of its cluster_config, which the operator cannot tell from another: if that is this cluster, set sameCluster: true for the pool; otherwise run the operator in that cluster, and create a binding there"
            ),
        ));
    }
    let namespace = &claim.namespace;
    match &parsed.namespace {
        JobNamespace::Fixed(jobs) if jobs == namespace => {}
        JobNamespace::Fixed(jobs) => {
            return Some(other_namespace(format!(
                "jobs of work pool {pool} run in namespace {jobs}, and the Secret is in {namespace}: create the binding in {jobs}, or set the pool's namespace to {namespace}"
            )));
        }
        JobNamespace::Unknown(text) => {
            return Some(other_namespace(format!(
                "the namespace of work pool {pool} is `{text}`, which only a run can resolve: set it to {namespace} if its jobs run in that namespace"
            )));
        }
        JobNamespace::Invalid(text) => {
            return Some(other_namespace(format!(
                "the namespace of work pool {pool} is `{text}`, in which no worker can create a job: set it to {namespace}"
            )));
        }
    }
    if claim.optional {
        return None;
    }
    reject_unserved_deployments(view, parsed, claim)
}

/// With `optional: false`, a run in a place without the Secret never starts.
fn reject_unserved_deployments(
    view: &PoolView<'_>,
    parsed: &ParsedTemplate<'_>,
    claim: &Claim,
) -> Option<Rejection> {
    let pool = view.pool;
    let Some(deployments) = view.deployments else {
        return Some(Rejection::new(
            State::Forbidden,
            Reason::PoolForbidden,
            format!(
                "the credentials have no permission to list the deployments of work pool {pool}, and with optional: false, jobs in another namespace would never start: add the permission \"View deployments\" to the API key's role, or set optional: true"
            ),
        ));
    };
    let unserved = Unserved::of(&parsed.deployments, claim);
    let elsewhere = unserved.elsewhere.iter();
    let elsewhere = elsewhere.map(|(jobs, names)| (names, format!("to namespace {jobs}")));
    let others = [
        (&unserved.other_cluster, "to another cluster".to_owned()),
        (
            &unserved.unknown,
            "to a namespace that only a run can resolve".to_owned(),
        ),
    ];
    let mut places = elsewhere.chain(others.into_iter().filter(|(names, _)| !names.is_empty()));
    if let Some((names, place)) = places.next() {
        let deployment = names.first().map_or("one", String::as_str);
        return Some(other_namespace(format!(
            "deployment {deployment} of work pool {pool} sends its jobs {place}, where they would never start with optional: false: set optional: true, or use a separate pool for the deployment"
        )));
    }
    let unlisted = match deployments.truncated_at {
        Some(first) => format!("lists only the first {first} deployments of work pool {pool}"),
        None if deployments.more_groups => {
            format!("compares only some of the many different deployments of work pool {pool}")
        }
        None => return None,
    };
    Some(other_namespace(format!(
        "the operator {unlisted}, and with optional: false, jobs of the others in another namespace would never start: set optional: true, or distribute the deployments over several pools"
    )))
}

fn not_editable(pool: &str, error: &NotEditable, claim: &Claim) -> Rejection {
    let advice = error.advice(&claim.entry());
    let what = if claim.mount.is_some() {
        "mount"
    } else {
        "entry"
    };
    Rejection::new(
        State::NotEditable,
        Reason::PoolNotEditable,
        format!("work pool {pool} cannot take the {what}: {error}: {advice}"),
    )
}

fn other_namespace(message: String) -> Rejection {
    Rejection::new(State::OtherNamespace, Reason::PoolOtherNamespace, message)
}

//! Why a pool cannot serve a claim.
//!
//! Input: the pool, its parsed template, one claim.
//! Output: a [`Rejection`], or none.
//! Invariants: pure.

use super::view::{KUBERNETES, ParsedTemplate, PoolView};
use crate::crd::WorkPoolState as State;
use crate::failure::Failure;
use crate::inject::claim::Claim;
use crate::inject::job_environment::JobNamespace;
use crate::inject::template::NotEditable;
use crate::reason::Reason;

/// Why a pool cannot serve a claim.
pub(super) struct Rejection {
    pub(super) state: State,
    pub(super) failure: Failure,
}

impl Rejection {
    fn new(state: State, reason: Reason, message: String) -> Self {
        Self {
            state,
            failure: Failure::new(reason, message),
        }
    }
}

pub(super) fn find_rejection(
    view: &PoolView<'_>,
    parsed: &ParsedTemplate,
    claim: &Claim,
) -> Option<Rejection> {
    let pool = view.pool;
    if view.pool_type != KUBERNETES {
        let error = NotEditable::NotKubernetes(view.pool_type.to_owned());
        return Some(not_editable(pool, &error));
    }
    if let Err(error) = &parsed.states {
        return Some(not_editable(pool, error));
    }
    if parsed.other_cluster {
        return Some(Rejection::new(
            State::OtherCluster,
            Reason::PoolOtherCluster,
            format!(
                "work pool {pool} sends its jobs to another cluster (cluster_config): run the operator in that cluster, and create a binding there"
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
    }
    if claim.optional {
        return None;
    }
    reject_unserved_deployments(view, namespace)
}

/// With `optional: false`, a run in a namespace without the Secret never starts.
fn reject_unserved_deployments(view: &PoolView<'_>, namespace: &String) -> Option<Rejection> {
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
    let mut namespaces = deployments.namespaces.iter();
    if let Some((jobs, names)) = namespaces.find(|(jobs, _)| *jobs != namespace) {
        let deployment = names.first().map_or("one", String::as_str);
        return Some(other_namespace(format!(
            "deployment {deployment} of work pool {pool} sends its jobs to namespace {jobs}, where they would never start with optional: false: set optional: true, or use a separate pool for the deployment"
        )));
    }
    let first = deployments.truncated_at?;
    Some(other_namespace(format!(
        "the operator lists only the first {first} deployments of work pool {pool}, and with optional: false, jobs of the others in another namespace would never start: set optional: true, or distribute the deployments over several pools"
    )))
}

fn not_editable(pool: &str, error: &NotEditable) -> Rejection {
    Rejection::new(
        State::NotEditable,
        Reason::PoolNotEditable,
        format!("work pool {pool} cannot take the entry: {error}"),
    )
}

fn other_namespace(message: String) -> Rejection {
    Rejection::new(State::OtherNamespace, Reason::PoolOtherNamespace, message)
}

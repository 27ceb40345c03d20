//! What the plan of a pool reads: the pool, its parsed template, and this process's history.
//!
//! Input: the pool as the server sent it.
//! Output: [`PoolView`], [`ParsedTemplate`] and [`History`].
//! Invariants: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::inject::claim::Claim;
use crate::inject::job_environment::{
    JobEnvironment, JobNamespace, job_namespace, targets_other_cluster,
};
use crate::inject::pool_owner::ManagedPool;
use crate::inject::template::{EntryState, NotEditable, entry_states};
use crate::prefect::DeploymentNamespaces;

/// The only type of work pool whose template takes an entry.
pub(super) const KUBERNETES: &str = "kubernetes";

/// A work pool as the server sent it.
#[derive(Clone, Copy)]
pub struct PoolView<'a> {
    /// Its name.
    pub pool: &'a str,
    /// Its type.
    pub pool_type: &'a str,
    /// Its base job template.
    pub template: &'a RawValue,
    /// Namespaces to which deployments send their jobs; `None` if the credentials cannot list them.
    pub deployments: Option<&'a DeploymentNamespaces>,
    /// The object that owns it.
    pub owner: Option<&'a ManagedPool>,
}

/// What this process remembers of a pool.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Secrets whose entry this process wrote.
    pub written: BTreeSet<String>,
    /// Whether another writer keeps reverting the template.
    pub contested: bool,
    /// The claims on the same pool over other connections.
    pub elsewhere: Vec<Claim>,
}

impl History {
    /// Whether an entry of exactly our shape counts as ours.
    pub(super) fn is_ours(&self, claim: &Claim) -> bool {
        self.written.contains(&claim.secret) || claim.recorded
    }

    /// Whether the operator wrote an entry for this Secret, for whichever binding.
    pub(super) fn is_operators(&self, secret: &str, claims: &[&Claim]) -> bool {
        let claims = claims.iter().copied().chain(&self.elsewhere);
        let mut recorded = claims.filter(|claim| claim.recorded);
        self.written.contains(secret) || recorded.any(|claim| claim.secret == secret)
    }
}

/// The template, parsed once for all claims.
pub(super) struct ParsedTemplate {
    pub(super) states: Result<BTreeMap<String, EntryState>, NotEditable>,
    pub(super) namespace: JobNamespace,
    pub(super) other_cluster: bool,
    pub(super) environment: JobEnvironment,
}

impl ParsedTemplate {
    pub(super) fn parse(template: &RawValue) -> Self {
        Self {
            states: entry_states(template),
            namespace: job_namespace(template),
            other_cluster: targets_other_cluster(template),
            environment: JobEnvironment::from_template(template),
        }
    }

    pub(super) fn state(&self, secret: &str) -> EntryState {
        let states = self.states.as_ref().ok();
        states
            .and_then(|states| states.get(secret).copied())
            .unwrap_or(EntryState::Absent)
    }
}

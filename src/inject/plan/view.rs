//! What the plan of a pool reads: the pool, its parsed template, and this process's history.
//!
//! Input: the pool as the server sent it.
//! Output: [`PoolView`], [`ParsedTemplate`] and [`History`].
//! Invariants: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::deployments::{DeploymentJobs, deployment_jobs};
use super::mounts::PoolMounts;
use crate::crd::InjectMode;
use crate::inject::claim::Claim;
use crate::inject::job_environment::{
    JobEnvironment, JobNamespace, has_cluster_config, job_namespace,
};
use crate::inject::job_volumes::JobVolumes;
use crate::inject::pool_owner::ManagedPool;
use crate::inject::rendering::JobTemplate;
use crate::inject::template::{
    DeclaredVariable, EntryKey, EntryState, NotEditable, declared_variable, entry_states,
    refuses_undeclared,
};
use crate::prefect::DeploymentOverrides;

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
    /// The deployments that set a variable of [`destination_variables`]; `None` if the credentials
    /// cannot list them.
    pub deployments: Option<&'a DeploymentOverrides>,
    /// The object that owns it.
    pub owner: Option<&'a ManagedPool>,
}

/// What this process remembers of a pool.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Entries that this process wrote.
    pub written: BTreeSet<EntryKey>,
    /// Whether another writer keeps reverting the template.
    pub contested: bool,
    /// The claims on the same pool over other connections.
    pub elsewhere: Vec<Claim>,
}

impl History {
    /// Whether an entry of exactly our shape counts as ours.
    pub(super) fn is_ours(&self, claim: &Claim) -> bool {
        self.written.contains(&claim.key()) || claim.recorded
    }

    /// Whether the operator wrote this entry, for whichever binding.
    pub(super) fn is_operators(&self, key: &EntryKey, claims: &[&Claim]) -> bool {
        let claims = claims.iter().copied().chain(&self.elsewhere);
        let mut recorded = claims.filter(|claim| claim.recorded);
        self.written.contains(key) || recorded.any(|claim| claim.key() == *key)
    }
}

/// The template, parsed once for all claims.
pub(super) struct ParsedTemplate<'a> {
    /// How its text names each Secret, or why it cannot be edited.
    pub(super) states: Result<BTreeMap<EntryKey, EntryState>, NotEditable>,
    pub(super) namespace: JobNamespace,
    pub(super) has_cluster_config: bool,
    pub(super) environment: JobEnvironment,
    /// The claimed Secrets that jobs of the pool have, also by way of a placeholder.
    rendered: BTreeSet<String>,
    /// The jobs of the deployments that override a variable.
    pub(super) deployments: Vec<DeploymentJobs<'a>>,
    /// The variables that the claims name, as far as the template declares them.
    declared: BTreeMap<String, DeclaredVariable>,
    /// The mounts that claims name.
    pub(super) mounts: PoolMounts,
    /// Whether Prefect refuses job variables that the template does not declare.
    pub(super) refuses_undeclared: bool,
}

/// The variables of a template that decide where jobs run and whether they have an entry.
#[must_use]
pub fn destination_variables(template: &RawValue) -> BTreeSet<String> {
    JobTemplate::parse(template).destination_variables()
}

impl<'a> ParsedTemplate<'a> {
    /// `elsewhere` are claims on the same pool over other connections.
    pub(super) fn parse(view: &PoolView<'a>, claims: &[&Claim], elsewhere: &[Claim]) -> Self {
        let template = JobTemplate::parse(view.template);
        let defaults = template.defaults();
        let job = template.job(&defaults);
        let environment = JobEnvironment::of(job);
        let claimed: BTreeSet<&str> = claims.iter().map(|claim| claim.secret.as_str()).collect();
        let variables = claims.iter().filter_map(|claim| claim.variable.as_ref());
        let variables: BTreeSet<&String> = variables.collect();
        let chosen = claims.iter().filter(|claim| claim.variable.is_some());
        let chosen: BTreeSet<&str> = chosen.map(|claim| claim.secret.as_str()).collect();
        let rendered: BTreeSet<&str> = environment
            .secrets()
            .filter(|secret| claimed.contains(secret))
            .collect();
        Self {
            states: entry_states(view.template),
            namespace: job_namespace(job),
            has_cluster_config: has_cluster_config(job),
            deployments: deployment_jobs(&template, view.deployments, &rendered, &chosen),
            rendered: rendered.into_iter().map(str::to_owned).collect(),
            declared: variables
                .into_iter()
                .filter_map(|name| Some((name.clone(), declared_variable(view.template, name)?)))
                .collect(),
            mounts: PoolMounts::of(
                view.template,
                claims.iter().copied().chain(elsewhere),
                || JobVolumes::of(job),
            ),
            refuses_undeclared: refuses_undeclared(view.template),
            environment,
        }
    }

    /// Whether jobs run in another cluster, as far as the operator knows. In mode `Observe` it only
    /// counts the entry, wherever the jobs run.
    pub(super) fn leaves_cluster(&self, claim: &Claim) -> bool {
        self.has_cluster_config && !claim.same_cluster && claim.mode == InjectMode::Patch
    }

    /// The variable of this name. None if the template does not declare it, or no claim names it.
    pub(super) fn declared(&self, variable: &str) -> Option<&DeclaredVariable> {
        self.declared.get(variable)
    }

    /// How the template has the entry of a claim.
    pub(super) fn claim_state(&self, claim: &Claim) -> EntryState {
        if claim.mount.is_some() {
            self.mounts.state(claim)
        } else {
            self.state(&claim.key())
        }
    }

    /// How the template names a claimed Secret. One that only the rendered template names has an
    /// entry of another shape.
    pub(super) fn state(&self, key: &EntryKey) -> EntryState {
        let states = self.states.as_ref().ok();
        let written = states.and_then(|states| states.get(key).copied());
        match written {
            Some(exact @ EntryState::Exact { .. }) => exact,
            // All runs have it, but none has chosen it.
            _ if key.variable.is_none() && self.rendered.contains(&key.secret) => {
                EntryState::OtherShape
            }
            Some(EntryState::OtherShape) if key.variable.is_some() => EntryState::OtherShape,
            _ => EntryState::Absent,
        }
    }
}

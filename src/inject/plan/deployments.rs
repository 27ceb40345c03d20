//! Where the jobs of deployments run that override variables of the pool.
//!
//! Input: the parsed template, and the deployments that set a variable which it uses.
//! Output: for each group of deployments, the namespace and the cluster of its jobs, and the Secrets
//! that they do without.
//! Invariants: pure. Deployments whose job variables the worker cannot use are left out, because it
//! starts no job for them.

use std::collections::{BTreeMap, BTreeSet};

use crate::inject::claim::Claim;
use crate::inject::job_environment::{
    JobNamespace, env_from_sources, has_cluster_config, job_namespace,
};
use crate::inject::rendering::{Job, JobTemplate};
use crate::prefect::DeploymentOverrides;

/// Deployments that a message names.
const MAX_NAMED: usize = 5;

/// The jobs of deployments with the same values.
pub(super) struct DeploymentJobs<'a> {
    names: &'a [String],
    place: Place,
    overrides_cluster: bool,
    /// The claimed Secrets that the jobs of the pool have, and these jobs do not.
    without: BTreeSet<String>,
    /// The Secrets of `runs: Selected` that the jobs have.
    with: BTreeSet<String>,
}

/// Where jobs run.
enum Place {
    Namespace(String),
    /// Only a run resolves it, or the values are too large to keep.
    Unknown,
}

/// What the deployments of a pool mean for one claim.
#[derive(Default)]
pub(super) struct Unserved {
    /// By namespace without the Secret, the deployments that send jobs there.
    pub(super) elsewhere: BTreeMap<String, Vec<String>>,
    /// Deployments that send jobs to another cluster.
    pub(super) other_cluster: Vec<String>,
    /// Deployments whose jobs run in an unknown place.
    pub(super) unknown: Vec<String>,
    /// Deployments whose jobs do not have the entry.
    pub(super) without_entry: Vec<String>,
}

/// The jobs of the deployments that override a variable.
pub(super) fn deployment_jobs<'a>(
    template: &JobTemplate,
    deployments: Option<&'a DeploymentOverrides>,
    secrets: &BTreeSet<&str>,
    chosen: &BTreeSet<&str>,
) -> Vec<DeploymentJobs<'a>> {
    let groups = deployments.map(|deployments| &*deployments.groups);
    let defaults = template.defaults();
    let own_config = template.job(&defaults).get("cluster_config").raw();
    let mut jobs = Vec::new();
    for group in groups.unwrap_or_default() {
        let names = group.names.as_slice();
        let Some(values) = group.parsed() else {
            jobs.push(DeploymentJobs {
                names,
                place: Place::Unknown,
                overrides_cluster: false,
                without: BTreeSet::new(),
                with: BTreeSet::new(),
            });
            continue;
        };
        let Some(variables) = template.overridden(&values) else {
            continue;
        };
        let job = template.job(&variables);
        let place = match job_namespace(job) {
            JobNamespace::Fixed(namespace) => Place::Namespace(namespace),
            JobNamespace::Unknown(_) => Place::Unknown,
            JobNamespace::Invalid(_) => continue,
        };
        jobs.push(DeploymentJobs {
            names,
            place,
            // The pool's own cluster_config is judged with the pool.
            overrides_cluster: has_cluster_config(job)
                && job.get("cluster_config").raw() != own_config,
            without: missing_secrets(job, secrets),
            with: env_from_sources(job)
                .filter_map(|source| source.secret)
                .filter(|secret| chosen.contains(secret.as_str()))
                .collect(),
        });
    }
    jobs
}

fn missing_secrets(job: Job<'_>, secrets: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut missing = secrets.clone();
    for source in env_from_sources(job) {
        if let Some(secret) = &source.secret {
            missing.remove(secret.as_str());
        }
    }
    missing.into_iter().map(str::to_owned).collect()
}

impl Unserved {
    /// The deployments whose jobs run without the claim's Secret.
    pub(super) fn of(jobs: &[DeploymentJobs<'_>], claim: &Claim) -> Self {
        let mut unserved = Self::default();
        for job in jobs {
            let names = job.names.iter().cloned();
            if claim.variable.is_some() {
                // Jobs that have not chosen the Secret do without it by intention.
                if !job.with.contains(&claim.secret) {
                    continue;
                }
            } else if job.without.contains(&claim.secret) {
                unserved.without_entry.extend(names);
                continue;
            }
            match &job.place {
                _ if job.overrides_cluster => unserved.other_cluster.extend(names),
                Place::Unknown => unserved.unknown.extend(names),
                Place::Namespace(namespace) if *namespace == claim.namespace => {}
                Place::Namespace(namespace) => unserved
                    .elsewhere
                    .entry(namespace.clone())
                    .or_default()
                    .extend(names),
            }
        }
        unserved
    }

    /// What is not said by the namespaces, in clauses.
    pub(super) fn clauses(&self, pool: &str) -> Vec<String> {
        let clauses = [
            (
                &self.other_cluster,
                "send jobs to another cluster, which does not have the Secret",
            ),
            (
                &self.unknown,
                "set variables that only a run resolves, so that the operator does not know where their jobs run",
            ),
            (
                &self.without_entry,
                "override a variable of envFrom, so that their jobs do not get the Secret",
            ),
        ];
        clauses
            .into_iter()
            .filter(|(names, _)| !names.is_empty())
            .map(|(names, what)| {
                format!("deployments {} of work pool {pool} {what}", listed(names))
            })
            .collect()
    }
}

/// The first names, and how many there are beside them.
fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(MAX_NAMED)].join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

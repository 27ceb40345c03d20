//! Pure: what to do with a pool, and what to tell each claim.
//!
//! In: the pool as it was read, all claims on it, who owns it, and what this process wrote before. Out: the one new template, if any, and a finding
//! for each claim. It never talks to anything.
//!
//! Decisions that are not visible elsewhere:
//! - A pool whose jobs moved to another namespace or cluster after we wrote our entry: the entry is taken out. With `optional: true` it would be
//!   idle there, with `optional: false` it would hold up every run.
//! - An owned pool is not written at all, not even to take an entry out: its owner writes the whole template anew. What is in it counts as theirs.
//! - In mode `Observe` an entry counts as the user's, also one that we wrote before the mode was changed.
//! - Two bindings that claim one Secret: it stays as long as one of them wants it; if they differ, `optional: true` wins.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::claim::{Claim, Observation, Phase, Want};
use super::job_environment::{JobEnvironment, JobNamespace, job_namespace, targets_other_cluster};
use super::manual_patch::add_operation;
use super::pool_owner::{self, ManagedPool};
use super::template::{Edit, Entry, EntryState, NotEditable, edit, entry_states};
use crate::crd::{InjectMode, WorkPoolState as State};
use crate::prefect::DeploymentNamespaces;
use crate::reason::Reason;

/// A pool as it was read.
#[derive(Clone, Copy)]
pub struct PoolView<'a> {
    /// Its name.
    pub pool: &'a str,
    /// Its type.
    pub pool_type: &'a str,
    /// Its template.
    pub template: &'a RawValue,
    /// Namespaces to which deployments send their jobs; `None` if they may not be listed.
    pub deployments: Option<&'a DeploymentNamespaces>,
    /// Who owns it.
    pub owner: Option<&'a ManagedPool>,
}

/// What this process knows from before.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Secrets whose entry this process wrote.
    pub written: BTreeSet<String>,
    /// Whether somebody keeps changing the template back.
    pub contested: bool,
}

/// What to do and what to say.
pub struct Plan {
    /// The template to write.
    pub edit: Option<Box<RawValue>>,
    /// For each claim, in their order, what the template as it was read means for it.
    pub observations: Vec<Observation>,
    /// Secrets whose entry is in the template.
    pub present: BTreeSet<String>,
    /// Secrets whose entry is to be kept in.
    pub required: BTreeSet<String>,
}

/// Why a claim cannot be served in this pool.
struct Rejection {
    state: State,
    reason: Reason,
    message: String,
}

/// The template, read once for all claims.
struct ParsedTemplate {
    states: Result<BTreeMap<String, EntryState>, NotEditable>,
    namespace: JobNamespace,
    other_cluster: bool,
    environment: JobEnvironment,
}

impl ParsedTemplate {
    fn parse(template: &RawValue) -> Self {
        Self {
            states: entry_states(template),
            namespace: job_namespace(template),
            other_cluster: targets_other_cluster(template),
            environment: JobEnvironment::from_template(template),
        }
    }

    fn state(&self, secret: &str) -> EntryState {
        let states = self.states.as_ref().ok();
        states
            .and_then(|states| states.get(secret).copied())
            .unwrap_or(EntryState::Absent)
    }
}

fn find_rejection(
    view: &PoolView<'_>,
    parsed: &ParsedTemplate,
    claim: &Claim,
) -> Option<Rejection> {
    let pool = view.pool;
    let reject = |state, reason, message| {
        Some(Rejection {
            state,
            reason,
            message,
        })
    };
    let not_editable = |error: NotEditable| {
        let message = format!("work pool {pool} cannot take the entry: {error}");
        reject(State::NotEditable, Reason::PoolNotEditable, message)
    };
    if view.pool_type != "kubernetes" {
        return not_editable(NotEditable::NotKubernetes(view.pool_type.to_owned()));
    }
    if let Err(error) = &parsed.states {
        return not_editable(error.clone());
    }
    if parsed.other_cluster {
        return reject(
            State::OtherCluster,
            Reason::PoolOtherCluster,
            format!(
                "work pool {pool} sends its jobs to another cluster (cluster_config): run the operator there, with a binding there"
            ),
        );
    }
    let other_namespace =
        |message| reject(State::OtherNamespace, Reason::PoolOtherNamespace, message);
    let namespace = &claim.namespace;
    match &parsed.namespace {
        JobNamespace::Fixed(jobs) if jobs == namespace => {}
        JobNamespace::Fixed(jobs) => {
            return other_namespace(format!(
                "jobs of work pool {pool} run in namespace {jobs}, and the Secret is in {namespace}: put the binding into {jobs}, or set the pool's namespace to {namespace}"
            ));
        }
        JobNamespace::Unknown(text) => {
            return other_namespace(format!(
                "the namespace of work pool {pool} is `{text}`, which only a run can tell: write {namespace} there if its jobs run in that namespace"
            ));
        }
    }
    if claim.optional {
        return None;
    }
    match view.deployments {
        None => reject(
            State::Forbidden,
            Reason::PoolForbidden,
            format!(
                "deployments of work pool {pool} may not be listed, and with optional: false those with a namespace of their own would never start: give the API key's role \"View deployments\", or set optional: true"
            ),
        ),
        Some(deployments) => {
            let mut namespaces = deployments.namespaces.iter();
            if let Some((jobs, names)) = namespaces.find(|(jobs, _)| *jobs != namespace) {
                let deployment = names.first().map_or("one", String::as_str);
                return other_namespace(format!(
                    "deployment {deployment} of work pool {pool} sends its jobs to namespace {jobs}, where with optional: false they would never start: set optional: true, or give it a pool of its own"
                ));
            }
            let first = deployments.truncated_at?;
            other_namespace(format!(
                "only the first {first} deployments of work pool {pool} are looked at, and with optional: false any other with a namespace of its own would never start: set optional: true, or spread them over several pools"
            ))
        }
    }
}

/// Whether an entry of exactly our shape may be ours.
fn is_ours(claim: &Claim, history: &History) -> bool {
    history.written.contains(&claim.secret)
        || (claim.recorded && claim.reported_state != Some(State::AlreadyPresent))
}

/// What to do with a pool for all claims at once.
#[must_use]
pub fn plan(view: &PoolView<'_>, claims: &[&Claim], history: &History) -> Plan {
    let parsed = ParsedTemplate::parse(view.template);
    let rejections: Vec<_> = claims
        .iter()
        .map(|claim| find_rejection(view, &parsed, claim))
        .collect();
    let state = |claim: &Claim| parsed.state(&claim.secret);
    let mut entries: Vec<Entry> = Vec::new();
    let mut editable = BTreeSet::new();
    let mut required = BTreeSet::new();
    let mut observed = BTreeSet::new();
    for (claim, rejection) in claims.iter().zip(&rejections) {
        let owned = is_ours(claim, history);
        let writes = claim.mode == InjectMode::Patch && claim.recorded;
        match claim.want {
            Want::Present if writes && rejection.is_none() => {
                if owned || state(claim) == EntryState::Absent {
                    entries.push(Entry {
                        secret: claim.secret.clone(),
                        optional: claim.optional,
                    });
                    editable.insert(claim.secret.clone());
                }
                required.insert(claim.secret.clone());
            }
            Want::Present if !writes => {
                observed.insert(claim.secret.clone());
            }
            Want::Observe => {
                observed.insert(claim.secret.clone());
            }
            Want::Present | Want::Absent => {
                if owned {
                    editable.insert(claim.secret.clone());
                }
            }
        }
    }
    // What somebody only looks at stays as it is, unless somebody else may write it.
    editable.retain(|secret| required.contains(secret) || !observed.contains(secret));
    // Somebody wrote their own entry in another shape: ours is not needed beside it.
    entries.retain(|entry| parsed.state(&entry.secret) != EntryState::OtherShape);
    let edit = if view.owner.is_some() || editable.is_empty() || view.pool_type != "kubernetes" {
        None
    } else {
        match edit(view.template, &entries, &editable) {
            Ok(Edit::Changed(template)) => Some(template),
            Ok(Edit::Unchanged) | Err(_) => None,
        }
    };
    let present: BTreeSet<String> = claims
        .iter()
        .filter(|claim| state(claim) != EntryState::Absent)
        .map(|claim| claim.secret.clone())
        .collect();
    let keys: BTreeMap<&str, &BTreeSet<String>> = claims
        .iter()
        .map(|claim| (claim.secret.as_str(), &*claim.keys))
        .collect();
    let observations = claims
        .iter()
        .zip(rejections)
        .map(|(claim, rejection)| {
            let shared = required.contains(&claim.secret);
            let mut observation =
                observe_claim(view, claim, rejection, history, state(claim), shared);
            if claim.want != Want::Absent {
                add_shadows(view, &parsed, claim, &keys, &mut observation);
            }
            observation
        })
        .collect();
    Plan {
        edit,
        observations,
        present,
        required,
    }
}

fn observe_claim(
    view: &PoolView<'_>,
    claim: &Claim,
    rejection: Option<Rejection>,
    history: &History,
    entry: EntryState,
    shared: bool,
) -> Observation {
    let (pool, secret) = (view.pool, &claim.secret);
    let exact = matches!(entry, EntryState::Exact { .. });
    let ours = exact && is_ours(claim, history) && view.owner.is_none();
    if claim.want == Want::Absent {
        return if ours && !shared {
            let message =
                format!("the entry of Secret {secret} is to be taken out of work pool {pool}");
            Observation::new(Phase::InProgress, None, Reason::Pending, message)
        } else {
            let message = format!("work pool {pool} carries no entry of ours for Secret {secret}");
            Observation::new(Phase::Removed, None, Reason::PoolReleased, message)
        };
    }
    if let Some(Rejection {
        state,
        reason,
        message,
    }) = rejection
    {
        return Observation::new(Phase::Skipped, Some(state), reason, message);
    }
    let writes = claim.mode == InjectMode::Patch && view.owner.is_none();
    if entry != EntryState::Absent {
        if ours && writes && history.contested {
            return contested_observation(pool, secret, Phase::Injected);
        }
        let state = if ours && writes {
            State::Patched
        } else {
            State::AlreadyPresent
        };
        let message = format!("work pool {pool} carries Secret {secret}");
        return Observation::new(Phase::Injected, Some(state), Reason::Injected, message);
    }
    let wanted = Entry {
        secret: secret.clone(),
        optional: claim.optional,
    };
    match view.owner {
        Some(owner) => Observation::new(
            Phase::Skipped,
            Some(State::Managed),
            Reason::PoolManaged,
            pool_owner::owner_message(owner, pool, &wanted, view.template),
        ),
        None if claim.mode == InjectMode::Observe => Observation::new(
            Phase::Skipped,
            Some(State::Absent),
            Reason::PoolEntryAbsent,
            format!(
                "work pool {pool} does not carry Secret {secret}, and mode Observe never writes: apply this JSON patch where its template is kept: {}",
                add_operation(&wanted, Some(view.template))
            ),
        ),
        None if history.contested => contested_observation(pool, secret, Phase::InProgress),
        None if claim.want == Want::Present && claim.recorded => Observation::new(
            Phase::InProgress,
            None,
            Reason::Pending,
            format!("the entry of Secret {secret} is to be put into work pool {pool}"),
        ),
        None => Observation::new(
            Phase::Injectable,
            None,
            Reason::Pending,
            format!("work pool {pool} can take the entry of Secret {secret}"),
        ),
    }
}

fn contested_observation(pool: &str, secret: &str, phase: Phase) -> Observation {
    let message = format!(
        "somebody keeps taking the entry of Secret {secret} out of work pool {pool}: find who writes its template, let them add the entry, and set mode: Observe"
    );
    Observation::new(
        phase,
        Some(State::Contested),
        Reason::PoolContested,
        message,
    )
}

fn add_shadows(
    view: &PoolView<'_>,
    parsed: &ParsedTemplate,
    claim: &Claim,
    keys: &BTreeMap<&str, &BTreeSet<String>>,
    observation: &mut Observation,
) {
    let mut shadows = parsed.environment.shadows(&claim.keys, &claim.secret);
    let mut shadowed: BTreeSet<String> = shadows.keys.into_iter().collect();
    // The keys of our other Secrets are known, if they are Secrets of this namespace.
    shadows.later_sources.retain(|source| {
        let Some(theirs) = source
            .strip_prefix("Secret ")
            .and_then(|name| keys.get(name))
        else {
            return true;
        };
        shadowed.extend(claim.keys.intersection(theirs).cloned());
        false
    });
    observation.shadowed_keys = shadowed.into_iter().collect();
    observation.later_sources = shadows.later_sources;
    observation.unserved_namespaces = view
        .deployments
        .into_iter()
        .flat_map(|deployments| deployments.namespaces.keys())
        .filter(|namespace| **namespace != claim.namespace)
        .cloned()
        .collect();
    observation.unchecked_deployments = describe_unchecked(view);
}

/// What is not known of the pool's deployments, if anything.
fn describe_unchecked(view: &PoolView<'_>) -> Option<String> {
    let pool = view.pool;
    match view.deployments {
        None => Some(format!(
            "whether deployments of work pool {pool} send jobs to other namespaces is not known, since the credentials may not list them (\"View deployments\")"
        )),
        Some(deployments) => deployments.truncated_at.map(|first| {
            format!("of the deployments of work pool {pool} only the first {first} were looked at")
        }),
    }
}

#[cfg(test)]
mod tests;

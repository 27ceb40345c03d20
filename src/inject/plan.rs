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

use super::claim::{Claim, Finding, Phase, Want};
use super::job_environment::{Environment, JobNamespace, job_namespace, other_cluster};
use super::manual_patch::operation;
use super::pool_owner::{self, ManagedPool};
use super::template::{Edit, Entry, EntryState, NotEditable, edit, entry_states};
use crate::crd::{InjectMode, WorkPoolState as State};
use crate::prefect::Elsewhere;
use crate::reason::Reason;

/// A pool as it was read.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Its name.
    pub pool: &'a str,
    /// Its type.
    pub pool_type: &'a str,
    /// Its template.
    pub template: &'a RawValue,
    /// Namespaces to which deployments send their jobs; `None` if they may not be listed.
    pub elsewhere: Option<&'a Elsewhere>,
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
    pub findings: Vec<Finding>,
    /// Secrets whose entry is in the template.
    pub present: BTreeSet<String>,
    /// Secrets whose entry is to be kept in.
    pub kept: BTreeSet<String>,
}

/// Why a claim cannot be served in this pool.
struct Obstacle {
    state: State,
    reason: Reason,
    message: String,
}

/// The template, read once for all claims.
struct Read {
    states: Result<BTreeMap<String, EntryState>, NotEditable>,
    namespace: JobNamespace,
    other_cluster: bool,
    environment: Environment,
}

impl Read {
    fn of(template: &RawValue) -> Self {
        Self {
            states: entry_states(template),
            namespace: job_namespace(template),
            other_cluster: other_cluster(template),
            environment: Environment::of(template),
        }
    }

    fn state(&self, secret: &str) -> EntryState {
        let states = self.states.as_ref().ok();
        states
            .and_then(|states| states.get(secret).copied())
            .unwrap_or(EntryState::Absent)
    }
}

fn obstacle(view: &View<'_>, read: &Read, claim: &Claim) -> Option<Obstacle> {
    let pool = view.pool;
    let found = |state, reason, message| {
        Some(Obstacle {
            state,
            reason,
            message,
        })
    };
    let not_editable = |error: NotEditable| {
        let message = format!("work pool {pool} cannot take the entry: {error}");
        found(State::NotEditable, Reason::PoolNotEditable, message)
    };
    if view.pool_type != "kubernetes" {
        return not_editable(NotEditable::NotKubernetes(view.pool_type.to_owned()));
    }
    if let Err(error) = &read.states {
        return not_editable(error.clone());
    }
    if read.other_cluster {
        return found(
            State::OtherCluster,
            Reason::PoolOtherCluster,
            format!(
                "work pool {pool} sends its jobs to another cluster (cluster_config): run the operator there, with a binding there"
            ),
        );
    }
    let other = |message| found(State::OtherNamespace, Reason::PoolOtherNamespace, message);
    let namespace = &claim.namespace;
    match &read.namespace {
        JobNamespace::Fixed(jobs) if jobs == namespace => {}
        JobNamespace::Fixed(jobs) => {
            return other(format!(
                "jobs of work pool {pool} run in namespace {jobs}, and the Secret is in {namespace}: put the binding into {jobs}, or set the pool's namespace to {namespace}"
            ));
        }
        JobNamespace::Unknown(text) => {
            return other(format!(
                "the namespace of work pool {pool} is `{text}`, which only a run can tell: write {namespace} there if its jobs run in that namespace"
            ));
        }
    }
    if claim.optional {
        return None;
    }
    match view.elsewhere {
        None => found(
            State::Forbidden,
            Reason::PoolForbidden,
            format!(
                "deployments of work pool {pool} may not be listed, and with optional: false those with a namespace of their own would never start: give the API key's role \"View deployments\", or set optional: true"
            ),
        ),
        Some(elsewhere) => {
            let mut namespaces = elsewhere.namespaces.iter();
            if let Some((jobs, names)) = namespaces.find(|(jobs, _)| *jobs != namespace) {
                let deployment = names.first().map_or("one", String::as_str);
                return other(format!(
                    "deployment {deployment} of work pool {pool} sends its jobs to namespace {jobs}, where with optional: false they would never start: set optional: true, or give it a pool of its own"
                ));
            }
            let first = elsewhere.only_first?;
            other(format!(
                "only the first {first} deployments of work pool {pool} are looked at, and with optional: false any other with a namespace of its own would never start: set optional: true, or spread them over several pools"
            ))
        }
    }
}

/// Whether an entry of exactly our shape may be ours.
fn ours(claim: &Claim, history: &History) -> bool {
    history.written.contains(&claim.secret)
        || (claim.noted && claim.known != Some(State::AlreadyPresent))
}

/// What to do with a pool for all claims at once.
#[must_use]
pub fn plan(view: &View<'_>, claims: &[&Claim], history: &History) -> Plan {
    let read = Read::of(view.template);
    let obstacles: Vec<_> = claims
        .iter()
        .map(|claim| obstacle(view, &read, claim))
        .collect();
    let state = |claim: &Claim| read.state(&claim.secret);
    let mut entries: Vec<Entry> = Vec::new();
    let mut touch = BTreeSet::new();
    let mut kept = BTreeSet::new();
    let mut held = BTreeSet::new();
    for (claim, obstacle) in claims.iter().zip(&obstacles) {
        let mine = ours(claim, history);
        let writes = claim.mode == InjectMode::Patch && claim.noted;
        match claim.want {
            Want::Present if writes && obstacle.is_none() => {
                if mine || state(claim) == EntryState::Absent {
                    entries.push(Entry {
                        secret: claim.secret.clone(),
                        optional: claim.optional,
                    });
                    touch.insert(claim.secret.clone());
                }
                kept.insert(claim.secret.clone());
            }
            Want::Present if !writes => {
                held.insert(claim.secret.clone());
            }
            Want::Look => {
                held.insert(claim.secret.clone());
            }
            Want::Present | Want::Absent => {
                if mine {
                    touch.insert(claim.secret.clone());
                }
            }
        }
    }
    // What somebody only looks at stays as it is, unless somebody else may write it.
    touch.retain(|secret| kept.contains(secret) || !held.contains(secret));
    // Somebody wrote their own entry in another shape: ours is not needed beside it.
    entries.retain(|entry| read.state(&entry.secret) != EntryState::Otherwise);
    let edit = if view.owner.is_some() || touch.is_empty() || view.pool_type != "kubernetes" {
        None
    } else {
        match edit(view.template, &entries, &touch) {
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
    let findings = claims
        .iter()
        .zip(obstacles)
        .map(|(claim, obstacle)| {
            let shared = kept.contains(&claim.secret);
            let mut finding = finding(view, claim, obstacle, history, state(claim), shared);
            if claim.want != Want::Absent {
                shadows(view, &read, claim, &keys, &mut finding);
            }
            finding
        })
        .collect();
    Plan {
        edit,
        findings,
        present,
        kept,
    }
}

fn finding(
    view: &View<'_>,
    claim: &Claim,
    obstacle: Option<Obstacle>,
    history: &History,
    entry: EntryState,
    shared: bool,
) -> Finding {
    let (pool, secret) = (view.pool, &claim.secret);
    let exact = matches!(entry, EntryState::Exact { .. });
    let mine = exact && ours(claim, history) && view.owner.is_none();
    if claim.want == Want::Absent {
        return if mine && !shared {
            let message =
                format!("the entry of Secret {secret} is to be taken out of work pool {pool}");
            Finding::new(Phase::Underway, None, Reason::Pending, message)
        } else {
            let message = format!("work pool {pool} carries no entry of ours for Secret {secret}");
            Finding::new(Phase::Out, None, Reason::PoolReleased, message)
        };
    }
    if let Some(Obstacle {
        state,
        reason,
        message,
    }) = obstacle
    {
        return Finding::new(Phase::LeftAlone, Some(state), reason, message);
    }
    let writes = claim.mode == InjectMode::Patch && view.owner.is_none();
    if entry != EntryState::Absent {
        if mine && writes && history.contested {
            return contested(pool, secret, Phase::Held);
        }
        let state = if mine && writes {
            State::Patched
        } else {
            State::AlreadyPresent
        };
        let message = format!("work pool {pool} carries Secret {secret}");
        return Finding::new(Phase::Held, Some(state), Reason::Injected, message);
    }
    let wanted = Entry {
        secret: secret.clone(),
        optional: claim.optional,
    };
    match view.owner {
        Some(owner) => Finding::new(
            Phase::LeftAlone,
            Some(State::Managed),
            Reason::PoolManaged,
            pool_owner::message(owner, pool, &wanted, view.template),
        ),
        None if claim.mode == InjectMode::Observe => Finding::new(
            Phase::LeftAlone,
            Some(State::Absent),
            Reason::PoolEntryAbsent,
            format!(
                "work pool {pool} does not carry Secret {secret}, and mode Observe never writes: apply this JSON patch where its template is kept: {}",
                operation(&wanted, Some(view.template))
            ),
        ),
        None if history.contested => contested(pool, secret, Phase::Underway),
        None if claim.want == Want::Present && claim.noted => Finding::new(
            Phase::Underway,
            None,
            Reason::Pending,
            format!("the entry of Secret {secret} is to be put into work pool {pool}"),
        ),
        None => Finding::new(
            Phase::Wanted,
            None,
            Reason::Pending,
            format!("work pool {pool} can take the entry of Secret {secret}"),
        ),
    }
}

fn contested(pool: &str, secret: &str, phase: Phase) -> Finding {
    let message = format!(
        "somebody keeps taking the entry of Secret {secret} out of work pool {pool}: find who writes its template, let them add the entry, and set mode: Observe"
    );
    Finding::new(
        phase,
        Some(State::Contested),
        Reason::PoolContested,
        message,
    )
}

fn shadows(
    view: &View<'_>,
    read: &Read,
    claim: &Claim,
    keys: &BTreeMap<&str, &BTreeSet<String>>,
    finding: &mut Finding,
) {
    let mut shadows = read.environment.shadows(&claim.keys, &claim.secret);
    let mut shadowed: BTreeSet<String> = shadows.keys.into_iter().collect();
    // The keys of our other Secrets are known, if they are Secrets of this namespace.
    shadows.later.retain(|source| {
        let Some(theirs) = source
            .strip_prefix("Secret ")
            .and_then(|name| keys.get(name))
        else {
            return true;
        };
        shadowed.extend(claim.keys.intersection(theirs).cloned());
        false
    });
    finding.shadowed_keys = shadowed.into_iter().collect();
    finding.later_sources = shadows.later;
    finding.unserved_namespaces = view
        .elsewhere
        .into_iter()
        .flat_map(|elsewhere| elsewhere.namespaces.keys())
        .filter(|namespace| **namespace != claim.namespace)
        .cloned()
        .collect();
    finding.overlooked = overlooked(view);
}

/// What is not known of the pool's deployments, if anything.
fn overlooked(view: &View<'_>) -> Option<String> {
    let pool = view.pool;
    match view.elsewhere {
        None => Some(format!(
            "whether deployments of work pool {pool} send jobs to other namespaces is not known, since the credentials may not list them (\"View deployments\")"
        )),
        Some(elsewhere) => elsewhere.only_first.map(|first| {
            format!("of the deployments of work pool {pool} only the first {first} were looked at")
        }),
    }
}

#[cfg(test)]
mod tests;

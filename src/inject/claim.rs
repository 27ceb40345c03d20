//! A binding's claim on a work pool, and the answer to it.
//!
//! Input: none.
//! Output: [`Claim`] and [`Observation`], the plain values that the controller and the pools
//! exchange.
//! Invariants: both hold names of keys, never values.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::template::{Entry, EntryKey};
use crate::crd::{InjectMode, MountSpec, WorkPoolState};
use crate::reason::Reason;

/// What a binding wants of its entry in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Read the pool and do not write it: the entry is not recorded yet, or has no finalizer.
    Observe,
    /// Keep the entry in the pool. Acts as `Observe` until the entry is recorded.
    Present,
    /// Remove the entry from the pool.
    Absent,
}

/// Whether a variable or a mount that is not recorded may be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// It is not.
    None,
    /// Another entry for the Secret is recorded in this pool. An older version of the operator
    /// records neither a variable nor a mount, so one of exactly our shape is ours.
    OfOurShape,
}

/// What happens to a name in the list of a variable that no binding wants there any more, while
/// deployments choose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsedName {
    /// It stays until no deployment chooses it.
    Stays,
    /// It goes.
    Goes,
}

/// What a binding wants of a pool for one Secret.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Namespace of binding and Secret.
    pub namespace: String,
    /// Name of the binding.
    pub binding: String,
    /// Name of the Secret.
    pub secret: String,
    /// The variable of the pool by which runs choose the Secret. None if all runs get it.
    pub variable: Option<String>,
    /// Where the files beside the Secret are to be mounted. None for the entry of the Secret itself. The
    /// path of a claim that wants the mount absent does not count.
    pub mount: Option<MountSpec>,
    /// The entry's `optional`.
    pub optional: bool,
    /// Whether the pool's `cluster_config` names this cluster.
    pub same_cluster: bool,
    /// Whether the operator may write the pool.
    pub mode: InjectMode,
    /// Names of the Secret's keys.
    pub keys: Arc<BTreeSet<String>>,
    /// The wanted entry.
    pub want: Want,
    /// Whether the entry is recorded for the binding, where its author cannot write. Then an entry
    /// of exactly our shape is ours.
    pub recorded: bool,
    /// Whether a variable or a mount that is not recorded may be ours.
    pub adoption: Adoption,
    /// What happens to the name of the Secret while deployments choose it.
    pub used_name: UsedName,
    /// How often the pool is read.
    pub interval: Duration,
}

impl Claim {
    /// What identifies its entry in the template.
    #[must_use]
    pub fn key(&self) -> EntryKey {
        EntryKey {
            secret: self.secret.clone(),
            variable: self.variable.clone(),
            mount: self.mount.is_some(),
        }
    }

    /// Its entry.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry {
            secret: self.secret.clone(),
            optional: self.optional,
            variable: self.variable.clone(),
            mount: self.mount.clone(),
        }
    }

    /// Whether both claims request the same.
    #[must_use]
    pub fn same_request(&self, other: &Self) -> bool {
        self.namespace == other.namespace
            && self.secret == other.secret
            && self.binding == other.binding
            && self.variable == other.variable
            && self.mount == other.mount
            && self.adoption == other.adoption
            && self.used_name == other.used_name
            && self.optional == other.optional
            && self.same_cluster == other.same_cluster
            && self.mode == other.mode
            && self.keys == other.keys
            && self.want == other.want
            && self.recorded == other.recorded
            && self.interval == other.interval
    }
}

/// How far a claim has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The pool has not been read for this claim.
    Unknown,
    /// The pool can take the entry: record it, write the Secret, then claim `Present`.
    Injectable,
    /// The pool has the entry.
    Injected,
    /// The pool has no entry of this operator for the Secret.
    Removed,
    /// The operator does not write the pool.
    Skipped,
    /// The operator has yet to add or remove the entry.
    InProgress,
}

/// What the operator observed for one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// How far the claim has come.
    pub phase: Phase,
    /// The pool's state in the binding's status.
    pub state: Option<WorkPoolState>,
    /// The reason of the condition.
    pub reason: Reason,
    /// One sentence: what happened, and what to do.
    pub message: String,
    /// Keys that the pool's own `env`, or a later entry of another binding, overrides.
    pub shadowed_keys: Vec<String>,
    /// Later `envFrom` sources of others. They win, and their keys are unknown.
    pub later_sources: Vec<String>,
    /// Namespaces without the Secret to which deployments send jobs.
    pub unserved_namespaces: Vec<String>,
    /// Deployments that choose the Secret.
    pub used_by: Vec<String>,
    /// What is unknown about the pool's deployments, in one clause.
    pub unchecked_deployments: Option<String>,
    /// The first of the failures in a row.
    pub failing_since: Option<Instant>,
    /// The last action for this claim, with a growing number: `PoolPatched` or `PoolReleased`.
    pub event: Option<(u64, Reason)>,
}

impl Observation {
    pub(super) fn new(
        phase: Phase,
        state: Option<WorkPoolState>,
        reason: Reason,
        message: String,
    ) -> Self {
        Self {
            phase,
            state,
            reason,
            message,
            shadowed_keys: Vec::new(),
            later_sources: Vec::new(),
            unserved_namespaces: Vec::new(),
            used_by: Vec::new(),
            unchecked_deployments: None,
            failing_since: None,
            event: None,
        }
    }
}

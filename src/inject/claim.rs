//! What a binding asks of a pool, and what it is told.
//!
//! In: nothing. Out: [`Claim`] and [`Observation`], plain values between the controller and the pools. They hold names of keys, never values.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crd::{InjectMode, WorkPoolState};
use crate::reason::Reason;

/// What a binding asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Only look: the entry is not noted at the binding yet, or the binding is suspended.
    Observe,
    /// Keep the entry in. Counts as `Observe` until the entry is noted.
    Present,
    /// Take the entry out.
    Absent,
}

/// What a binding asks of a pool for one Secret.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Namespace of binding and Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// The entry's `optional`.
    pub optional: bool,
    /// Whether the pool may be written.
    pub mode: InjectMode,
    /// Names of the Secret's keys.
    pub keys: Arc<BTreeSet<String>>,
    /// What is wanted.
    pub want: Want,
    /// Whether the binding's annotation and finalizer note the entry.
    pub recorded: bool,
    /// What the status last said, to tell our entry from a user's after a restart. Read when the claim is new; changes of it count for nothing.
    pub reported_state: Option<WorkPoolState>,
    /// How often the pool is looked at.
    pub interval: Duration,
}

impl Claim {
    /// Whether the other asks for the same.
    #[must_use]
    pub fn same_request(&self, other: &Self) -> bool {
        self.namespace == other.namespace
            && self.secret == other.secret
            && self.optional == other.optional
            && self.mode == other.mode
            && self.keys == other.keys
            && self.want == other.want
            && self.recorded == other.recorded
            && self.interval == other.interval
    }
}

/// How far a claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not known yet.
    Unknown,
    /// The entry could go in: note it, write the Secret, then claim `Present`.
    Injectable,
    /// The entry is in.
    Injected,
    /// No entry of ours is in.
    Removed,
    /// The pool is left alone.
    Skipped,
    /// The entry is to be put in or taken out, and is not yet.
    InProgress,
}

/// What was found, for one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// How far the claim is.
    pub phase: Phase,
    /// For the status.
    pub state: Option<WorkPoolState>,
    /// The word.
    pub reason: Reason,
    /// One sentence: what is, and what to do.
    pub message: String,
    /// Keys that the pool's own `env`, or a later entry of another binding, overrides.
    pub shadowed_keys: Vec<String>,
    /// Later `envFrom` sources of others, whose keys are not known and win.
    pub later_sources: Vec<String>,
    /// Namespaces to which deployments send jobs, where the Secret is not.
    pub unserved_namespaces: Vec<String>,
    /// What is not known of the pool's deployments, in one clause.
    pub unchecked_deployments: Option<String>,
    /// Since when looks have failed.
    pub failing_since: Option<Instant>,
    /// The last thing that was done for this claim, with a number that grows: `PoolPatched` or `PoolReleased`.
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
            unchecked_deployments: None,
            failing_since: None,
            event: None,
        }
    }
}

//! What a binding asks of a pool, and what it is told.
//!
//! In: nothing. Out: [`Claim`] and [`Finding`], plain values between the controller and the pools. They hold names of keys, never values.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crd::{InjectMode, WorkPoolState};
use crate::reason::Reason;

/// What a binding asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Only look: the entry is not noted at the binding yet, or the binding is suspended.
    Look,
    /// Keep the entry in. Counts as `Look` until the entry is noted.
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
    pub noted: bool,
    /// What the status last said, to tell our entry from a user's after a restart. Read when the claim is new; changes of it count for nothing.
    pub known: Option<WorkPoolState>,
    /// How often the pool is looked at.
    pub interval: Duration,
}

impl Claim {
    /// Whether the other asks for the same.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.namespace == other.namespace
            && self.secret == other.secret
            && self.optional == other.optional
            && self.mode == other.mode
            && self.keys == other.keys
            && self.want == other.want
            && self.noted == other.noted
            && self.interval == other.interval
    }
}

/// How far a claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not known yet.
    Unknown,
    /// The entry could go in: note it, write the Secret, then claim `Present`.
    Wanted,
    /// The entry is in.
    Held,
    /// No entry of ours is in.
    Out,
    /// The pool is left alone.
    LeftAlone,
    /// The entry is to be put in or taken out, and is not yet.
    Underway,
}

/// What was found, for one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
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
    pub overlooked: Option<String>,
    /// Since when looks have failed.
    pub failing_since: Option<Instant>,
    /// The last thing that was done for this claim, with a number that grows: `PoolPatched` or `PoolReleased`.
    pub event: Option<(u64, Reason)>,
}

impl Finding {
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
            overlooked: None,
            failing_since: None,
            event: None,
        }
    }
}

//! The claims on a pool at the start of a reconcile.
//!
//! Input: the registry's records.
//! Output: [`PoolSnapshot`].
//! Invariants: pure; a later change of a claim does not show here.

use std::time::Duration;

use crate::crd::BindingRef;
use crate::inject::claim::{Claim, Observation, Want};
use crate::inject::pool_owner::ManagedPool;

/// One claim at the start of a reconcile.
pub(super) struct ClaimSnapshot {
    pub(super) key: BindingRef,
    pub(super) revision: u64,
    pub(super) claim: Claim,
    pub(super) last_observation: Option<Observation>,
}

/// The claims on a pool at the start of a reconcile.
pub(super) struct PoolSnapshot {
    pub(super) claims: Vec<ClaimSnapshot>,
    /// The claims on the same pool over other connections, with other credentials.
    pub(super) elsewhere: Vec<Claim>,
    /// Grows when a claim is added, removed, or wants something else.
    pub(super) version: u64,
    pub(super) owner: Option<ManagedPool>,
    /// The shortest interval of the claims.
    pub(super) interval: Duration,
}

impl PoolSnapshot {
    /// Whether a name waits until no deployment chooses it. No notification says so.
    pub(super) fn waits_for_deployments(&self) -> bool {
        let mut claims = self.claims.iter().map(|item| &item.claim);
        claims.any(|claim| claim.want == Want::Absent && claim.variable.is_some())
    }
}

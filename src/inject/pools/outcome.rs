//! What a reconcile of a pool means for each of its claims.
//!
//! Input: the claims at its start, and its result.
//! Output: an observation for each claim, and what was done for it.
//! Invariants: pure.

use std::time::{Duration, Instant};

use super::failure::observe_failure;
use super::reconcile::{ReconcileError, Reconciled, action_for};
use super::snapshot::{ClaimSnapshot, PoolSnapshot};
use crate::inject::claim::Observation;
use crate::prefect::PrefectError;
use crate::reason::Reason;

/// The result of a reconcile, by claim.
pub(super) struct PoolOutcome {
    /// For each claim, in their order, its observation and what was done for it.
    pub(super) claims: Vec<(Observation, Option<Reason>)>,
    /// When the reconcile ended.
    pub(super) at: Instant,
    /// When the pool was read, if it was: what was seen is no older.
    pub(super) read_at: Option<Instant>,
    /// After which time the next reconcile is due.
    pub(super) interval: Duration,
    /// Whether the server said that there is no such pool.
    pub(super) is_missing: bool,
}

impl PoolOutcome {
    pub(super) fn of(
        snapshot: &PoolSnapshot,
        result: Result<Reconciled, ReconcileError>,
        at: Instant,
        interval: Duration,
    ) -> Self {
        let missing =
            |failed: &ReconcileError| matches!(failed.error, PrefectError::PoolMissing { .. });
        let is_missing = result.as_ref().is_err_and(missing);
        let read_at = result.as_ref().ok().map(|reconciled| reconciled.read_at);
        let items = snapshot.claims.iter();
        let claims = match result {
            Ok(Reconciled {
                observations,
                actions,
                ..
            }) => observations
                .into_iter()
                .zip(items)
                .map(|(observation, item)| (observation, action_for(&item.claim, &actions)))
                .collect(),
            Err(ReconcileError { error, planned }) => {
                let planned = |index: usize| planned.as_ref()?.get(index);
                let failed = |(index, item): (usize, &ClaimSnapshot)| {
                    let last = item.last_observation.as_ref();
                    let observation =
                        observe_failure(&error, &item.claim, last, planned(index), at);
                    (observation, None)
                };
                items.enumerate().map(failed).collect()
            }
        };
        Self {
            claims,
            at,
            read_at,
            interval,
            is_missing,
        }
    }
}

//! When the controller reconciles a binding again, if nothing happens before.
//!
//! Input: the waits that the steps of a reconcile ask for.
//! Output: the shortest of them, for the work queue.
//! Invariants: without a wait, only an event or a changed source enqueues the binding.

use std::time::Duration;

/// The shortest wait of a reconcile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requeue(Option<Duration>);

impl Requeue {
    /// Reconciles the binding again after `wait`, unless a shorter wait is set.
    pub fn after(&mut self, wait: impl Into<Option<Duration>>) {
        self.0 = soonest(self.0, wait.into());
    }

    /// The shortest wait.
    #[must_use]
    pub const fn wait(self) -> Option<Duration> {
        self.0
    }
}

fn soonest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

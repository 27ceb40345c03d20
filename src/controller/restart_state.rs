//! What is known of the workloads that restart with a Secret, between two reconciles.
//!
//! Input: what the last look at them came to.
//! Output: whether to look again, and the condition until then.
//! Invariants: data only. It may be lost at any time.

use tokio::time::Instant;

use crate::status::ConditionUpdate;

/// What is known of the workloads of a binding.
#[derive(Clone, Debug)]
pub struct RestartState {
    /// The content that their pods should have.
    pub hash: String,
    /// Generation of the binding.
    pub generation: Option<i64>,
    /// The condition `Restarted`.
    pub condition: ConditionUpdate,
    /// When to look again. None: at the next change.
    pub retry_at: Option<Instant>,
}

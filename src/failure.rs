//! Why a step of a reconcile or a read of an upstream failed.
//!
//! Input: a reason of the closed list, one sentence for the user, and the wait that the other side
//! asks for. Output: [`Failure`], which becomes a condition in one place. Invariants: the message
//! never holds a value, a token or the body of a response.

use std::{fmt, time::Duration};

use crate::reason::Reason;

/// What failed, in a form that may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason, whose class decides the retry.
    pub reason: Reason,
    /// One sentence: what failed, which object, what to do.
    pub message: String,
    /// How long the other side asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure whose retry depends on its reason alone.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_after: None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

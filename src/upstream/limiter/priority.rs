//! How urgent a request is.
//!
//! Input: what a caller is about to read.
//! Output: [`ReadRequest`], a priority with the trigger that raises it while the request is queued.
//! Invariants: a trigger never lowers a priority.

use std::time::Duration;

use crate::upstream::trigger::Trigger;

/// How urgent a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A first read: a binding has no value yet.
    Initial,
    /// A caller waits for the answer: a change was reported, or something is to be written.
    Interactive,
    /// A poll.
    Poll,
    /// A request that is only worth sending if there is room.
    Background,
}

impl Priority {
    /// How many priorities there are.
    pub(super) const COUNT: usize = 4;

    /// Whether a caller waits for the answer.
    pub(super) const fn is_interactive(self) -> bool {
        matches!(self, Self::Initial | Self::Interactive)
    }
}

/// A read that is about to be requested. Its trigger makes it interactive while it is queued.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// How urgent it is.
    pub priority: Priority,
    /// Fires when the value has changed meanwhile.
    pub trigger: Trigger,
    /// The poll interval of the value. Zero for a request that is no poll.
    pub interval: Duration,
}

impl ReadRequest {
    /// An interactive request whose trigger never fires.
    #[must_use]
    pub fn interactive() -> Self {
        Self::with_priority(Priority::Interactive)
    }

    /// A request of this priority whose trigger never fires.
    #[must_use]
    pub fn with_priority(priority: Priority) -> Self {
        Self {
            priority,
            trigger: Trigger::default(),
            interval: Duration::ZERO,
        }
    }
}

//! The state that all requests and the test share.
//!
//! Input: a thread that needs the state. Output: the locked state.
//! Invariants: a panic of one thread does not poison the state for the others.

use parking_lot::{Mutex, MutexGuard};

use super::state::State;

/// The shared state.
pub(super) struct Shared {
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::new()),
        }
    }

    /// Locks the state.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

//! One file descriptor in reserve, so that a port accepts connections when all others are in use.
//!
//! Input: none. Output: a descriptor that is free for the next connection.
//! Invariants: at most one descriptor is held. It is taken again once the connection that used it has
//! ended.

use std::{fs::File, sync::Arc};

use parking_lot::Mutex;

/// Any file that always opens.
const PATH: &str = "/dev/null";

/// The descriptor in reserve. Copies share it.
#[derive(Clone, Debug)]
pub struct SpareDescriptor(Arc<Mutex<Option<File>>>);

impl SpareDescriptor {
    /// Takes a descriptor, if one is free.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(File::open(PATH).ok())))
    }

    /// Frees the descriptor. False if it is in use.
    #[must_use]
    pub fn release(&self) -> bool {
        self.0.lock().take().is_some()
    }

    /// Takes a descriptor again, if one is free.
    pub fn refill(&self) {
        let mut spare = self.0.lock();
        if spare.is_none() {
            *spare = File::open(PATH).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_released_once_until_it_is_refilled() {
        let spare = SpareDescriptor::new();
        assert!(spare.release());
        assert!(!spare.release());
        spare.refill();
        assert!(spare.clone().release());
    }
}

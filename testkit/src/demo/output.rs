//! The output of the demo, on standard output.
//!
//! Input: steps, and lines of other programs. Output: a line for each step with the time since the
//! start, and quoted lines indented below it.
//! Invariants: a closed standard output is not an error.

use std::time::Instant;

use crate::progress::output;

/// The output of one demo.
pub(super) struct Output {
    started_at: Instant,
}

impl Output {
    pub(super) fn new() -> Self {
        Self {
            started_at: Instant::now(),
        }
    }

    /// Writes a step.
    pub(super) fn step(&self, text: &str) {
        let seconds = self.started_at.elapsed().as_secs_f64();
        output(&format!("[{seconds:6.1} s] {text}"));
    }

    /// Writes a line of another program.
    #[allow(clippy::unused_self)] // A quote belongs to the steps of this output.
    pub(super) fn quote(&self, line: &str) {
        output(&format!("             {line}"));
    }
}

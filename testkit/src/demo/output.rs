//! How the demo speaks: on standard output, a line for each step with the time since the start, and what others said
//! indented below it.
//!
//! Never: a panic when nobody reads any more.

use std::io::Write;
use std::time::Instant;

/// Who tells the story.
pub(super) struct Output {
    started_at: Instant,
}

impl Output {
    pub(super) fn new() -> Self {
        Self {
            started_at: Instant::now(),
        }
    }

    /// A step of the story.
    pub(super) fn step(&self, text: &str) {
        let seconds = self.started_at.elapsed().as_secs_f64();
        write(&format!("[{seconds:6.1} s] {text}"));
    }

    /// What somebody else said.
    #[allow(clippy::unused_self)] // Whoever quotes is telling.
    pub(super) fn quote(&self, line: &str) {
        write(&format!("             {line}"));
    }
}

fn write(line: &str) {
    let line = format!("{line}\n");
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes());
    let _ = out.flush();
}

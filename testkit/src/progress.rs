//! Progress of long steps, on standard error.
//!
//! Input: what a step does, and how far it is. Output: on a terminal a bar or a spinner for each
//! step; elsewhere a line when a step starts, every 15 s while it runs, and when it ends.
//! Invariants: libtest does not capture the output, so that a long build is visible. No test relies
//! on the output. A closed standard error is not an error.
//!
//! Reading order: `heartbeat` writes the lines of a step, `bars` draws the bars.

mod bars;
mod heartbeat;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

pub use bars::enable_bars;
use bars::{Bar, suspended};
use heartbeat::Heartbeat;

const REPORT_INTERVAL: Duration = Duration::from_secs(15);

/// Writes one line to standard error. libtest does not capture it.
pub fn line(text: &str) {
    // One write, so that the lines of parallel tests do not mix.
    let line = format!("testkit: {text}\n");
    suspended(|| {
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    });
}

/// Writes one line to standard output, above the bars.
pub fn output(text: &str) {
    let line = format!("{text}\n");
    suspended(|| {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line.as_bytes());
        let _ = out.flush();
    });
}

/// A long step. It ends when it is finished or dropped.
#[derive(Debug)]
pub struct Step {
    what: String,
    started_at: Instant,
    /// True: the caller reports the start and the end of the step itself.
    quiet: bool,
    /// None once the step has ended.
    display: Option<Display>,
}

#[derive(Debug)]
enum Display {
    Bar(Bar),
    Lines(Heartbeat),
}

impl Step {
    /// Starts a step, and reports its start and its end.
    #[must_use]
    pub fn start(what: &str) -> Self {
        Self::start_with(what, None, false)
    }

    /// Starts a step whose start and end the caller reports.
    #[must_use]
    pub fn start_quietly(what: &str) -> Self {
        Self::start_with(what, None, true)
    }

    /// Starts a step with a known number of parts. The caller reports its start and its end.
    #[must_use]
    pub fn counted(what: &str, total: usize) -> Self {
        Self::start_with(what, Some(total), true)
    }

    fn start_with(what: &str, total: Option<usize>, quiet: bool) -> Self {
        if let Some(bar) = Bar::start(what, total) {
            return Self::shown_by(what, quiet, Display::Bar(bar));
        }
        if !quiet {
            line(&format!("{what} …"));
        }
        let heartbeat = Heartbeat::start(what, total, REPORT_INTERVAL, line);
        Self::shown_by(what, quiet, Display::Lines(heartbeat))
    }

    fn shown_by(what: &str, quiet: bool, display: Display) -> Self {
        Self {
            what: what.to_owned(),
            started_at: Instant::now(),
            quiet,
            display: Some(display),
        }
    }

    /// Reports how many parts are done.
    pub fn set(&self, done: usize) {
        match &self.display {
            Some(Display::Bar(bar)) => bar.set(done),
            Some(Display::Lines(heartbeat)) => heartbeat.set(done),
            None => {}
        }
    }

    /// Ends the step successfully.
    pub fn finish(mut self) {
        self.end("done");
    }

    fn end(&mut self, how: &str) {
        // The bar disappears before the line is written.
        if self.display.take().is_some() && !self.quiet {
            let seconds = self.started_at.elapsed().as_secs();
            line(&format!("{}: {how} after {seconds} s", self.what));
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.end("not done");
    }
}

/// Runs `work` as a step.
///
/// # Errors
/// Those of `work`.
pub fn during<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let step = Step::start(what);
    let result = work()?;
    step.finish();
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    const INNER: &str = "DOPPLER_PREFECT_TESTKIT_PROGRESS_INNER";

    /// Runs the test of this name in a process of its own, and returns its standard error.
    fn stderr_of(name: &str) -> String {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("progress::tests::{name}")])
            .env(INNER, "1")
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    #[test]
    fn passes_the_capture_of_the_test_runner() {
        if std::env::var_os(INNER).is_some() {
            line("seen by people");
            return;
        }
        let stderr = stderr_of("passes_the_capture_of_the_test_runner");
        assert_eq!(stderr, "testkit: seen by people\n");
    }

    #[test]
    fn without_a_terminal_a_step_writes_lines() {
        if std::env::var_os(INNER).is_some() {
            enable_bars();
            Step::start("building").finish();
            drop(Step::start("waiting"));
            Step::counted("syncing", 3).finish();
            return;
        }
        let stderr = stderr_of("without_a_terminal_a_step_writes_lines");
        assert_eq!(
            stderr,
            "testkit: building …\ntestkit: building: done after 0 s\n\
             testkit: waiting …\ntestkit: waiting: not done after 0 s\n"
        );
    }
}

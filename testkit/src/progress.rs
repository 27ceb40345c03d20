//! The one place that writes to the terminal.
//!
//! In: what a long step is doing. Out: a line on standard error when it begins, one every quarter of a minute
//! while it works, one when it ends. libtest captures what the print macros write, and only that: a
//! write to the handle of standard error passes it by, so that nobody takes ten minutes of building for a hang.
//!
//! Never: output that a test relies on, nor a panic when standard error is gone.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Result;

const REPORT_INTERVAL: Duration = Duration::from_secs(15);

/// Writes one line to standard error, in spite of the test runner's capture.
pub fn line(text: &str) {
    // One write, so that lines of parallel tests do not mix.
    let line = format!("testkit: {text}\n");
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// A long step: it says that it works until it is done or dropped.
#[derive(Debug)]
pub struct Step {
    what: String,
    started_at: Instant,
    /// Whether its begin and its end are told by somebody else.
    quiet: bool,
    /// Dropping it ends the thread that writes.
    heartbeat: Option<Sender<()>>,
}

impl Step {
    /// Says that `what` begins.
    pub fn start(what: &str) -> Self {
        Self::start_with(what, REPORT_INTERVAL, false, line)
    }

    /// As `begin`, for those who tell its begin and its end themselves: it only says now and then that `what` goes on.
    #[must_use]
    pub fn start_quietly(what: &str) -> Self {
        Self::start_with(what, REPORT_INTERVAL, true, line)
    }

    fn start_with(
        what: &str,
        every: Duration,
        quiet: bool,
        write: impl Fn(&str) + Send + 'static,
    ) -> Self {
        if !quiet {
            write(&format!("{what} …"));
        }
        let begun = Instant::now();
        let (alive, ended) = channel();
        let still = what.to_owned();
        // Without the thread the step is only less talkative.
        let _ = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    write(&format!("{still} … {} s", begun.elapsed().as_secs()));
                }
            });
        Self {
            what: what.to_owned(),
            started_at: begun,
            quiet,
            heartbeat: Some(alive),
        }
    }

    /// Says that it is done.
    pub fn finish(mut self) {
        self.stop("done");
    }

    fn stop(&mut self, how: &str) {
        if self.heartbeat.take().is_some() && !self.quiet {
            line(&format!(
                "{}: {how} after {} s",
                self.what,
                self.started_at.elapsed().as_secs()
            ));
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.stop("not done");
    }
}

/// Says that `what` begins, works and is done.
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

    #[test]
    fn reports_progress_until_it_finishes() {
        let (tell, told) = channel();
        let step = Step::start_with("building", Duration::from_millis(10), false, move |text| {
            let _ = tell.send(text.to_owned());
        });
        let limit = Duration::from_secs(10);
        assert_eq!(told.recv_timeout(limit).unwrap(), "building …");
        assert_eq!(told.recv_timeout(limit).unwrap(), "building … 0 s");
        step.finish();
        // The channel closes when the thread has ended.
        while told.recv_timeout(limit).is_ok() {}
        assert_eq!(
            told.recv_timeout(limit),
            Err(RecvTimeoutError::Disconnected)
        );
    }

    #[test]
    fn a_quiet_step_reports_progress_only() {
        let (tell, told) = channel();
        let step = Step::start_with("running", Duration::from_millis(10), true, move |text| {
            let _ = tell.send(text.to_owned());
        });
        let first = told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(first, "running … 0 s");
        step.finish();
    }

    const INNER: &str = "DOPPLER_PREFECT_TESTKIT_PROGRESS_INNER";

    #[test]
    fn passes_the_capture_of_the_test_runner() {
        if std::env::var_os(INNER).is_some() {
            line("seen by people");
            return;
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "progress::tests::passes_the_capture_of_the_test_runner",
            ])
            .env(INNER, "1")
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "testkit: seen by people\n"
        );
    }
}

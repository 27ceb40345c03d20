//! Child processes that end with the process that started them.
//!
//! Input: a command, a name for messages, and a log file.
//! Output: a running child, which ends when its value is dropped or when this process dies.
//! Invariants: each child has a guardian, a small `sh` script that leads the child's process group
//! and reads a pipe from this process. When the pipe closes, the guardian ends the group. This also
//! works for statics, which libtest never drops, and after SIGKILL. All output of a child goes to
//! its log file, and no wait is unbounded.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::{Condvar, Mutex};

const GUARDIAN_SCRIPT: &str = include_str!("guardian.sh");

/// The part of a log that an error quotes.
const LOG_TAIL_BYTES: u64 = 4096;

/// A command to start under a guardian.
#[derive(Debug)]
pub struct GuardedCommand {
    name: String,
    command: Command,
    log: PathBuf,
    grace: Duration,
}

impl GuardedCommand {
    /// Creates a command with a name for messages and a log file that the output is appended to.
    pub fn new(name: &str, command: Command, log: impl AsRef<Path>) -> Self {
        Self {
            name: name.to_owned(),
            command,
            log: log.as_ref().to_owned(),
            grace: Duration::from_secs(5),
        }
    }

    /// Sets the time that the child may take after SIGTERM before it is killed. Default: 5 s. Zero
    /// kills at once.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Starts the child.
    ///
    /// # Errors
    /// If the guardian or the program cannot be started.
    pub fn start(mut self) -> Result<GuardedChild> {
        let log = std::path::absolute(&self.log)?;
        let output = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        let mut guardian = Command::new("/bin/sh")
            .args(["-c", GUARDIAN_SCRIPT, "guardian"])
            .arg(self.grace.as_millis().div_ceil(100).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start a guardian for {}", self.name))?;
        let commands = guardian.stdin.take().context("the guardian has no stdin")?;

        // The child joins the guardian's group at its start, so it is never without a guardian.
        let started = self
            .command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(i32::try_from(guardian.id())?)
            .spawn();
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                drop(commands);
                guardian.wait()?;
                let program = self.command.get_program().display().to_string();
                return Err(error)
                    .with_context(|| format!("cannot start {}: {program}", self.name));
            }
        };
        let guarded = GuardedChild {
            pid: child.id(),
            name: self.name,
            log,
            grace: self.grace,
            guardian_stdin: Arc::new(Mutex::new(Some(commands))),
            exit: Arc::default(),
        };
        guarded.send_command("guard");
        guarded.supervise(child, guardian)?;
        Ok(guarded)
    }

    /// Runs a command that exits by itself.
    ///
    /// # Errors
    /// If it fails or takes longer than `limit`; the error ends with the tail of the log.
    pub fn run(self, limit: Duration) -> Result<()> {
        let child = self.start()?;
        match child.wait(limit) {
            Some(0) => Ok(()),
            Some(code) => bail!(
                "{} failed with exit code {code}: {}",
                child.name,
                child.log_tail()
            ),
            None => bail!(
                "{} took longer than {limit:?}: {}",
                child.name,
                child.log_tail()
            ),
        }
    }
}

#[derive(Debug, Default)]
struct ExitState {
    code: Mutex<Option<i32>>,
    changed: Condvar,
}

/// A running process that ends with its value or with this process.
#[derive(Debug)]
pub struct GuardedChild {
    name: String,
    log: PathBuf,
    pid: u32,
    grace: Duration,
    guardian_stdin: Arc<Mutex<Option<ChildStdin>>>,
    exit: Arc<ExitState>,
}

impl GuardedChild {
    /// The name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pid of the child, not of its guardian.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The log file.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Sends SIGKILL and waits until the child has exited.
    pub fn kill(&self) {
        self.send_command("KILL");
        self.wait(Duration::from_secs(10));
    }

    /// Sends SIGTERM without waiting.
    pub fn terminate(&self) {
        self.send_command("TERM");
    }

    /// Pauses the child (SIGSTOP): its connections stay open, and it does not respond.
    pub fn pause(&self) {
        self.send_command("STOP");
    }

    /// Resumes a paused child (SIGCONT).
    pub fn resume(&self) {
        self.send_command("CONT");
    }

    /// The exit code as in a shell (128 plus the signal's number after a signal), or `None` while
    /// the child runs.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        *self.exit.code.lock()
    }

    /// Blocks until the child exits, at most for `limit`.
    #[allow(clippy::must_use_candidate)] // the wait itself is the effect
    pub fn wait(&self, limit: Duration) -> Option<i32> {
        let mut code = self.exit.code.lock();
        let is_running = |code: &mut Option<i32>| code.is_none();
        self.exit
            .changed
            .wait_while_for(&mut code, is_running, limit);
        *code
    }

    /// Waits until the child exits, at most for `limit`, without blocking the runtime.
    pub async fn wait_async(&self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        while self.exit_code().is_none() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.exit_code()
    }

    /// Checks that the child is running.
    ///
    /// # Errors
    /// If it has exited: its exit code and the tail of its log.
    pub fn ensure_running(&self) -> Result<()> {
        match self.exit_code() {
            None => Ok(()),
            Some(code) => bail!(
                "{} ended with exit code {code}: {}",
                self.name,
                self.log_tail()
            ),
        }
    }

    /// The end of the log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    /// The guardian sends the signal: sending one from here would need unsafe code.
    fn send_command(&self, command: &str) {
        if self.exit_code().is_some() {
            return;
        }
        if let Some(commands) = self.guardian_stdin.lock().as_mut() {
            // A write fails only if the guardian has exited, and then the child has too.
            let _ = writeln!(commands, "{command} {}", self.pid);
        }
    }

    /// Waits for the child on a separate thread, then ends the rest of its process group.
    fn supervise(&self, mut child: Child, mut guardian: Child) -> Result<()> {
        let guardian_stdin = Arc::clone(&self.guardian_stdin);
        let exit = Arc::clone(&self.exit);
        let wait_for_exit = move || {
            let status = child.wait().ok();
            let code = status
                .and_then(|status| status.code().or(status.signal().map(|signal| 128 + signal)));
            if let Some(mut commands) = guardian_stdin.lock().take() {
                let _ = writeln!(commands, "end 0");
            }
            let _ = guardian.wait();
            *exit.code.lock() = Some(code.unwrap_or(-1));
            exit.changed.notify_all();
        };
        std::thread::Builder::new()
            .name(format!("guard {}", self.name))
            .spawn(wait_for_exit)?;
        Ok(())
    }
}

impl Drop for GuardedChild {
    fn drop(&mut self) {
        self.guardian_stdin.lock().take();
        self.wait(self.grace + Duration::from_secs(5));
    }
}

/// The last kilobytes of a log file, or the reason why it cannot be read.
#[must_use]
pub fn log_tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => format!("the end of {}:\n{text}", log.display()),
        Err(error) => format!("its log {} cannot be read: {error}", log.display()),
    }
}

#[cfg(test)]
mod tests;

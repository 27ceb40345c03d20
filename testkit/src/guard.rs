//! Server processes that never outlive the process that started them.
//!
//! In: a command, a name for people, a log file. Out: a running child that is ended when its value is
//! dropped, and also when this process dies in any way: libtest never drops statics, and SIGKILL runs no
//! destructors. Each child therefore has a guardian, a few lines of `sh` that lead the process group in which the child
//! runs, and read a pipe that only this process holds open. When the pipe closes, the guardian ends the group.
//!
//! Never: a child whose output is lost (it is in the log file), or one that is waited for without a bound.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const GUARDIAN_SCRIPT: &str = include_str!("guardian.sh");

/// How much of a log an error quotes.
const LOG_TAIL_BYTES: u64 = 4096;

/// A command that will be started under a guardian.
#[derive(Debug)]
pub struct GuardedCommand {
    name: String,
    command: Command,
    log: PathBuf,
    grace: Duration,
}

impl GuardedCommand {
    /// What to call it in messages, the command, and the file that its output is appended to.
    pub fn new(name: &str, command: Command, log: impl AsRef<Path>) -> Self {
        Self {
            name: name.to_owned(),
            command,
            log: log.as_ref().to_owned(),
            grace: Duration::from_secs(5),
        }
    }

    /// How long the child may take to end after SIGTERM before it is killed; 5 s unless told. Zero kills at once.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Starts the child.
    ///
    /// # Errors
    /// When the guardian or the program cannot be started.
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
        let orders = guardian.stdin.take().context("the guardian has no stdin")?;

        // The group is the guardian's, so there is no moment in which the child is on its own.
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
                drop(orders);
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
            guardian_stdin: Arc::new(Mutex::new(Some(orders))),
            exit: Arc::default(),
        };
        guarded.send_order("guard");
        guarded.supervise(child, guardian)?;
        Ok(guarded)
    }

    /// Runs a command that ends by itself.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`; the error ends with the tail of the log.
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

/// A running process that ends with its value, or with this process.
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
    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pid of the child itself, not of its guardian.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file that its output goes to.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Sends SIGKILL and waits until the child is gone.
    pub fn kill(&self) {
        self.send_order("KILL");
        self.wait(Duration::from_secs(10));
    }

    /// Sends SIGTERM, and does not wait.
    pub fn terminate(&self) {
        self.send_order("TERM");
    }

    /// Stops the child in its tracks (SIGSTOP): its connections stay open and nothing answers.
    pub fn pause(&self) {
        self.send_order("STOP");
    }

    /// Lets a paused child go on (SIGCONT).
    pub fn resume(&self) {
        self.send_order("CONT");
    }

    /// How it ended, as a shell has it (the exit code, or 128 and the signal's number), or nothing while it runs.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        *lock(&self.exit.code)
    }

    /// Blocks until it ends, at most for `limit`.
    pub fn wait(&self, limit: Duration) -> Option<i32> {
        let code = lock(&self.exit.code);
        let waited = self
            .exit
            .changed
            .wait_timeout_while(code, limit, |code| code.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until it ends, at most for `limit`, without blocking the runtime.
    pub async fn wait_async(&self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        while self.exit_code().is_none() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.exit_code()
    }

    /// Says whether it runs.
    ///
    /// # Errors
    /// When it has ended: its exit code and the tail of its log.
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

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    /// A signal goes through the guardian: sending one from here would take unsafe code.
    fn send_order(&self, order: &str) {
        if self.exit_code().is_some() {
            return;
        }
        if let Some(orders) = lock(&self.guardian_stdin).as_mut() {
            // It fails only when the guardian is gone, and then so is the child.
            let _ = writeln!(orders, "{order} {}", self.pid);
        }
    }

    /// Waits for the child's end on a thread of its own, then ends what the child left behind.
    fn supervise(&self, mut child: Child, mut guardian: Child) -> Result<()> {
        let guardian_stdin = Arc::clone(&self.guardian_stdin);
        let exit = Arc::clone(&self.exit);
        let wait_for_exit = move || {
            let status = child.wait().ok();
            let code = status
                .and_then(|status| status.code().or(status.signal().map(|signal| 128 + signal)));
            if let Some(mut orders) = lock(&guardian_stdin).take() {
                let _ = writeln!(orders, "end 0");
            }
            let _ = guardian.wait();
            *lock(&exit.code) = Some(code.unwrap_or(-1));
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
        lock(&self.guardian_stdin).take();
        self.wait(self.grace + Duration::from_secs(5));
    }
}

/// The last kilobytes of a log file, or why there are none.
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

/// What these locks guard stays whole when a thread panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_alive(pid: u32) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return false;
        };
        // A zombie is dead, whoever has yet to reap it.
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with('Z')
    }

    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn shell(script: &str, log: &Path) -> GuardedCommand {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        GuardedCommand::new("a child", command, log)
    }

    #[test]
    fn ends_the_child_when_the_value_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let child = shell("exec sleep 600", &folder.path().join("log"))
            .start()
            .unwrap();
        let pid = child.pid();
        assert!(is_alive(pid));
        drop(child);
        assert!(!is_alive(pid));
    }

    #[test]
    fn ends_the_grandchildren_too() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let child = shell("sleep 600 & echo $!; wait", &log).start().unwrap();
        let read = || std::fs::read_to_string(&log).unwrap_or_default();
        eventually("the grandchild's pid", || read().ends_with('\n'));
        let grandchild: u32 = read().trim().parse().unwrap();
        assert!(is_alive(grandchild));
        child.kill();
        assert_eq!(child.exit_code(), Some(128 + 9));
        eventually("the grandchild's end", || !is_alive(grandchild));
    }

    #[test]
    fn kills_a_child_that_ignores_sigterm_after_the_grace() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let child = shell("trap '' TERM; echo ready; while :; do sleep 1; done", &log)
            .grace(Duration::from_millis(300))
            .start()
            .unwrap();
        eventually("the trap", || {
            std::fs::read_to_string(&log).is_ok_and(|log| log == "ready\n")
        });
        let pid = child.pid();
        drop(child);
        assert!(!is_alive(pid));
    }

    #[test]
    fn reports_an_early_exit_with_the_log_tail() {
        let folder = tempfile::tempdir().unwrap();
        let child = shell("echo last words >&2; exit 7", &folder.path().join("log"))
            .start()
            .unwrap();
        assert_eq!(child.wait(Duration::from_secs(20)), Some(7));
        let error = child.ensure_running().unwrap_err().to_string();
        assert!(
            error.contains("exit code 7") && error.contains("last words"),
            "{error}"
        );
    }

    #[test]
    fn reports_a_missing_program() {
        let folder = tempfile::tempdir().unwrap();
        let command = GuardedCommand::new(
            "nothing",
            Command::new("/nowhere/nothing"),
            folder.path().join("log"),
        );
        let error = format!("{:#}", command.run(Duration::from_secs(20)).unwrap_err());
        assert!(error.contains("/nowhere/nothing: No such file"), "{error}");
    }

    #[test]
    fn a_command_over_its_time_limit_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let command = shell("echo begun; sleep 600", &folder.path().join("log"));
        let error = command.run(Duration::from_secs(1)).unwrap_err().to_string();
        assert!(
            error.contains("longer than 1s") && error.contains("begun"),
            "{error}"
        );
    }

    #[test]
    fn sigterm_reaches_the_child() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let child = shell(
            "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done",
            &log,
        )
        .start()
        .unwrap();
        eventually("the trap", || {
            std::fs::read_to_string(&log).is_ok_and(|log| log == "ready\n")
        });
        child.terminate();
        assert_eq!(child.wait(Duration::from_secs(20)), Some(3));
    }

    #[test]
    fn a_paused_child_continues_after_resume() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let child = shell("while :; do echo tick; sleep 0.05; done", &log)
            .start()
            .unwrap();
        let state =
            || std::fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap_or_default();
        child.pause();
        eventually("the child to stop", || state().contains(") T "));
        child.resume();
        eventually("the child to go on", || !state().contains(") T "));
    }

    /// The test binary runs itself, with this variable set, as the parent that will be killed.
    const PARENT: &str = "DOPPLER_PREFECT_TESTKIT_GUARD_PARENT";

    #[test]
    fn ends_the_grandchild_when_the_parent_is_killed() {
        if let Some(folder) = std::env::var_os(PARENT) {
            let folder = PathBuf::from(folder);
            let child = shell("exec sleep 600", &folder.join("log"))
                .start()
                .unwrap();
            std::fs::write(folder.join("pid.part"), child.pid().to_string()).unwrap();
            std::fs::rename(folder.join("pid.part"), folder.join("pid")).unwrap();
            std::thread::sleep(Duration::from_mins(10));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "guard::tests::ends_the_grandchild_when_the_parent_is_killed",
            ])
            .env(PARENT, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let written = folder.path().join("pid");
        eventually("the parent to start a child", || written.exists());
        let grandchild: u32 = std::fs::read_to_string(&written).unwrap().parse().unwrap();
        assert!(is_alive(grandchild));
        parent.kill().unwrap();
        parent.wait().unwrap();
        eventually("the grandchild's end", || !is_alive(grandchild));
    }
}

//! In: how a server is to be set up. Out: a real Prefect server on a free port, with its own folder and database.
//!
//! A new database takes some 15 s of migrations on two cores, so it is made once, kept in the cache and copied.
//! Off: what flow runs and events do not need (UI, scheduler, late runs, automations, clean-up).

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;

use super::api::PrefectApi;
use super::command::{prefect, virtual_environment};
use crate::folder::ScratchDir;
use crate::guard::{GuardedChild, GuardedCommand, log_tail};
use crate::{cache, ports, wait};

/// Starting takes 6 to 12 s on two idle cores, and these cores are seldom idle.
const START_TIMEOUT: Duration = Duration::from_mins(3);
/// How often another port is tried when a server ends before it answers.
const START_ATTEMPTS: u32 = 3;

/// Services that no test looks at. Event streams and the event store stay on.
const OFF: [&str; 10] = [
    "PREFECT_SERVER_UI_ENABLED",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_ENABLED",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_ENABLED",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED",
];

/// How a server is set up.
#[derive(Clone, Default)]
pub struct PrefectOptions {
    /// `user:password`: the server then accepts nothing but this as basic auth.
    pub auth: Option<String>,
    /// Whether writes need a CSRF token.
    pub csrf: bool,
    /// More environment, such as `PREFECT_LOGGING_SERVER_LEVEL`.
    pub env: Vec<(String, String)>,
}

/// A real Prefect server. It ends with its value, or with this process.
pub struct PrefectServer {
    options: PrefectOptions,
    venv: PathBuf,
    port: u16,
    process: Mutex<Option<GuardedChild>>,
    folder: ScratchDir,
}

impl PrefectServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When the virtual environment cannot be made, or the server does not come up; the error quotes its log.
    pub async fn start(options: PrefectOptions) -> Result<Self> {
        let venv = virtual_environment().await?;
        let seed = seed(venv.clone()).await?;
        let mut tries = 0;
        loop {
            let folder = ScratchDir::new("prefect-server")?;
            for entry in std::fs::read_dir(&seed)? {
                let entry = entry?;
                std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
            }
            let [port] = ports::free()?;
            let server = Self {
                options: options.clone(),
                venv: venv.clone(),
                port,
                process: Mutex::new(None),
                folder,
            };
            tries += 1;
            match server.restart().await {
                Ok(()) => return Ok(server),
                Err(error) if tries == START_ATTEMPTS => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// One server for all tests of this process that want neither auth nor CSRF.
    ///
    /// # Errors
    /// As [`PrefectServer::start`].
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<PrefectServer> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| Self::start(PrefectOptions::default()))
            .await
    }

    /// The API's address, such as `http://127.0.0.1:4200/api`.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}/api", self.port)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `user:password` that it wants.
    #[must_use]
    pub fn auth(&self) -> Option<&str> {
        self.options.auth.as_deref()
    }

    /// A client with the right credentials, for the runtime that asks.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn api(&self) -> Result<PrefectApi> {
        PrefectApi::new(&self.api_url(), self.auth(), self.options.csrf)
    }

    /// Ends the server; its data stays.
    pub async fn stop(&self) {
        let process = self.process().take();
        // Dropping waits for the end, which blocks.
        let _ = tokio::task::spawn_blocking(move || drop(process)).await;
    }

    /// Starts the server again, on the same port and data, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up; the error quotes its log.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await;
        let home = self.folder.path();
        let log = self.log_path();
        let process = command(&self.venv, home, self.port, &log, &self.options).start()?;
        let url = self.api_url();
        wait_until_ready(&url, &process).await?;
        *self.process() = Some(process);
        Ok(())
    }

    /// What the server has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The file that it writes to.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn process(&self) -> MutexGuard<'_, Option<GuardedChild>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn command(
    venv: &Path,
    home: &Path,
    port: u16,
    log: &Path,
    options: &PrefectOptions,
) -> GuardedCommand {
    let port = port.to_string();
    let mut command = prefect(venv, home);
    command.args(["server", "start", "--host", "127.0.0.1", "--port", &port]);
    command.envs(OFF.map(|name| (name, "false")));
    if let Some(auth) = &options.auth {
        command.env("PREFECT_SERVER_API_AUTH_STRING", auth);
    }
    if options.csrf {
        command.env("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "true");
    }
    command.envs(options.env.iter().cloned());
    GuardedCommand::new("Prefect's server", command, log)
}

async fn wait_until_ready(url: &str, process: &GuardedChild) -> Result<()> {
    let api = PrefectApi::new(url, None, false)?;
    let answers = async || {
        if process.exit_code().is_some() {
            return Some(false);
        }
        api.get("/health").await.is_ok().then_some(true)
    };
    let waited = wait::until(START_TIMEOUT, "Prefect's server", answers).await;
    process.ensure_running()?;
    waited.with_context(|| log_tail(process.log_path()))?;
    Ok(())
}

/// The home folder of a server that has started once: migrated database, registered blocks.
async fn seed(venv: PathBuf) -> Result<PathBuf> {
    let runtime = tokio::runtime::Handle::current();
    let build = move || {
        let key = cache::key("prefect-database", &[venv.as_os_str().as_encoded_bytes()]);
        cache::get_or_build(&key, "Prefect's empty database", |home| {
            let folder = ScratchDir::new("prefect-seed")?;
            let [port] = ports::free()?;
            let options = PrefectOptions::default();
            let log = folder.path().join("server.log");
            let server = command(&venv, home, port, &log, &options).start()?;
            runtime.block_on(wait_until_ready(
                &format!("http://127.0.0.1:{port}/api"),
                &server,
            ))
        })
    };
    tokio::task::spawn_blocking(build)
        .await
        .context("making Prefect's database")?
}

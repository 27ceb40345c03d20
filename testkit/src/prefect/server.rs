//! A real Prefect server.
//!
//! Input: its options, and the selected version and database.
//! Output: a server on a free port, with its own folder and database.
//! Invariants: migrating a new database takes 15 s on two cores, so one migrated database is cached
//! and copied. Services that tests do not use are off (UI, scheduler, late runs, automations,
//! clean-up).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OnceCell;

use super::api::PrefectApi;
use super::command::{environment, prefect};
use super::selection::{Database, PrefectVersion};
use crate::folder::ScratchDir;
use crate::guard::{GuardedChild, GuardedCommand, log_tail};
use crate::postgres::{self, Postgres};
use crate::{cache, ports, wait};

/// A start takes 6 to 12 s on two idle cores, and longer under load.
const START_TIMEOUT: Duration = Duration::from_mins(3);
/// Attempts with another port if a server exits before it responds.
const START_ATTEMPTS: u32 = 3;

/// Services that no test uses. Event streams and the event store stay on.
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

/// The options of a server.
#[derive(Clone, Default)]
pub struct PrefectOptions {
    /// `user:password`: the server then accepts only this as basic auth.
    pub auth: Option<String>,
    /// Whether writes need a CSRF token.
    pub csrf: bool,
    /// The version.
    pub version: PrefectVersion,
    /// Additional environment variables, such as `PREFECT_LOGGING_SERVER_LEVEL`.
    pub env: Vec<(String, String)>,
}

/// A real Prefect server. It ends with its value, or with this process.
pub struct PrefectServer {
    options: PrefectOptions,
    venv: PathBuf,
    port: u16,
    process: Mutex<Option<GuardedChild>>,
    // Dropped after the process that uses it.
    database: Option<Postgres>,
    folder: ScratchDir,
}

impl PrefectServer {
    /// Starts a server and waits until it responds.
    ///
    /// # Errors
    /// If the virtual environment cannot be created, or the server does not start; the error quotes
    /// its log.
    pub async fn start(options: PrefectOptions) -> Result<Self> {
        let venv = environment(options.version.requirements()?).await?;
        let database = Database::selected()?;
        let seed = seed(venv.clone(), database).await?;
        let mut tries = 0;
        loop {
            let folder = ScratchDir::new("prefect-server")?;
            for entry in std::fs::read_dir(&seed)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
                }
            }
            let database = match database {
                Database::Sqlite => None,
                Database::Postgresql => {
                    Postgres::copy(&seed, folder.path())?;
                    Some(Postgres::start(folder.path()).await?)
                }
            };
            let [port] = ports::free()?;
            let server = Self {
                options: options.clone(),
                venv: venv.clone(),
                port,
                process: Mutex::new(None),
                database,
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

    /// The server that all tests of this process share, without auth and CSRF.
    ///
    /// # Errors
    /// As for [`PrefectServer::start`].
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

    /// The `user:password` that the server accepts.
    #[must_use]
    pub fn auth(&self) -> Option<&str> {
        self.options.auth.as_deref()
    }

    /// A client with the server's credentials, for the current runtime.
    ///
    /// # Errors
    /// If the HTTP client cannot be built.
    pub fn api(&self) -> Result<PrefectApi> {
        PrefectApi::new(&self.api_url(), self.auth(), self.options.csrf)
    }

    /// Stops the server and keeps its data.
    pub async fn stop(&self) {
        let process = self.process().take();
        // Dropping waits for the exit, which blocks.
        let _ = tokio::task::spawn_blocking(move || drop(process)).await;
    }

    /// Starts the server again with the same port and data, and waits until it responds.
    ///
    /// # Errors
    /// If it does not start; the error quotes its log.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await;
        let home = self.folder.path();
        let log = self.log_path();
        let mut options = self.options.clone();
        options
            .env
            .extend(database_variable(self.database.as_ref()));
        let process = command(&self.venv, home, self.port, &log, &options).start()?;
        let url = self.api_url();
        wait_until_ready(&url, &process).await?;
        *self.process() = Some(process);
        Ok(())
    }

    /// The server's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The log file.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn process(&self) -> MutexGuard<'_, Option<GuardedChild>> {
        self.process.lock()
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

/// The variable that names the database, unless it is a file in the server's folder.
fn database_variable(database: Option<&Postgres>) -> Option<(String, String)> {
    let name = "PREFECT_API_DATABASE_CONNECTION_URL";
    Some((name.to_owned(), database?.url()))
}

async fn wait_until_ready(url: &str, process: &GuardedChild) -> Result<()> {
    let api = PrefectApi::new(url, None, false)?;
    let health = async || {
        if process.exit_code().is_some() {
            return Some(false);
        }
        api.get("/health").await.is_ok().then_some(true)
    };
    let waited = wait::until(START_TIMEOUT, "Prefect's server", health).await;
    process.ensure_running()?;
    waited.with_context(|| log_tail(process.log_path()))?;
    Ok(())
}

/// The home folder of a server that was started once: a migrated database with registered blocks.
async fn seed(venv: PathBuf, database: Database) -> Result<PathBuf> {
    let runtime = tokio::runtime::Handle::current();
    let build = move || {
        let venv_name = venv.as_os_str().as_encoded_bytes();
        let key = match database {
            Database::Sqlite => cache::key("prefect-database", &[venv_name]),
            Database::Postgresql => {
                let version = postgres::version()?;
                cache::key("prefect-postgresql", &[venv_name, version.as_bytes()])
            }
        };
        cache::get_or_build(&key, "Prefect's empty database", |home| {
            runtime.block_on(migrate(&venv, home, database))
        })
    };
    tokio::task::spawn_blocking(build)
        .await
        .context("making Prefect's database")?
}

/// Starts a server once, so that `home` has what it writes.
async fn migrate(venv: &Path, home: &Path, database: Database) -> Result<()> {
    let folder = ScratchDir::new("prefect-seed")?;
    let postgres = match database {
        Database::Sqlite => None,
        Database::Postgresql => {
            Postgres::initialise(folder.path())?;
            Some(Postgres::start(folder.path()).await?)
        }
    };
    let [port] = ports::free()?;
    let options = PrefectOptions {
        env: database_variable(postgres.as_ref()).into_iter().collect(),
        ..PrefectOptions::default()
    };
    let log = folder.path().join("server.log");
    let server = command(venv, home, port, &log, &options).start()?;
    wait_until_ready(&format!("http://127.0.0.1:{port}/api"), &server).await?;
    drop(server);
    if postgres.is_some() {
        drop(postgres);
        Postgres::copy(folder.path(), home)?;
    }
    Ok(())
}

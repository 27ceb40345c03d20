//! Prefect's real Kubernetes worker.
//!
//! Input: a server, a work pool and a cluster.
//! Output: a worker that is online in that pool.
//! Invariants: the worker ends with its value.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::command::{prefect, virtual_environment};
use super::server::PrefectServer;
use crate::folder::ScratchDir;
use crate::guard::{GuardedChild, GuardedCommand};
use crate::wait;

/// Python's imports alone take 6 to 13 s.
const START_TIMEOUT: Duration = Duration::from_mins(3);

/// The options of a worker.
#[derive(Clone)]
pub struct WorkerOptions {
    /// The work pool. It must exist.
    pub pool: String,
    /// Its name in the pool.
    pub name: String,
    /// The kubeconfig of the cluster in which it creates Jobs.
    pub kubeconfig: PathBuf,
    /// Additional environment variables. The worker passes those that start with `PREFECT_` to flow
    /// runs.
    pub env: Vec<(String, String)>,
}

/// A real Kubernetes worker. It ends with its value, or with this process.
pub struct PrefectWorker {
    process: GuardedChild,
    _folder: ScratchDir,
}

impl PrefectWorker {
    /// Starts a worker and waits until it is online in its pool.
    ///
    /// # Errors
    /// If it exits or is not online in time; the error quotes its log.
    pub async fn start(server: &PrefectServer, options: &WorkerOptions) -> Result<Self> {
        let venv = virtual_environment().await?;
        let folder = ScratchDir::new("prefect-worker")?;
        let log = folder.path().join("worker.log");
        let (pool, name) = (&options.pool, &options.name);
        let mut command = prefect(&venv, folder.path());
        command
            .args(["worker", "start", "--type", "kubernetes"])
            .args(["--install-policy", "never"])
            .args(["--pool", pool, "--name", name])
            .env("KUBECONFIG", &options.kubeconfig)
            .env("PREFECT_API_URL", server.api_url())
            .env("PREFECT_WORKER_QUERY_SECONDS", "1")
            .env("PREFECT_WORKER_HEARTBEAT_SECONDS", "2")
            .env("PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_ENABLED", "false");
        if let Some(auth) = server.auth() {
            command.env("PREFECT_API_AUTH_STRING", auth);
        }
        command.envs(options.env.iter().cloned());
        let command = GuardedCommand::new("Prefect's worker", command, &log);
        let process = command.start()?;
        let api = server.api()?;
        let online = async || {
            if process.exit_code().is_some() {
                return Ok(());
            }
            if api.online_workers(pool).await?.contains(name) {
                return Ok(());
            }
            bail!("the worker is not online")
        };
        let waited = wait::until(START_TIMEOUT, "Prefect's worker", online).await;
        process.ensure_running()?;
        waited.with_context(|| process.log_tail())?;
        Ok(Self {
            process,
            _folder: folder,
        })
    }

    /// The worker's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.process.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

//! In: a server, a pool and a cluster. Out: Prefect's real Kubernetes worker, online in that pool.

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

/// Which worker is wanted.
#[derive(Clone)]
pub struct WorkerOptions {
    /// The pool that it works on. It must exist.
    pub pool: String,
    /// Its name in the pool.
    pub name: String,
    /// The cluster that it makes Jobs in.
    pub kubeconfig: PathBuf,
    /// More environment. What starts with `PREFECT_` also reaches the flow runs: the worker passes it on.
    pub env: Vec<(String, String)>,
}

/// A real Kubernetes worker. It ends with its value, or with this process.
pub struct PrefectWorker {
    process: GuardedChild,
    _folder: ScratchDir,
}

impl PrefectWorker {
    /// Starts a worker and waits until its pool says that it is online.
    ///
    /// # Errors
    /// When it ends or does not come online in time; the error quotes its log.
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
            bail!("not among the pool's workers")
        };
        let waited = wait::until(START_TIMEOUT, "Prefect's worker", online).await;
        process.ensure_running()?;
        waited.with_context(|| process.log_tail())?;
        Ok(Self {
            process,
            _folder: folder,
        })
    }

    /// What the worker has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.process.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

//! The operator under test, as a separate process.
//!
//! Input: the path of its binary, a kubeconfig ([`crate::grant`] creates one with the chart's
//! permissions), arguments and environment.
//! Output: a running operator with its own ports, which logs at trace level as JSON and ends with
//! its value or with this process.
//! Invariants: the operator inherits no environment variables of the developer. This module does
//! not depend on the operator's crate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::folder::ScratchDir;
use crate::guard::{GuardedChild, GuardedCommand};
use crate::{ports, wait};

const START_TIMEOUT: Duration = Duration::from_mins(1);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How to start an operator.
#[derive(Debug, Clone, Default)]
pub struct OperatorOptions {
    /// The operator's binary.
    pub binary: PathBuf,
    /// The kubeconfig of the operator.
    pub kubeconfig: PathBuf,
    /// Additional arguments of `run`. Addresses and log format are set; the log filter is `trace`
    /// unless an argument sets it.
    pub args: Vec<String>,
    /// Environment variables besides `PATH`, `HOME` and `KUBECONFIG`.
    pub env: Vec<(String, String)>,
    /// The file that the log is appended to. Without it, a temporary file.
    pub log: Option<PathBuf>,
}

/// A running operator.
#[derive(Debug)]
pub struct Operator {
    child: GuardedChild,
    metrics_address: String,
    health_address: String,
    webhook_address: String,
    http: reqwest::Client,
    _folder: ScratchDir,
}

impl Operator {
    /// Starts an operator and waits until it is ready.
    ///
    /// # Errors
    /// If it cannot be started, exits early, or is not ready in time; the error quotes its log.
    pub async fn start(options: OperatorOptions) -> Result<Self> {
        let operator = Self::spawn(options)?;
        operator.ready(START_TIMEOUT).await?;
        Ok(operator)
    }

    /// Starts an operator without waiting.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(options: OperatorOptions) -> Result<Self> {
        let OperatorOptions {
            binary,
            kubeconfig,
            args,
            env,
            log,
        } = options;
        let folder = ScratchDir::new("operator")?;
        let [metrics_address, health_address, webhook_address] =
            ports::free()?.map(|port: u16| format!("127.0.0.1:{port}"));
        let mut command = Command::new(std::path::absolute(binary)?);
        command.args(["run", "--log-format", "json"]);
        // An argument of the caller replaces the default.
        for (flag, value) in [
            ("--log-filter", "trace"),
            ("--webhook-address", &webhook_address),
        ] {
            if !args.iter().any(|argument| argument == flag) {
                command.args([flag, value]);
            }
        }
        command
            .args([
                "--metrics-address",
                &metrics_address,
                "--health-address",
                &health_address,
            ])
            .args(args)
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder.path())
            .env("KUBECONFIG", std::path::absolute(kubeconfig)?)
            .envs(env);
        let log = log.unwrap_or_else(|| folder.path().join("operator.log"));
        let child = GuardedCommand::new("the operator", command, log)
            .grace(Duration::from_secs(30))
            .start()?;
        // Each test has its own runtime, and an idle connection belongs to one of them.
        let http = local_http()?;
        Ok(Self {
            child,
            metrics_address,
            health_address,
            webhook_address,
            http,
            _folder: folder,
        })
    }

    /// Waits until `/readyz` returns 200.
    ///
    /// # Errors
    /// If it exits early or is not ready within `limit`; the error quotes its log.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        let settled = wait::until(limit, "the operator to be ready", async || {
            match self.child.ensure_running() {
                Err(ended) => Ok(Err(ended)),
                Ok(()) => self.is_ready().await.map(Ok),
            }
        });
        match settled.await {
            Ok(settled) => settled,
            Err(error) => Err(anyhow!("{error}\n{}", self.child.log_tail())),
        }
    }

    /// Checks once whether `/readyz` returns 200.
    ///
    /// # Errors
    /// If it does not.
    pub async fn is_ready(&self) -> Result<()> {
        self.get(&self.health_address, "/readyz").await.map(drop)
    }

    /// The log, one JSON object per line.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = std::fs::read(self.child.log_path()).context("the operator's log")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The metrics, as text.
    ///
    /// # Errors
    /// If the operator does not respond.
    pub async fn metrics(&self) -> Result<String> {
        self.get(&self.metrics_address, "/metrics").await
    }

    /// `host:port` of the metrics.
    #[must_use]
    pub fn metrics_address(&self) -> &str {
        &self.metrics_address
    }

    /// `host:port` of the probes.
    #[must_use]
    pub fn health_address(&self) -> &str {
        &self.health_address
    }

    /// `host:port` of the webhook listener, which is open only with webhook secrets.
    #[must_use]
    pub fn webhook_address(&self) -> &str {
        &self.webhook_address
    }

    /// The process, to pause it or to check its exit.
    #[must_use]
    pub fn process(&self) -> &GuardedChild {
        &self.child
    }

    /// Sends SIGTERM, waits for the exit, and returns the exit code.
    ///
    /// # Errors
    /// If it does not exit within `limit`.
    pub async fn terminate(&self, limit: Duration) -> Result<i32> {
        self.child.terminate();
        let code = self.child.wait_async(limit).await;
        code.with_context(|| {
            format!(
                "the operator did not exit within {limit:?}: {}",
                self.child.log_tail()
            )
        })
    }

    /// Sends SIGKILL.
    pub fn kill_now(&self) {
        self.child.kill();
    }

    /// The resident memory.
    ///
    /// # Errors
    /// If the process has exited.
    pub fn rss_kib(&self) -> Result<u64> {
        status_kib(self.child.pid(), "VmRSS:")
    }

    /// The peak of the resident memory.
    ///
    /// # Errors
    /// If the process has exited.
    pub fn peak_kib(&self) -> Result<u64> {
        status_kib(self.child.pid(), "VmHWM:")
    }

    async fn get(&self, address: &str, path: &str) -> Result<String> {
        let answer = self
            .http
            .get(format!("http://{address}{path}"))
            .send()
            .await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("{path} answers {status}: {text}");
        }
        Ok(text)
    }
}

/// A client for servers on this machine: no proxy, a time limit for each response, no idle
/// connections.
///
/// # Errors
/// If the client cannot be built.
pub fn local_http() -> Result<reqwest::Client> {
    // A second call fails because the provider is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder()
        .no_proxy()
        .timeout(RESPONSE_TIMEOUT)
        .pool_max_idle_per_host(0)
        .build()?)
}

fn status_kib(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .context("the process has no memory statistics")?;
    Ok(kib.trim().parse()?)
}

#[cfg(test)]
mod tests;

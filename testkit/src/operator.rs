//! The operator under test, as a process of its own.
//!
//! In: the path of its binary, a kubeconfig (`grant` makes one with the chart's rights), arguments and environment. Out:
//! a running operator that logs everything it can as JSON, on ports of its own, and ends with its value or with this
//! process. It starts in an empty environment, so that nothing of the developer's leaks into a test.
//!
//! Never: an import of the operator's crate. Whoever calls knows where the binary is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::folder::ScratchDir;
use crate::guard::{GuardedChild, GuardedCommand};
use crate::{ports, wait};

const START_TIMEOUT: Duration = Duration::from_mins(1);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How an operator is started.
#[derive(Debug, Clone, Default)]
pub struct OperatorOptions {
    /// The operator's binary.
    pub binary: PathBuf,
    /// The kubeconfig it acts with.
    pub kubeconfig: PathBuf,
    /// Arguments after `run`; the addresses and the log format are given already, and the filter `trace` unless another one is here.
    pub args: Vec<String>,
    /// Environment beyond `PATH`, `HOME` and `KUBECONFIG`.
    pub env: Vec<(String, String)>,
    /// Where its log goes (it is appended to); unset means a file that is gone with the operator.
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
    /// Starts an operator and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it cannot be started, ends early, or is not ready in time; the error quotes its log.
    pub async fn start(options: OperatorOptions) -> Result<Self> {
        let operator = Self::spawn(options)?;
        operator.ready(START_TIMEOUT).await?;
        Ok(operator)
    }

    /// Starts an operator and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
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
        // A flag that is given replaces ours.
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
        // Each test has its own runtime, and an idle connection would belong to one of them.
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

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// When it ends early or is not ready within `limit`; the error quotes its log.
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

    /// Looks once whether `/readyz` answers 200.
    ///
    /// # Errors
    /// When it does not.
    pub async fn is_ready(&self) -> Result<()> {
        self.get(&self.health_address, "/readyz").await.map(drop)
    }

    /// All that it has logged, one JSON object a line.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = std::fs::read(self.child.log_path()).context("the operator's log")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its metrics, as text.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        self.get(&self.metrics_address, "/metrics").await
    }

    /// `host:port` of its metrics.
    #[must_use]
    pub fn metrics_address(&self) -> &str {
        &self.metrics_address
    }

    /// `host:port` of its probes.
    #[must_use]
    pub fn health_address(&self) -> &str {
        &self.health_address
    }

    /// `host:port` of its door for hooks, where it was given secrets for them.
    #[must_use]
    pub fn webhook_address(&self) -> &str {
        &self.webhook_address
    }

    /// Its process: to pause it, or to see whether it has ended.
    #[must_use]
    pub fn process(&self) -> &GuardedChild {
        &self.child
    }

    /// Sends SIGTERM and waits for its end: the exit code.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub async fn terminate(&self, limit: Duration) -> Result<i32> {
        self.child.terminate();
        let code = self.child.wait_async(limit).await;
        code.with_context(|| {
            format!(
                "the operator did not end within {limit:?}: {}",
                self.child.log_tail()
            )
        })
    }

    /// Sends SIGKILL.
    pub fn kill_now(&self) {
        self.child.kill();
    }

    /// Its resident memory.
    ///
    /// # Errors
    /// When it has ended.
    pub fn rss_kib(&self) -> Result<u64> {
        status_kib(self.child.pid(), "VmRSS:")
    }

    /// The most that its resident memory ever was.
    ///
    /// # Errors
    /// When it has ended.
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

/// A client for servers on this machine: no proxy, a limit on each answer, no connection kept.
///
/// # Errors
/// When the client cannot be built.
pub fn local_http() -> Result<reqwest::Client> {
    // Whoever was first is as good.
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
        .context("a process without memory")?;
    Ok(kib.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked of an operator's binary, in a few lines: flags, probes, metrics, SIGTERM.
    const STAND_IN: &str = r#"#!/usr/bin/env python3
import http.server, os, signal, sys, threading
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if "--die" in flags:
    sys.exit("no such flag: --die")
print({"arguments": sys.argv[1:], "environment": sorted(os.environ)}, flush=True)
class Answers(http.server.BaseHTTPRequestHandler):
    looks = 0
    def do_GET(self):
        Answers.looks += 1
        ready = self.path != "/readyz" or Answers.looks > 3
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b"bindings 3\n")
for flag in ("--metrics-address", "--health-address"):
    host, port = flags[flag].split(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    signal.pause()
"#;

    fn stand_in(folder: &Path, args: &[&str]) -> OperatorOptions {
        use std::os::unix::fs::PermissionsExt;
        let binary = folder.join("operator");
        std::fs::write(&binary, STAND_IN).unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
        OperatorOptions {
            binary,
            kubeconfig: folder.join("kubeconfig"),
            args: args.iter().map(|&argument| argument.to_owned()).collect(),
            env: vec![("MINE".to_owned(), "yes".to_owned())],
            log: None,
        }
    }

    #[tokio::test]
    async fn starts_in_a_clean_environment_and_ends_on_sigterm() {
        let folder = tempfile::tempdir().unwrap();
        let operator = Operator::start(stand_in(folder.path(), &["--watch-namespace", "flows"]))
            .await
            .unwrap();
        let log = operator.log().unwrap();
        assert!(
            log.contains("'run', '--log-format', 'json', '--log-filter', 'trace'"),
            "{log}"
        );
        assert!(
            log.contains("'--watch-namespace', 'flows'") && log.contains("'MINE'"),
            "{log}"
        );
        assert!(
            std::env::var_os("CARGO_MANIFEST_DIR").is_some() && !log.contains("CARGO"),
            "{log}"
        );
        assert_eq!(operator.metrics().await.unwrap(), "bindings 3\n");
        assert!(operator.rss_kib().unwrap() > 1000);
        assert_eq!(
            operator.terminate(Duration::from_secs(20)).await.unwrap(),
            0
        );
        assert!(operator.rss_kib().is_err());
    }

    #[tokio::test]
    async fn an_early_exit_is_an_error_with_the_log_tail() {
        let folder = tempfile::tempdir().unwrap();
        let error = Operator::start(stand_in(folder.path(), &["--die", "now"]))
            .await
            .unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("exit code 1") && error.contains("no such flag: --die"),
            "{error}"
        );
    }
}

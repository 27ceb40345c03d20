//! Helm 3 and Helm 4.
//!
//! Input: arguments and a kubeconfig.
//! Output: the output of Helm. Helm is taken from `PATH` if it has the version; otherwise Go builds
//! it into the cache.
//! Invariants: each call has its own temporary home; it never uses the user's Helm configuration,
//! plugins or cache.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::control_plane::{go_version, in_path, pinned_version};
use crate::guard::GuardedCommand;

const BUILD_TIMEOUT: Duration = Duration::from_mins(30);

/// Longer than the default of Helm's `--timeout`, five minutes, so that Helm reports its own error.
const RUN_TIMEOUT: Duration = Duration::from_mins(6);

/// A major version of Helm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helm {
    /// Helm 3, which applies objects with a three-way merge.
    V3,
    /// Helm 4, which applies objects on the server.
    V4,
}

/// The result of a run of Helm.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a successful run.
    ///
    /// # Errors
    /// If Helm failed; the error contains its output.
    pub fn success(self) -> Result<String> {
        if self.code != 0 {
            bail!(
                "helm exited with code {}: {}{}",
                self.code,
                self.stdout,
                self.stderr
            );
        }
        Ok(self.stdout)
    }
}

impl Helm {
    /// The package that Go builds if `PATH` has no Helm of this major version.
    fn package(self) -> &'static str {
        match self {
            Self::V3 => "helm.sh/helm/v3/cmd/helm@v3.19.0",
            Self::V4 => "helm.sh/helm/v4/cmd/helm@v4.3.1",
        }
    }

    /// The executable. Blocks while Go builds it.
    ///
    /// # Errors
    /// If `PATH` has no Helm of this major version and it cannot be built.
    pub fn program(self) -> Result<PathBuf> {
        if let Some((found, version)) = helm_in_path()
            && *version == self
        {
            return Ok(found.clone());
        }
        let go = go_version().context("Helm is not installed, and Go to build it is missing")?;
        let key = cache::key("helm", &[self.package().as_bytes(), go.as_bytes()]);
        let folder = cache::get_or_build(&key, "helm", |folder| {
            let mut command = Command::new("go");
            command
                .args(["install", self.package()])
                .env("GOBIN", folder)
                .env_remove("GOFLAGS")
                .current_dir(folder);
            GuardedCommand::new("go install", command, folder.join("log")).run(BUILD_TIMEOUT)
        })?;
        Ok(folder.join("helm"))
    }

    /// Runs Helm. Without a kubeconfig it has no cluster (`template`, `lint`, `package`). Without
    /// `--kube-version`, `template` and `lint` render for the version of the control plane, because a
    /// Helm that Go installs takes Kubernetes for 1.20.
    ///
    /// Blocks: inside a runtime use `spawn_blocking` or `run_async`.
    ///
    /// # Errors
    /// If Helm cannot be built or does not end. `Output` reports the failure of Helm itself.
    pub fn run<A: AsRef<OsStr>>(self, args: &[A], kubeconfig: Option<&Path>) -> Result<Output> {
        let homes = tempfile::Builder::new()
            .prefix("doppler-prefect-helm-")
            .tempdir()?;
        let home = homes.path();
        let mut command = Command::new("/bin/sh");
        // The guard writes one log; the shell separates Helm's two outputs.
        command
            .args([
                "-c",
                r#"exec "$@" >"$HELM_STDOUT" 2>"$HELM_STDERR""#,
                "helm",
            ])
            .arg(self.program()?)
            .args(args)
            .args(kube_version(args)?)
            .env("HELM_STDOUT", home.join("stdout"))
            .env("HELM_STDERR", home.join("stderr"))
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"))
            .env("HELM_PLUGINS", home.join("plugins"))
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("no_proxy", "127.0.0.1,localhost")
            .env_remove("HELM_NAMESPACE")
            .env_remove("HELM_DRIVER")
            .env_remove("HELM_KUBECONTEXT")
            // Without KUBECONFIG Helm would use the kubeconfig of the user.
            .env("KUBECONFIG", kubeconfig.unwrap_or(&home.join("no-cluster")));
        let child = GuardedCommand::new("helm", command, home.join("log")).start()?;
        let code = child.wait(RUN_TIMEOUT).context("Helm did not end")?;
        Ok(Output {
            code,
            stdout: std::fs::read_to_string(home.join("stdout"))?,
            stderr: std::fs::read_to_string(home.join("stderr"))?,
        })
    }

    /// Runs Helm from inside a runtime.
    ///
    /// # Errors
    /// As for `run`.
    pub async fn run_async(self, args: &[&str], kubeconfig: Option<&Path>) -> Result<Output> {
        let args: Vec<String> = args.iter().map(|&argument| argument.to_owned()).collect();
        let kubeconfig = kubeconfig.map(Path::to_owned);
        tokio::task::spawn_blocking(move || self.run(&args, kubeconfig.as_deref())).await?
    }
}

/// The version to render for, if the arguments need one and have none.
fn kube_version<A: AsRef<OsStr>>(args: &[A]) -> Result<Vec<String>> {
    let is = |argument: &A, text: &str| argument.as_ref() == text;
    let renders = args
        .first()
        .is_some_and(|first| is(first, "template") || is(first, "lint"));
    if !renders || args.iter().any(|argument| is(argument, "--kube-version")) {
        return Ok(Vec::new());
    }
    Ok(vec![
        "--kube-version".to_owned(),
        pinned_version()?.to_string(),
    ])
}

/// The Helm in `PATH` and its major version.
fn helm_in_path() -> Option<&'static (PathBuf, Helm)> {
    static FOUND: OnceLock<Option<(PathBuf, Helm)>> = OnceLock::new();
    let find = || {
        let program = in_path("helm")?;
        let version = Command::new(&program)
            .args(["version", "--template", "{{.Version}}"])
            .output()
            .ok()?;
        let helm = match version.stdout.get(..3)? {
            b"v3." => Helm::V3,
            b"v4." => Helm::V4,
            _ => return None,
        };
        Some((program, helm))
    };
    FOUND.get_or_init(find).as_ref()
}

/// Runs Helm 3. See [`Helm::run`].
///
/// # Errors
/// As for `Helm::run`.
pub fn helm<A: AsRef<OsStr>>(args: &[A], kubeconfig: Option<&Path>) -> Result<Output> {
    Helm::V3.run(args, kubeconfig)
}

/// Runs Helm 3 from inside a runtime. See [`Helm::run_async`].
///
/// # Errors
/// As for `Helm::run`.
pub async fn helm_async(args: &[&str], kubeconfig: Option<&Path>) -> Result<Output> {
    Helm::V3.run_async(args, kubeconfig).await
}

#[cfg(test)]
mod tests;

//! The real helm.
//!
//! In: arguments and a kubeconfig. Out: what helm printed. It is taken from `PATH`, else built with Go into the cache.
//! Each call has homes of its own in a temporary folder.
//!
//! Never: the user's helm configuration, plugins or cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::control_plane::{go_version, in_path};
use crate::guard::GuardedCommand;

/// The version that is built when `PATH` has none.
const PACKAGE: &str = "helm.sh/helm/v3/cmd/helm@v3.19.0";

const BUILD_TIMEOUT: Duration = Duration::from_mins(30);

/// Longer than helm's own `--timeout` of five minutes, so that its own message is seen.
const RUN_TIMEOUT: Duration = Duration::from_mins(6);

/// What a run of helm gave.
#[derive(Debug, Clone)]
pub struct Output {
    /// Helm's exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Output {
    /// What it printed, if it went well.
    ///
    /// # Errors
    /// When helm failed: what it said.
    pub fn success(self) -> Result<String> {
        if self.code != 0 {
            bail!(
                "helm ended with exit code {}: {}{}",
                self.code,
                self.stdout,
                self.stderr
            );
        }
        Ok(self.stdout)
    }
}

/// Where helm is. It blocks while it is built.
///
/// # Errors
/// When it is neither on `PATH` nor can be built.
pub fn program() -> Result<PathBuf> {
    if let Some(found) = in_path("helm") {
        return Ok(found);
    }
    let go = go_version().context("helm is not there and cannot be built")?;
    let key = cache::key("helm", &[PACKAGE.as_bytes(), go.as_bytes()]);
    let folder = cache::get_or_build(&key, "helm", |folder| {
        let mut command = Command::new("go");
        command
            .args(["install", PACKAGE])
            .env("GOBIN", folder)
            .env_remove("GOFLAGS")
            .current_dir(folder);
        GuardedCommand::new("go install", command, folder.join("log")).run(BUILD_TIMEOUT)
    })?;
    Ok(folder.join("helm"))
}

/// Runs helm; without a kubeconfig it has no cluster (`template`, `lint`, `package`).
///
/// It blocks: inside a runtime call it through `spawn_blocking`, or `helm_async`.
///
/// # Errors
/// When helm cannot be had or does not end; that it failed is the `Output`'s to say.
pub fn helm<A: AsRef<std::ffi::OsStr>>(args: &[A], kubeconfig: Option<&Path>) -> Result<Output> {
    let homes = tempfile::Builder::new()
        .prefix("doppler-prefect-helm-")
        .tempdir()?;
    let home = homes.path();
    let mut command = Command::new("/bin/sh");
    // The guardian keeps one log for both; helm's two outputs are told apart here.
    command
        .args([
            "-c",
            r#"exec "$@" >"$HELM_STDOUT" 2>"$HELM_STDERR""#,
            "helm",
        ])
        .arg(program()?)
        .args(args)
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
        // An empty file rather than none: without one helm asks the user's.
        .env("KUBECONFIG", kubeconfig.unwrap_or(&home.join("no-cluster")));
    let child = GuardedCommand::new("helm", command, home.join("log")).start()?;
    let code = child.wait(RUN_TIMEOUT).context("helm did not end")?;
    Ok(Output {
        code,
        stdout: std::fs::read_to_string(home.join("stdout"))?,
        stderr: std::fs::read_to_string(home.join("stderr"))?,
    })
}

/// As `helm`, from inside a runtime.
///
/// # Errors
/// As `helm`.
pub async fn helm_async(args: &[&str], kubeconfig: Option<&Path>) -> Result<Output> {
    let args: Vec<String> = args.iter().map(|&argument| argument.to_owned()).collect();
    let kubeconfig = kubeconfig.map(Path::to_owned);
    tokio::task::spawn_blocking(move || helm(&args, kubeconfig.as_deref())).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::ControlPlane;

    #[test]
    fn separates_stdout_and_stderr() {
        let version = helm(&["version", "--template", "{{.Version}}"], None).unwrap();
        assert!(
            version.clone().success().unwrap().starts_with("v3."),
            "{version:?}"
        );
        assert_eq!(version.stderr, "");
        let failed = helm(&["template", "/nowhere"], None).unwrap();
        assert_ne!(failed.code, 0);
        assert!(
            failed
                .success()
                .unwrap_err()
                .to_string()
                .contains("/nowhere")
        );
    }

    #[tokio::test]
    async fn installs_and_uninstalls_on_the_control_plane() -> Result<()> {
        let plane = ControlPlane::shared()?;
        let chart = tempfile::tempdir()?;
        std::fs::create_dir(chart.path().join("templates"))?;
        std::fs::write(
            chart.path().join("Chart.yaml"),
            "{apiVersion: v2, name: tiny, version: 0.1.0}",
        )?;
        let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: from-helm, namespace: tiny}}";
        std::fs::write(chart.path().join("templates/map.yaml"), map)?;
        let chart = chart.path().to_str().context("a path that is not UTF-8")?;
        let kubeconfig = plane.admin_kubeconfig_path();

        let install = [
            "install",
            "tiny",
            chart,
            "--namespace",
            "tiny",
            "--create-namespace",
        ];
        helm_async(&install, Some(&kubeconfig)).await?.success()?;
        let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
            kube::Api::namespaced(plane.admin_client()?, "tiny");
        maps.get("from-helm").await?;

        let uninstall = ["uninstall", "tiny", "--namespace", "tiny"];
        helm_async(&uninstall, Some(&kubeconfig)).await?.success()?;
        assert!(maps.get_opt("from-helm").await?.is_none());
        Ok(())
    }
}

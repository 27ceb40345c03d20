//! Finds or builds the binaries of the control plane.
//!
//! Input: `KUBEBUILDER_ASSETS`, `PATH`, the store of `setup-envtest`, and the pinned Go module
//! `control-plane` beside this crate. Output: the paths of three binaries.
//! Invariants: the sources are searched in this order. A missing binary is built once from the
//! pinned module, into the cache. No binary is downloaded.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::envtest_store::{default_store, find_servers};
use super::executable::{executable, in_path};
use crate::cache;
use crate::guard::GuardedCommand;

/// The version of Kubernetes in go.mod. Without these flags the API server reports v0.0.0.
const LINK_FLAGS: &str = "-s -w \
    -X k8s.io/component-base/version.gitVersion=v1.34.4 \
    -X k8s.io/component-base/version.gitMajor=1 \
    -X k8s.io/component-base/version.gitMinor=34";

const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/control-plane");

/// The build of kube-apiserver takes six minutes on two idle cores.
const BUILD_TIMEOUT: Duration = Duration::from_mins(40);

/// The three binaries.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The database of the API server.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// The controllers: garbage collection, namespaces, service accounts, Jobs.
    pub kube_controller_manager: PathBuf,
}

impl Binaries {
    /// Finds the binaries, or builds them. It blocks, for minutes if it builds.
    ///
    /// # Errors
    /// When a binary is missing and cannot be built.
    pub fn find() -> Result<Self> {
        let store = default_store().zip(pinned_minor());
        let servers = store.and_then(|(store, minor)| find_servers(&store, minor));
        let servers = servers.as_deref();
        Ok(Self {
            etcd: find("etcd", "go.etcd.io/etcd/server/v3", servers)?,
            kube_apiserver: find(
                "kube-apiserver",
                "k8s.io/kubernetes/cmd/kube-apiserver",
                servers,
            )?,
            // setup-envtest does not download this one.
            kube_controller_manager: find(
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
                None,
            )?,
        })
    }
}

fn find(name: &str, package: &str, downloaded: Option<&Path>) -> Result<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let in_folder = |folder: &Path| executable(folder.join(name));
    let found = assets
        .as_deref()
        .and_then(in_folder)
        .or_else(|| in_path(name))
        .or_else(|| downloaded.and_then(in_folder));
    match found {
        Some(found) => Ok(found),
        None => build(name, package),
    }
}

/// The minor version of Kubernetes in go.mod.
fn pinned_minor() -> Option<u32> {
    let go_mod = std::fs::read_to_string(Path::new(MODULE).join("go.mod")).ok()?;
    let version = go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v1."))?;
    version.split('.').next()?.parse().ok()
}

fn build(name: &str, package: &str) -> Result<PathBuf> {
    let module = Path::new(MODULE);
    let go_mod = std::fs::read(module.join("go.mod"))?;
    let go_sum = std::fs::read(module.join("go.sum"))?;
    let go = go_version().with_context(|| format!("{name} is missing and cannot be built"))?;
    let inputs = [
        &go_mod,
        &go_sum,
        go.as_bytes(),
        LINK_FLAGS.as_bytes(),
        package.as_bytes(),
    ];
    let folder = cache::get_or_build(&cache::key(name, &inputs), name, |folder| {
        let mut command = Command::new("go");
        command
            .current_dir(module)
            .args(["build", "-trimpath", "-ldflags", LINK_FLAGS, "-o"])
            .arg(folder.join(name))
            .arg(package);
        GuardedCommand::new("go build", command, folder.join("log")).run(BUILD_TIMEOUT)
    })?;
    Ok(folder.join(name))
}

/// The version that the Go on `PATH` reports.
///
/// # Errors
/// When Go is missing.
pub(crate) fn go_version() -> Result<String> {
    let output = Command::new("go")
        .arg("version")
        .current_dir(MODULE)
        .output()
        .context(
            "go cannot be run: install Go, or set KUBEBUILDER_ASSETS to a folder with the binaries",
        )?;
    if !output.status.success() {
        bail!(
            "go version failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_version_is_the_reported_version() {
        let minor = pinned_minor().unwrap();
        assert!(LINK_FLAGS.ends_with(&format!("gitMinor={minor}")));
    }
}

//! Finds or builds the binaries of the control plane.
//!
//! Input: the pinned version, `KUBEBUILDER_ASSETS`, `PATH`, and the store of `setup-envtest`.
//! Output: the paths of three binaries, and the version of the API server.
//! Invariants: the sources are searched in this order. If the environment selects a version, only
//! the store is searched, because the others may have any version. A missing binary is built once
//! from the pinned module, into the cache. No binary is downloaded.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::envtest_store::{default_store, find_servers};
use super::executable::{executable, in_path};
use super::version::{Pinned, Version};
use crate::cache;
use crate::guard::GuardedCommand;

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
    /// The version of the API server.
    pub version: Version,
}

impl Binaries {
    /// Finds the binaries, or builds them. It blocks, for minutes if it builds.
    ///
    /// # Errors
    /// When a binary is missing and cannot be built.
    pub fn find() -> Result<Self> {
        let pinned = Pinned::from_environment()?;
        let servers = default_store().and_then(|store| find_servers(&store, &pinned));
        let servers = servers.as_deref();
        let etcd = find("etcd", "go.etcd.io/etcd/server/v3", &pinned, servers)?;
        let package = |name: &str| format!("k8s.io/kubernetes/cmd/{name}");
        let find_server = |name: &str, servers| find(name, &package(name), &pinned, servers);
        let kube_apiserver = find_server("kube-apiserver", servers)?;
        Ok(Self {
            etcd,
            version: Version::reported_by(&kube_apiserver)?,
            kube_apiserver,
            // setup-envtest does not download this one.
            kube_controller_manager: find_server("kube-controller-manager", None)?,
        })
    }
}

fn find(name: &str, package: &str, pinned: &Pinned, downloaded: Option<&Path>) -> Result<PathBuf> {
    let in_folder = |folder: &Path| executable(folder.join(name));
    let of_any_version = || {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        assets
            .as_deref()
            .and_then(in_folder)
            .or_else(|| in_path(name))
    };
    let found = (!pinned.is_selected)
        .then(of_any_version)
        .flatten()
        .or_else(|| downloaded.and_then(in_folder));
    match found {
        Some(found) => Ok(found),
        None => build(name, package, pinned),
    }
}

fn build(name: &str, package: &str, pinned: &Pinned) -> Result<PathBuf> {
    let module = &pinned.module;
    let go_mod = std::fs::read(module.join("go.mod"))?;
    let go_sum = std::fs::read(module.join("go.sum"))?;
    let go = go_version().with_context(|| format!("{name} is missing and cannot be built"))?;
    let link_flags = pinned.link_flags();
    let inputs = [
        &go_mod,
        &go_sum,
        go.as_bytes(),
        link_flags.as_bytes(),
        package.as_bytes(),
    ];
    let Version { major, minor, .. } = pinned.version;
    let key = cache::key(&format!("{name}-{major}.{minor}"), &inputs);
    let what = format!("{name} of Kubernetes {major}.{minor}");
    let folder = cache::get_or_build(&key, &what, |folder| {
        let mut command = Command::new("go");
        command
            .current_dir(module)
            .args(["build", "-trimpath", "-ldflags", &link_flags, "-o"])
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
        .current_dir(env!("CARGO_MANIFEST_DIR"))
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

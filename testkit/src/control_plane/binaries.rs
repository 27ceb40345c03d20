//! Where the control plane's binaries come from.
//!
//! In: `KUBEBUILDER_ASSETS`, `PATH`, and the pinned Go module `control-plane` beside this crate. Out: the paths of
//! three binaries. What the first two lack is built from the third, once, into the cache.
//!
//! Never: a download of a binary, or a version that go.mod does not pin.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::guard::GuardedCommand;

/// Kubernetes' own version, as go.mod pins it; without these flags the server calls itself v0.0.0.
const LINK_FLAGS: &str = "-s -w \
    -X k8s.io/component-base/version.gitVersion=v1.34.4 \
    -X k8s.io/component-base/version.gitMajor=1 \
    -X k8s.io/component-base/version.gitMinor=34";

const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/control-plane");

/// kube-apiserver takes six minutes on two idle cores.
const BUILD_TIMEOUT: Duration = Duration::from_mins(40);

/// The three binaries.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The store.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// Garbage collection, namespaces, service accounts, Jobs.
    pub kube_controller_manager: PathBuf,
}

impl Binaries {
    /// Finds them, or builds them. It blocks: minutes, the first time.
    ///
    /// # Errors
    /// When a binary is neither there nor can be built.
    pub fn find() -> Result<Self> {
        Ok(Self {
            etcd: find("etcd", "go.etcd.io/etcd/server/v3")?,
            kube_apiserver: find("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver")?,
            kube_controller_manager: find(
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            )?,
        })
    }
}

fn find(name: &str, package: &str) -> Result<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    match assets
        .and_then(|assets| executable(assets.join(name)))
        .or_else(|| in_path(name))
    {
        Some(found) => Ok(found),
        None => build(name, package),
    }
}

/// The program of that name on `PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .find_map(|folder| executable(folder.join(name)))
}

fn executable(path: PathBuf) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = path.metadata().ok()?;
    (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(path)
}

fn build(name: &str, package: &str) -> Result<PathBuf> {
    let module = Path::new(MODULE);
    let go_mod = std::fs::read(module.join("go.mod"))?;
    let go_sum = std::fs::read(module.join("go.sum"))?;
    let go = go_version().with_context(|| format!("{name} is not there and cannot be built"))?;
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

/// What the Go that is on `PATH` calls itself.
///
/// # Errors
/// When there is no Go: what to install.
pub(crate) fn go_version() -> Result<String> {
    let output = Command::new("go")
        .arg("version")
        .current_dir(MODULE)
        .output()
        .context("go cannot be run: install Go (or set KUBEBUILDER_ASSETS to a folder with the binaries)")?;
    if !output.status.success() {
        bail!(
            "go version failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

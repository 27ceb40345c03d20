//! The store of `setup-envtest`: etcd and kube-apiserver that the user has downloaded with it.
//!
//! Input: the store's folder, and the pinned version of kube-controller-manager. Output: the folder
//! of one version with both servers.
//! Invariants: the controller manager is not newer than the API server, and at most one minor
//! version older, as Kubernetes supports it. If the environment selects a version, the API server
//! has this minor version. Nothing is downloaded or written.

use std::path::{Path, PathBuf};

use super::executable::executable;
use super::version::{Pinned, Version};

/// The servers in a folder of the store.
const SERVERS: [&str; 2] = ["etcd", "kube-apiserver"];

/// The store's folder: `kubebuilder-envtest` in `$XDG_DATA_HOME` or `~/.local/share`.
pub(super) fn default_store() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let data = variable("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share")))?;
    Some(data.join("kubebuilder-envtest"))
}

/// The folder of the best version: the pinned minor version, or else the next one. The newest patch
/// wins.
pub(super) fn find_servers(store: &Path, pinned: &Pinned) -> Option<PathBuf> {
    let entries = std::fs::read_dir(store.join("k8s")).ok()?;
    let mut best: Option<(Version, PathBuf)> = None;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(version) = name.to_str().and_then(version_for_this_machine) else {
            continue;
        };
        let folder = entry.path();
        let is_complete = SERVERS
            .iter()
            .all(|server| executable(folder.join(server)).is_some());
        let Some(skew) = supported_skew(version, pinned).filter(|_| is_complete) else {
            continue;
        };
        let is_better = best.as_ref().is_none_or(|(best, _)| {
            let best_skew = supported_skew(*best, pinned);
            Some(skew) < best_skew || (Some(skew) == best_skew && version > *best)
        });
        if is_better {
            best = Some((version, folder));
        }
    }
    best.map(|(_, folder)| folder)
}

/// How many minor versions the API server is newer than the controller manager, if that is
/// supported.
fn supported_skew(server: Version, pinned: &Pinned) -> Option<u32> {
    let skew = server.minor.checked_sub(pinned.version.minor)?;
    let most = u32::from(!pinned.is_selected);
    (server.major == pinned.version.major && skew <= most).then_some(skew)
}

/// The version of a folder name such as `1.34.1-linux-amd64`, if it is for this machine.
fn version_for_this_machine(name: &str) -> Option<Version> {
    Version::parse(name.strip_suffix(&platform())?)
}

/// The suffix of folder names for this machine, with Go's names.
fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("-{}-{arch}", std::env::consts::OS)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Creates a folder of the store with these servers.
    fn add(store: &Path, name: &str, servers: &[&str]) -> PathBuf {
        let folder = store.join("k8s").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for server in servers {
            let file = folder.join(server);
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o555)).unwrap();
        }
        folder
    }

    fn pinned(minor: u32, is_selected: bool) -> Pinned {
        Pinned {
            module: PathBuf::new(),
            version: Version {
                major: 1,
                minor,
                patch: 4,
            },
            is_selected,
        }
    }

    fn add_version(store: &Path, version: &str) -> PathBuf {
        add(store, &format!("{version}{}", platform()), &SERVERS)
    }

    #[test]
    fn prefers_the_pinned_minor_version_and_its_newest_patch() {
        let store = tempfile::tempdir().unwrap();
        let path = store.path();
        assert_eq!(find_servers(path, &pinned(34, false)), None);
        let newer = add_version(path, "1.35.0");
        assert_eq!(find_servers(path, &pinned(34, false)), Some(newer));
        add_version(path, "1.34.9");
        let newest = add_version(path, "1.34.10");
        assert_eq!(find_servers(path, &pinned(34, false)), Some(newest));
    }

    #[test]
    fn skips_versions_with_an_unsupported_skew() {
        let store = tempfile::tempdir().unwrap();
        add_version(store.path(), "1.33.5");
        add_version(store.path(), "1.36.0");
        add_version(store.path(), "2.34.0");
        assert_eq!(find_servers(store.path(), &pinned(34, false)), None);
    }

    #[test]
    fn a_selected_version_has_no_skew() {
        let store = tempfile::tempdir().unwrap();
        let newer = add_version(store.path(), "1.35.0");
        assert_eq!(find_servers(store.path(), &pinned(34, true)), None);
        assert_eq!(find_servers(store.path(), &pinned(35, true)), Some(newer));
    }

    #[test]
    fn skips_incomplete_sets_and_other_platforms() {
        let store = tempfile::tempdir().unwrap();
        let path = store.path();
        let incomplete = format!("1.34.1{}", platform());
        add(path, &incomplete, &["kube-apiserver", "kubectl"]);
        add(path, "1.34.2-plan9-amd64", &SERVERS);
        add(path, "latest", &SERVERS);
        assert_eq!(find_servers(path, &pinned(34, false)), None);
    }
}

//! The store of `setup-envtest`: etcd and kube-apiserver that the user has downloaded with it.
//!
//! Input: the store's folder, and the minor version of the pinned kube-controller-manager. Output:
//! the folder of one version with both servers.
//! Invariants: the controller manager is not newer than the API server, and at most one minor
//! version older, as Kubernetes supports it. Nothing is downloaded or written.

use std::path::{Path, PathBuf};

use super::executable::executable;

/// The servers in a folder of the store.
const SERVERS: [&str; 2] = ["etcd", "kube-apiserver"];

/// Major, minor and patch version.
type Version = (u32, u32, u32);

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
pub(super) fn find_servers(store: &Path, pinned_minor: u32) -> Option<PathBuf> {
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
        let Some(skew) = supported_skew(version, pinned_minor).filter(|_| is_complete) else {
            continue;
        };
        let is_better = best.as_ref().is_none_or(|(best, _)| {
            let best_skew = supported_skew(*best, pinned_minor);
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
fn supported_skew((major, minor, _): Version, pinned_minor: u32) -> Option<u32> {
    let skew = minor.checked_sub(pinned_minor)?;
    (major == 1 && skew <= 1).then_some(skew)
}

/// The version of a folder name such as `1.34.1-linux-amd64`, if it is for this machine.
fn version_for_this_machine(name: &str) -> Option<Version> {
    let version = name.strip_suffix(&platform())?;
    let mut numbers = version.split('.').map(str::parse);
    let parsed = (
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    );
    numbers.next().is_none().then_some(parsed)
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

    fn add_version(store: &Path, version: &str) -> PathBuf {
        add(store, &format!("{version}{}", platform()), &SERVERS)
    }

    #[test]
    fn prefers_the_pinned_minor_version_and_its_newest_patch() {
        let store = tempfile::tempdir().unwrap();
        let path = store.path();
        assert_eq!(find_servers(path, 34), None);
        let newer = add_version(path, "1.35.0");
        assert_eq!(find_servers(path, 34), Some(newer));
        add_version(path, "1.34.9");
        let pinned = add_version(path, "1.34.10");
        assert_eq!(find_servers(path, 34), Some(pinned));
    }

    #[test]
    fn skips_versions_with_an_unsupported_skew() {
        let store = tempfile::tempdir().unwrap();
        add_version(store.path(), "1.33.5");
        add_version(store.path(), "1.36.0");
        add_version(store.path(), "2.34.0");
        assert_eq!(find_servers(store.path(), 34), None);
    }

    #[test]
    fn skips_incomplete_sets_and_other_platforms() {
        let store = tempfile::tempdir().unwrap();
        let path = store.path();
        let incomplete = format!("1.34.1{}", platform());
        add(path, &incomplete, &["kube-apiserver", "kubectl"]);
        add(path, "1.34.2-plan9-amd64", &SERVERS);
        add(path, "latest", &SERVERS);
        assert_eq!(find_servers(path, 34), None);
    }
}

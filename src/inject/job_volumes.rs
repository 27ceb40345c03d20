//! The volumes of a pool's jobs, and what their first container mounts.
//!
//! Input: a job as the worker renders it.
//! Output: plain values.
//! Invariants: pure. What only a run resolves is left out.

use super::rendering::{Job, Node, Text};

/// The volumes and mounts of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JobVolumes {
    volumes: Vec<Volume>,
    mounts: Vec<VolumeMount>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Volume {
    name: String,
    /// The Secret that it holds.
    secret: Option<String>,
}

/// A mount of the first container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VolumeMount {
    /// Name of the volume.
    pub(super) volume: String,
    path: String,
    /// Whether it mounts only a part of the volume, which never changes.
    is_part: bool,
}

impl JobVolumes {
    /// Reads the volumes of the pod and the mounts of its first container.
    pub(super) fn of(job: Job<'_>) -> Self {
        let volumes = job.pod().get("volumes").elements().filter_map(volume_of);
        let mounts = job.container().get("volumeMounts").elements();
        Self {
            volumes: volumes.collect(),
            mounts: mounts.filter_map(mount_of).collect(),
        }
    }

    /// Whether the pod has a volume of this name.
    pub(super) fn has_volume(&self, name: &str) -> bool {
        self.volumes.iter().any(|volume| volume.name == name)
    }

    /// What is mounted at a path.
    pub(super) fn at<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a VolumeMount> {
        let mounts = self.mounts.iter();
        mounts.filter(move |mount| is_same_path(&mount.path, path))
    }

    /// Whether the whole Secret of this name is mounted at a path.
    pub(super) fn mounts_secret(&self, secret: &str, path: &str) -> bool {
        self.at(path).any(|mount| {
            let mut volumes = self.volumes.iter();
            let holds = volumes.any(|volume| {
                volume.name == mount.volume && volume.secret.as_deref() == Some(secret)
            });
            holds && !mount.is_part
        })
    }
}

fn volume_of(volume: Node<'_>) -> Option<Volume> {
    Some(Volume {
        name: known(volume.get("name"))?,
        secret: known(volume.get("secret").get("secretName")),
    })
}

fn mount_of(mount: Node<'_>) -> Option<VolumeMount> {
    let has_text = |key: &str| {
        let node = mount.get(key);
        !node.is_unset() && !node.text().is("")
    };
    Some(VolumeMount {
        volume: known(mount.get("name"))?,
        path: known(mount.get("mountPath"))?,
        is_part: has_text("subPath") || has_text("subPathExpr"),
    })
}

fn known(node: Node<'_>) -> Option<String> {
    match node.text() {
        Text::Known(text) => Some(text.into_owned()),
        Text::Unresolved(_) | Text::None => None,
    }
}

/// Whether two texts are the same directory to a container runtime.
fn is_same_path(one: &str, other: &str) -> bool {
    let parts = |path: &str| {
        let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
        parts.map(str::to_owned).collect::<Vec<_>>()
    };
    parts(one) == parts(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_as_directories() {
        for (one, other, expected) in [
            ("/etc/doppler", "/etc/doppler", true),
            ("/etc/doppler/", "/etc/doppler", true),
            ("//etc/./doppler", "/etc/doppler", true),
            ("/etc", "/etc/doppler", false),
            ("/etc/doppler/x", "/etc/doppler", false),
        ] {
            assert_eq!(is_same_path(one, other), expected, "{one}");
        }
    }
}

//! Where the files of a binding are in job pods.
//!
//! Input: `mount` of an item of `spec.inject` as users write it.
//! Output: its type and schema.
//! Invariants: data only. A path has no characters that a template of Prefect, a shell or Kubernetes
//! reads in another way. List items have no schema defaults, so that a second apply changes nothing.

use kube::{KubeSchema, core::Rule};
use serde::{Deserialize, Serialize};

/// Directories on whose content the programs of an image, or its container runtime, rely. A mount at
/// or below one of them is refused.
pub const RESERVED_TREES: &str = "^/(bin|boot|dev|lib|lib32|lib64|libx32|proc|run|sbin|sys|usr|etc/ssl|etc/pki|etc/ld[.]so[.]conf[.]d|opt/prefect|var/run)(/|$)";
/// Directories that a mount would hide as a whole. Below them, it is allowed.
pub const RESERVED_ROOTS: [&str; 7] = ["/etc", "/home", "/mnt", "/opt", "/root", "/tmp", "/var"];

/// Mounts files of `spec.managedSecret.files` in the first container, read-only, as a volume of the
/// Secret with the files. They are never environment variables.
///
/// The schema has no defaults in it, as in [`WorkPoolSpec`](super::WorkPoolSpec).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(
    description = "Mounts files of `spec.managedSecret.files` in the first container, read-only, as a volume of the Secret with the files. They are never environment variables. A process that reads a file again sees a change within about a minute and a half, without a restart."
)]
#[serde(rename_all = "camelCase")]
pub struct MountSpec {
    /// The directory of the files in the container, such as `/etc/doppler`: absolute, of letters,
    /// digits, `.`, `_` and `-`, and without a `/` at the end. What the image has there is hidden, so
    /// that directories of the system are refused.
    #[schemars(length(min = 2, max = 255), regex(pattern = "^(/[A-Za-z0-9._-]+)+$"))]
    #[x_kube(validation = no_dots())]
    #[x_kube(validation = not_reserved())]
    pub path: String,
    /// The files to mount, each by its name in `spec.managedSecret.files`. Default: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)))]
    #[x_kube(validation = Rule::new("self.all(one, self.exists_one(other, other == one))")
        .message("files names a file twice: remove one of them"))]
    pub files: Vec<String>,
}

fn no_dots() -> Rule {
    Rule::new("!self.matches('/[.][.]?(/|$)')")
        .message("path has a part . or ..: write the directory itself")
}

fn not_reserved() -> Rule {
    let roots = RESERVED_ROOTS.map(|root| format!("'{root}'")).join(", ");
    Rule::new(format!(
        "!self.matches('{RESERVED_TREES}') && !(self in [{roots}])"
    ))
    .message("path is a directory that the programs of the image rely on: use one of your own, such as /etc/doppler")
}

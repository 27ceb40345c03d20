//! The options of a node, and the context that its tasks share.
//!
//! Input: the options of a test. Output: `NodeContext`.
//! Invariants: the folder of the context is removed with it.

use std::path::PathBuf;
use std::time::Duration;

use super::records::Records;
use crate::folder::ScratchDir;

/// The options of a node.
#[derive(Clone)]
pub struct NodeOptions {
    /// The Node object's name.
    pub name: String,
    /// The cluster, and the account of the node.
    pub kubeconfig: PathBuf,
    /// The namespace whose pods the node runs; none means all namespaces. Two nodes must not run
    /// the same pods.
    pub namespace: Option<String>,
    /// The working directory of the processes; none means a new folder for each pod.
    pub working_dir: Option<PathBuf>,
    /// Environment of every process, such as `SSL_CERT_FILE`. The environment of a pod takes
    /// precedence.
    pub extra_env: Vec<(String, String)>,
    /// The retry interval for a container that cannot be created; a kubelet retries after 10 to 15
    /// s.
    pub retry: Duration,
    /// The interval at which the files of Secret volumes are compared with their Secrets; a kubelet does
    /// so about once a minute.
    pub sync: Duration,
    /// Images with an entrypoint. Other images run the `command` or `args` of the container.
    pub images: Vec<Image>,
}

/// An image that is not Prefect's.
#[derive(Clone)]
pub struct Image {
    /// The image's name without its tag.
    pub repository: String,
    /// Program and first arguments. The `command` of a container replaces them.
    pub entrypoint: Vec<String>,
    /// Environment of this image's processes.
    pub env: Vec<(String, String)>,
}

impl NodeOptions {
    /// A node `name` that runs the pods of all namespaces.
    #[must_use]
    pub fn new(name: &str, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            kubeconfig: kubeconfig.into(),
            namespace: None,
            working_dir: None,
            extra_env: Vec::new(),
            retry: Duration::from_secs(1),
            sync: Duration::from_secs(1),
            images: Vec::new(),
        }
    }
}

/// The context of a node's tasks.
pub(super) struct NodeContext {
    pub(super) options: NodeOptions,
    pub(super) venv: PathBuf,
    pub(super) folder: ScratchDir,
    pub(super) records: Records,
}

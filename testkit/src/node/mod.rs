//! A node that runs pods as local processes: pods of Jobs, and of Deployments whose image it knows.
//!
//! Input: a cluster, and the substitutes for images and network.
//! Output: a Node object; pods that are bound to it, run, and report their status as a kubelet
//! does; for each pod its log and the names of its environment variables.
//! Invariants: the node takes only pods without a node, and runs only the first container: no
//! volumes, init containers or probes, and restarts only for policy `Always`. It shows a value of
//! an environment only to a test that asks for it by name.

mod environment;
mod expand;
mod pod;
mod process;
mod records;
mod status;
mod watch;

pub use environment::{Environment, References, Sources, command_line, resolve};
pub use expand::expand;
pub use records::PodRecord;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use crate::folder::ScratchDir;
use crate::prefect::virtual_environment;
use records::Records;

/// The options of a node.
#[derive(Clone)]
pub struct NodeOptions {
    /// The Node object's name.
    pub name: String,
    /// The kubeconfig of the node.
    pub kubeconfig: PathBuf,
    /// The namespace whose pods the node takes. Default: all namespaces. Two nodes must not serve
    /// the same pods.
    pub namespace: Option<String>,
    /// The working directory of processes. Default: a new folder for each pod.
    pub working_dir: Option<PathBuf>,
    /// Variables for every process, such as `SSL_CERT_FILE`. The pod's own environment overrides
    /// them.
    pub extra_env: Vec<(String, String)>,
    /// The interval at which a container that cannot be created is retried; a kubelet takes 10 to
    /// 15 s.
    pub retry: Duration,
    /// Images with an entrypoint. Pods of other images run their `command` or `args`.
    pub images: Vec<Image>,
}

/// The substitute for an image that is not Prefect's.
#[derive(Clone)]
pub struct Image {
    /// The image's name without its tag.
    pub repository: String,
    /// Program and first arguments; a container's `command` replaces them.
    pub entrypoint: Vec<String>,
    /// Environment of this image's processes.
    pub env: Vec<(String, String)>,
}

impl NodeOptions {
    /// Options of a node `name` that takes the pods of all namespaces.
    #[must_use]
    pub fn new(name: &str, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            kubeconfig: kubeconfig.into(),
            namespace: None,
            working_dir: None,
            extra_env: Vec::new(),
            retry: Duration::from_secs(1),
            images: Vec::new(),
        }
    }
}

/// Shared by the tasks of a node.
pub(crate) struct NodeContext {
    options: NodeOptions,
    venv: PathBuf,
    folder: ScratchDir,
    records: Records,
}

/// A node on a separate thread. Its processes end with its value, or with this process.
pub struct ProcessNode {
    site: Arc<NodeContext>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ProcessNode {
    /// Registers the node and starts to take pods.
    ///
    /// # Errors
    /// If the virtual environment cannot be created, or the cluster does not respond.
    pub async fn start(options: NodeOptions) -> Result<Self> {
        let site = Arc::new(NodeContext {
            venv: virtual_environment().await?,
            folder: ScratchDir::new("node")?,
            records: Records::default(),
            options,
        });
        let (stop, stopped) = oneshot::channel();
        let (register, registered) = oneshot::channel();
        let context = Arc::clone(&site);
        let thread = std::thread::Builder::new()
            .name("node".to_owned())
            .spawn(move || watch::run(&context, register, stopped))?;
        let node = Self {
            site,
            stop: Some(stop),
            thread: Some(thread),
        };
        registered.await.context("the node's thread has ended")??;
        Ok(node)
    }

    /// The pods that the node has taken, oldest first.
    #[must_use]
    pub fn pods(&self) -> Vec<PodRecord> {
        self.site.records.all()
    }

    /// The output of the process of pod `name` so far.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        let pods = self.pods().into_iter();
        pods.filter(|pod| pod.name == name)
            .map(|pod| pod.log())
            .collect()
    }

    /// The output of the processes of a flow run so far.
    #[must_use]
    pub fn logs_of_run(&self, flow_run_id: &str) -> String {
        let pods = self.pods().into_iter();
        pods.filter(|pod| pod.flow_run_id.as_deref() == Some(flow_run_id))
            .map(|pod| pod.log())
            .collect()
    }
}

impl Drop for ProcessNode {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

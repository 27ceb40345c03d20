//! A node that runs the pods of Jobs, and of Deployments whose image it knows, as local processes.
//!
//! In: a cluster, and where processes get what an image and a network would give. Out: a Node object, pods that are bound
//! to it, run and report their status as a kubelet's would, and for each pod its log and the names of its environment.
//!
//! Only such pods that nobody has bound are taken, and of each only its first container: no volumes, no init containers, no
//! probes, and a restart only where the pod's policy is `Always`, as a Deployment's is. Never: a value of an environment that a test did not ask for by name.

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

/// How a node is set up.
#[derive(Clone)]
pub struct NodeOptions {
    /// The Node object's name.
    pub name: String,
    /// The cluster, and who the node is in it.
    pub kubeconfig: PathBuf,
    /// The one namespace whose pods it takes; all of them unless told. Two nodes must not want the same pods.
    pub namespace: Option<String>,
    /// Where processes start; a new folder for each pod unless told.
    pub working_dir: Option<PathBuf>,
    /// What the node gives every process, such as `SSL_CERT_FILE`. A pod's own environment beats it.
    pub extra_env: Vec<(String, String)>,
    /// How often a container that cannot be created is tried again; a kubelet takes 10 to 15 s.
    pub retry: Duration,
    /// Images that have an entrypoint. All others run what `command` or `args` say.
    pub images: Vec<Image>,
}

/// What stands for an image that is not Prefect's.
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
    /// A node called `name` that takes the pods of all namespaces.
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

/// What the tasks of a node share.
pub(crate) struct NodeContext {
    options: NodeOptions,
    venv: PathBuf,
    folder: ScratchDir,
    records: Records,
}

/// A node on a thread of its own. Its processes end with its value, or with this process.
pub struct ProcessNode {
    site: Arc<NodeContext>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ProcessNode {
    /// Registers the node and starts to take pods.
    ///
    /// # Errors
    /// When the virtual environment cannot be made, or the cluster does not answer.
    pub async fn start(options: NodeOptions) -> Result<Self> {
        let site = Arc::new(NodeContext {
            venv: virtual_environment().await?,
            folder: ScratchDir::new("node")?,
            records: Records::default(),
            options,
        });
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let there = Arc::clone(&site);
        let thread = std::thread::Builder::new()
            .name("node".to_owned())
            .spawn(move || watch::run(&there, tell, stopped))?;
        let node = Self {
            site,
            stop: Some(stop),
            thread: Some(thread),
        };
        told.await.context("the node's thread has ended")??;
        Ok(node)
    }

    /// The pods that it has taken, in the order in which it took them.
    #[must_use]
    pub fn pods(&self) -> Vec<PodRecord> {
        self.site.records.all()
    }

    /// What the process of pod `name` has written so far.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        let pods = self.pods().into_iter();
        pods.filter(|pod| pod.name == name)
            .map(|pod| pod.log())
            .collect()
    }

    /// What the processes of a flow run have written so far.
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

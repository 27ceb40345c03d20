//! A node on its own thread.
//!
//! Input: `NodeOptions`. Output: `ProcessNode`, and the records and logs of its pods.
//! Invariants: the processes of the node end with its value, or with this process.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use super::context::{NodeContext, NodeOptions};
use super::records::{PodRecord, Records};
use super::watch;
use crate::folder::ScratchDir;
use crate::prefect::virtual_environment;

/// A running node.
pub struct ProcessNode {
    site: Arc<NodeContext>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ProcessNode {
    /// Registers the node and starts to run pods.
    ///
    /// # Errors
    /// When the virtual environment cannot be created, or the API server does not respond.
    pub async fn start(options: NodeOptions) -> Result<Self> {
        let site = Arc::new(NodeContext {
            venv: virtual_environment().await?,
            folder: ScratchDir::new("node")?,
            records: Records::default(),
            options,
        });
        let (stop, stopped) = oneshot::channel();
        let (ready_sender, ready) = oneshot::channel();
        let context = Arc::clone(&site);
        let thread = std::thread::Builder::new()
            .name("node".to_owned())
            .spawn(move || watch::run(&context, ready_sender, stopped))?;
        let node = Self {
            site,
            stop: Some(stop),
            thread: Some(thread),
        };
        ready.await.context("the node's thread has ended")??;
        Ok(node)
    }

    /// The pods of the node, in the order in which it bound them.
    #[must_use]
    pub fn pods(&self) -> Vec<PodRecord> {
        self.site.records.all()
    }

    /// The log of pod `name` so far.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        let pods = self.pods().into_iter();
        pods.filter(|pod| pod.name == name)
            .map(|pod| pod.log())
            .collect()
    }

    /// The logs of a flow run so far.
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

//! The watch of a cluster's pods.
//!
//! Input: pod events.
//! Output: one life cycle for each pod without a node that this node takes, and a signal when the
//! pod is deleted.
//! Invariants: a pod that another node has bound is never taken.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::context::NodeContext;
use super::{pod, process};
use crate::progress;

const REGISTER_TIMEOUT: Duration = Duration::from_secs(30);

/// The node's thread. It ends with `stopped`.
pub(super) fn run(
    site: &Arc<NodeContext>,
    ready: oneshot::Sender<Result<()>>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error.into()));
            return;
        }
    };
    runtime.block_on(async {
        let client = match register(site).await {
            Ok(client) => client,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        tokio::select! {
            () = run_pods(site, &client) => {}
            _ = stopped => {}
        }
    });
}

async fn register(site: &NodeContext) -> Result<Client> {
    let client = client(&site.options.kubeconfig).await?;
    let name = &site.options.name;
    let room = json!({"cpu": "64", "memory": "64Gi", "pods": "1000"});
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True", "reason": "ProcessNode",
                "lastHeartbeatTime": jiff::Timestamp::now().to_string(),
                "lastTransitionTime": jiff::Timestamp::now().to_string()}],
        },
    });
    let nodes: Api<Node> = Api::all(client.clone());
    let params = PatchParams::apply("process-node").force();
    timeout(REGISTER_TIMEOUT, async {
        nodes.patch(name, &params, &Patch::Apply(&node)).await?;
        nodes
            .patch_status(name, &params, &Patch::Apply(&node))
            .await
    })
    .await?
    .context("registering the node")?;
    Ok(client)
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // The control plane runs on this machine, so a proxy of the user does not apply.
    config.proxy_url = None;
    Ok(Client::try_from(config)?)
}

async fn run_pods(site: &Arc<NodeContext>, client: &Client) {
    let pods: Api<Pod> = match &site.options.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut events = watcher(pods, watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut ends: HashMap<String, watch::Sender<bool>> = HashMap::new();
    // Dropping the set aborts the life cycles and their processes.
    let mut lives = JoinSet::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(_) = lives.join_next() => continue,
        };
        let Some(event) = event else { return };
        match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                let uid = pod.uid().unwrap_or_default();
                if pod.metadata.deletion_timestamp.is_some() {
                    let notified = ends.get(&uid).is_some_and(|end| end.send(true).is_ok());
                    if !notified && is_ours(site, &pod) {
                        log_failure(pod::remove(client, &pod).await);
                    }
                } else if is_unstarted(site, &pod) && !ends.contains_key(&uid) {
                    let (end, deleted) = watch::channel(false);
                    ends.insert(uid, end);
                    let (site, client) = (Arc::clone(site), client.clone());
                    lives.spawn(async move {
                        log_failure(pod::run_pod(&site, &client, &pod, deleted).await);
                    });
                }
            }
            Ok(watcher::Event::Delete(pod)) => {
                let end = ends.remove(&pod.uid().unwrap_or_default());
                let _ = end.map(|end| end.send(true));
            }
            // The watcher retries by itself, with backoff.
            Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => {}
        }
    }
}

fn is_ours(site: &NodeContext, pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    node == Some(site.options.name.as_str())
}

/// Whether the pod has no node and belongs to a Job, or to a Deployment or no owner if this node
/// knows its image. Pods of other Deployments would fail and be replaced without end.
fn is_unstarted(site: &NodeContext, pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let known = spec
        .containers
        .first()
        .is_some_and(|container| process::image(site, container).is_some());
    let owners = pod.owner_references();
    let is_of = |kind: &str| owners.iter().any(|owner| owner.kind == kind);
    spec.node_name.is_none()
        && (is_of("Job") || known && (is_of("ReplicaSet") || owners.is_empty()))
}

fn log_failure(result: Result<()>) {
    if let Err(error) = result {
        progress::line(&format!("node: {error:#}"));
    }
}

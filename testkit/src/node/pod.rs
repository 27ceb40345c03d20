//! The life cycle of one pod on this node.
//!
//! Input: a pod without a node.
//! Output: the pod is bound, its volumes written, its environment resolved, its process run, its status
//! reported, and its object deleted on request.
//! Invariants: a pod is run once. Its process ends with the pod, or with the node.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::context::NodeContext;
use super::environment::{Environment, References, Sources, resolve};
use super::process::{self, Place};
use super::records::PodRecord;
use super::status::{State, status};
use super::volumes::{SecretVolume, secret_volumes};
use super::{atomic_writer, environment::SecretData};
use crate::guard::GuardedChild;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A process exits within this time after SIGTERM or SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// The length of one wait for a process; it is repeated as long as the pod exists.
const RECHECK_INTERVAL: Duration = Duration::from_hours(1);
/// A status that the API server does not accept is sent again: half a minute covers its restart.
const MAX_REPORTS: u32 = 60;
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// The exit code that container runtimes report for a process that did not start.
const START_ERROR: i32 = 128;

/// A kubelet waits up to five minutes before it restarts a container, which is too long for tests.
const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// The life cycle of one pod.
pub(super) struct PodLifecycle<'a> {
    site: &'a NodeContext,
    client: &'a Client,
    pods: Api<Pod>,
    pod: &'a Pod,
    container: &'a Container,
    since: String,
}

/// Runs `pod` until its end. `deleted` becomes true when the pod is deleted.
pub(super) async fn run_pod(
    site: &NodeContext,
    client: &Client,
    pod: &Pod,
    mut deleted: watch::Receiver<bool>,
) -> Result<()> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice());
    let container = containers
        .and_then(<[_]>::first)
        .context("a pod without containers")?;
    let namespace = pod.namespace().unwrap_or_default();
    let life = PodLifecycle {
        site,
        client,
        pods: Api::namespaced(client.clone(), &namespace),
        pod,
        container,
        since: now(),
    };
    if !life.bind().await? {
        return Ok(());
    }
    life.run(&mut deleted).await?;
    if *deleted.borrow() {
        remove(client, pod).await?;
    }
    Ok(())
}

/// Deletes the pod's object, as a kubelet does once no process of the pod runs.
pub(super) async fn remove(client: &Client, pod: &Pod) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.uid(),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    };
    let deleted = timeout(REQUEST_TIMEOUT, pods.delete(&pod.name_any(), &params)).await?;
    match deleted {
        // Deleted already, or another pod of the same name.
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(()),
        other => other.map(drop).context("deleting a pod"),
    }
}

impl PodLifecycle<'_> {
    /// Binds the pod to this node. Returns false if another node has bound it, or the pod is
    /// deleted.
    async fn bind(&self) -> Result<bool> {
        let name = self.pod.name_any();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "uid": self.pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.site.options.name},
        });
        let params = PostParams::default();
        let bound = self
            .pods
            .create_subresource("binding", &name, &params, &binding);
        match timeout(REQUEST_TIMEOUT, bound).await? {
            Ok(Status { .. }) => Ok(true),
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(false),
            Err(error) => Err(error).context("binding a pod"),
        }
    }

    async fn run(&self, deleted: &mut watch::Receiver<bool>) -> Result<()> {
        let uid = self.pod.uid().unwrap_or_default();
        let folder = self.site.folder.path().join(&uid);
        std::fs::create_dir_all(&folder)?;
        let log = self.site.folder.path().join(format!("{uid}.log"));
        self.site.records.add(PodRecord {
            namespace: self.pod.namespace().unwrap_or_default(),
            name: self.pod.name_any(),
            flow_run_id: self.pod.labels().get("prefect.io/flow-run-id").cloned(),
            uid: uid.clone(),
            log_path: log.clone(),
            env: None,
        });
        let volumes = self.site.folder.path().join(format!("{uid}-volumes"));
        let (secrets, mounts) = match secret_volumes(self.pod, self.container) {
            Ok(found) => found,
            Err(message) => {
                return self
                    .until_exit("StartError", &message, START_ERROR, &now())
                    .await;
            }
        };
        if !self.set_up(&secrets, &volumes, deleted).await? {
            return Ok(());
        }
        let place = Place {
            folder: &folder,
            volumes: &volumes,
            mounts: &mounts,
            log: &log,
        };
        let always = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref());
        let always = always == Some("Always");
        let mut back_off = self.site.options.retry;
        // The loop ends with the pod.
        while !*deleted.borrow() {
            let Some(env) = self.environment(deleted).await? else {
                return Ok(());
            };
            self.site.records.set_environment(&uid, &env);
            let started = now();
            let end = match process::start(self.site, self.container, &env, &place) {
                Ok(child) => {
                    self.report(&State::Running { started: &started }).await?;
                    let code = tokio::select! {
                        code = exit_code(&child, deleted) => code,
                        never = self.keep_current(&secrets, &volumes) => match never {},
                    };
                    let reason = if code == 0 { "Completed" } else { "Error" };
                    (reason, String::new(), code)
                }
                Err(message) => ("StartError", message, START_ERROR),
            };
            let (reason, message, code) = end;
            if !always || *deleted.borrow() {
                return self.until_exit(reason, &message, code, &started).await;
            }
            let message = format!("exit code {code}: {reason}{message}, back-off {back_off:?}");
            let reason = "CrashLoopBackOff";
            self.report(&State::Waiting {
                reason,
                message: &message,
            })
            .await?;
            let _ = timeout(back_off, until_deleted(deleted)).await;
            back_off = (back_off * 2).min(MAX_BACKOFF);
        }
        Ok(())
    }

    /// Writes the files of the volumes, once their Secrets exist. Returns false if the pod is deleted
    /// first.
    async fn set_up(
        &self,
        secrets: &[SecretVolume],
        volumes: &Path,
        deleted: &mut watch::Receiver<bool>,
    ) -> Result<bool> {
        let mut reported = false;
        while !*deleted.borrow() {
            match self.write_volumes(secrets, volumes).await {
                Ok(()) => return Ok(true),
                // A kubelet says why in an Event of the pod.
                Err(_) if reported => {}
                Err(_) => {
                    let reason = "ContainerCreating";
                    self.report(&State::Waiting {
                        reason,
                        message: "",
                    })
                    .await?;
                    reported = true;
                }
            }
            let _ = timeout(self.site.options.retry, until_deleted(deleted)).await;
        }
        Ok(false)
    }

    /// Updates the files of the volumes as long as the process runs. What fails keeps its files.
    async fn keep_current(&self, secrets: &[SecretVolume], volumes: &Path) -> Infallible {
        loop {
            tokio::time::sleep(self.site.options.sync).await;
            if !secrets.is_empty() {
                let _ = self.write_volumes(secrets, volumes).await;
            }
        }
    }

    async fn write_volumes(&self, secrets: &[SecretVolume], volumes: &Path) -> Result<()> {
        for volume in secrets {
            let data = self.secret(volume.secret()).await?;
            let files = volume.files(data.as_ref()).map_err(Error::msg)?;
            atomic_writer::write(&volumes.join(&volume.name), &files)?;
        }
        Ok(())
    }

    /// The content of a Secret, if it exists.
    async fn secret(&self, name: &str) -> Result<Option<SecretData>> {
        let namespace = self.pod.namespace().unwrap_or_default();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let found = timeout(REQUEST_TIMEOUT, secrets.get_opt(name)).await??;
        let data = found.map(|secret| secret.data.unwrap_or_default());
        Ok(data.map(|data| data.into_iter().map(|(k, v)| (k, v.0)).collect()))
    }

    /// The container's environment, once all objects that it refers to exist; `None` if the pod is
    /// deleted first.
    async fn environment(
        &self,
        deleted: &mut watch::Receiver<bool>,
    ) -> Result<Option<Environment>> {
        let mut reported = String::new();
        while !*deleted.borrow() {
            // An API server that is down for a while does not end the pod.
            let sources = self.sources().await;
            let resolved = sources.map(|sources| resolve(self.container, self.pod, &sources));
            match resolved {
                Ok(Ok(env)) => return Ok(Some(env)),
                Err(_) => {}
                Ok(Err(message)) if message == reported => {}
                Ok(Err(message)) => {
                    let reason = "CreateContainerConfigError";
                    let message = message.as_str();
                    self.report(&State::Waiting { reason, message }).await?;
                    message.clone_into(&mut reported);
                }
            }
            // Wakes up on deletion or after the interval; the loop checks both.
            let _ = timeout(self.site.options.retry, until_deleted(deleted)).await;
        }
        Ok(None)
    }

    async fn sources(&self) -> Result<Sources> {
        let namespace = self.pod.namespace().unwrap_or_default();
        let needed = References::of(self.container);
        let mut sources = Sources::default();
        for name in needed.secrets {
            let data = self.secret(&name).await?;
            sources.secrets.insert(name, data);
        }
        let config_maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        for name in needed.config_maps {
            let found = timeout(REQUEST_TIMEOUT, config_maps.get_opt(&name)).await??;
            let data = found.map(|map| map.data.unwrap_or_default());
            sources.config_maps.insert(name, data);
        }
        Ok(sources)
    }

    async fn until_exit(
        &self,
        reason: &str,
        message: &str,
        exit_code: i32,
        started: &str,
    ) -> Result<()> {
        self.report(&State::Terminated {
            reason,
            message,
            exit_code,
            started,
            finished: &now(),
        })
        .await
    }

    async fn report(&self, state: &State<'_>) -> Result<()> {
        let status = status(self.container, state, &self.since);
        let params = PatchParams::default();
        let name = self.pod.name_any();
        // A strategic merge would keep fields of the previous state.
        let patch = Patch::Merge(&status);
        let mut tries = 0;
        loop {
            let patched = self.pods.patch_status(&name, &params, &patch);
            tries += 1;
            match timeout(REQUEST_TIMEOUT, patched).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => return Ok(()),
                Ok(Err(error)) if tries == MAX_REPORTS => {
                    return Err(error).context("reporting a pod's status");
                }
                Err(elapsed) if tries == MAX_REPORTS => return Err(elapsed.into()),
                _ => tokio::time::sleep(REPORT_INTERVAL).await,
            }
        }
    }
}

/// Waits for the exit code. A pod that is deleted ends its process.
async fn exit_code(child: &GuardedChild, deleted: &mut watch::Receiver<bool>) -> i32 {
    loop {
        tokio::select! {
            code = child.wait_async(RECHECK_INTERVAL) => if let Some(code) = code { return code },
            () = until_deleted(deleted) => {
                child.terminate();
                let code = child.wait_async(STOP_TIMEOUT / 2).await;
                if code.is_none() {
                    child.kill();
                }
                return code.or(child.exit_code()).unwrap_or(137);
            }
        }
    }
}

/// Returns once the pod is deleted.
async fn until_deleted(deleted: &mut watch::Receiver<bool>) {
    let _ = deleted.wait_for(|deleted| *deleted).await;
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

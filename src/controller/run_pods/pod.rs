//! A pod of a flow run, reduced to what the operator needs of it. Pure.
//!
//! Input: a pod as the API server sends it.
//! Output: [`RunPod`]: its name, its run, and for each Secret that its containers load as a whole
//! (`envFrom`), whether they started.
//! Invariants: it keeps no variable, no command and no message of the pod, and a bounded number of
//! names.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::{Resource, api::ObjectMeta};
use serde::{Deserialize, Deserializer};

use super::pod_state::{ContainerStatus, PodState, join};

/// The label that Prefect's Kubernetes worker sets on the pods of flow runs.
pub const RUN_ID_LABEL: &str = "prefect.io/flow-run-id";

/// Secrets of one pod that are considered.
const MAX_SECRETS: usize = 64;

/// A pod of a flow run.
#[derive(Clone, Debug, Resource)]
#[resource(inherit = Pod)]
pub struct RunPod {
    metadata: ObjectMeta,
    /// When it was created, in seconds.
    pub created: i64,
    /// The name of its flow run, or else the id.
    pub run: Option<Box<str>>,
    /// The states of its containers, by Secret.
    pub states: BTreeMap<Box<str>, PodState>,
}

impl RunPod {
    /// Whether the pod is being deleted.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

#[derive(Deserialize)]
struct RawPod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    #[serde(default)]
    labels: Labels,
}

#[derive(Default, Deserialize)]
struct Labels {
    #[serde(rename = "prefect.io/flow-run-id")]
    run_id: Option<Box<str>>,
    #[serde(rename = "prefect.io/flow-run-name")]
    run_name: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    #[serde(default)]
    env_from: Vec<EnvFrom>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvFrom {
    secret_ref: Option<SecretRef>,
}

#[derive(Deserialize)]
struct SecretRef {
    name: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(default)]
    container_statuses: Vec<ContainerStatus>,
}

/// The states of the containers, by Secret.
fn states(spec: &Spec, status: &Status) -> BTreeMap<Box<str>, PodState> {
    let has_ended = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    let mut by_secret = BTreeMap::new();
    for container in &spec.containers {
        let status = status
            .container_statuses
            .iter()
            .find(|status| status.name == container.name);
        let names = container.env_from.iter();
        let names = names.filter_map(|source| source.secret_ref.as_ref()?.name.as_ref());
        for name in names {
            let state = match status.map_or(PodState::Pending, |status| status.state_for(name)) {
                // The kubelet does not update the containers of a pod that was evicted.
                PodState::Troubled(trouble) if has_ended && trouble.is_wait() => PodState::Pending,
                state => state,
            };
            if let Some(before) = by_secret.get_mut(name) {
                *before = join(*before, state);
            } else if by_secret.len() < MAX_SECRETS {
                by_secret.insert(name.clone(), state);
            }
        }
    }
    by_secret
}

impl<'de> Deserialize<'de> for RunPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RawPod {
            metadata,
            spec,
            status,
        } = RawPod::deserialize(deserializer)?;
        let created = metadata.creation_timestamp.as_ref();
        Ok(Self {
            created: created.map_or(0, |time| time.0.as_second()),
            run: metadata.labels.run_name.or(metadata.labels.run_id),
            states: states(&spec, &status),
            metadata: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                resource_version: metadata.resource_version,
                deletion_timestamp: metadata.deletion_timestamp,
                ..ObjectMeta::default()
            },
        })
    }
}

#[cfg(test)]
mod tests;

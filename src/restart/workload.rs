//! A workload, as far as its restart needs it.
//!
//! Input: a Deployment, `StatefulSet`, `DaemonSet` or Rollout of the API server.
//! Output: its pod template's annotations, and whether its pods use a Secret.
//! Invariants: keeps no value of an environment. Fields of another shape make the object invalid, and not
//! the process.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::PodContent;
use crate::crd::{CONTENT_HASHES_ANNOTATION, RESTARTED_AT_ANNOTATION};

/// A workload.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Workload {
    metadata: Metadata,
    #[serde(default)]
    spec: Option<WorkloadSpec>,
}

/// Workloads of one list, and where it continues.
#[derive(Debug, Deserialize)]
pub struct WorkloadList {
    /// The workloads.
    pub items: Vec<Workload>,
    #[serde(default)]
    metadata: ListMetadata,
}

#[derive(Debug, Default, Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    token: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    deletion_timestamp: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct WorkloadSpec {
    #[serde(default)]
    template: Option<Template>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Template {
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    spec: Option<PodSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    containers: Option<Vec<Container>>,
    #[serde(default)]
    init_containers: Option<Vec<Container>>,
    #[serde(default)]
    volumes: Option<Vec<Volume>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    env: Option<Vec<Variable>>,
    #[serde(default)]
    env_from: Option<Vec<Source>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    #[serde(default)]
    value_from: Option<ValueSource>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ValueSource {
    #[serde(default)]
    secret_key_ref: Option<Reference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    #[serde(default)]
    secret_ref: Option<Reference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Reference {
    #[serde(default)]
    name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Volume {
    #[serde(default)]
    secret: Option<SecretVolume>,
    #[serde(default)]
    projected: Option<Projected>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretVolume {
    #[serde(default)]
    secret_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Projected {
    #[serde(default)]
    sources: Option<Vec<ProjectedSource>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ProjectedSource {
    #[serde(default)]
    secret: Option<Reference>,
}

impl WorkloadList {
    /// Where the list continues, if it does.
    #[must_use]
    pub fn token(self) -> Option<String> {
        self.metadata.token.filter(|token| !token.is_empty())
    }
}

impl Workload {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Its version.
    #[must_use]
    pub fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// Whether it is being deleted.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// The content that its pods have.
    #[must_use]
    pub fn content(&self) -> PodContent<'_> {
        let annotation = self.template_annotation(CONTENT_HASHES_ANNOTATION);
        PodContent::parse(annotation.unwrap_or_default())
    }

    /// When the operator last restarted it.
    #[must_use]
    pub fn restarted_at(&self) -> Option<Timestamp> {
        self.template_annotation(RESTARTED_AT_ANNOTATION)?
            .parse()
            .ok()
    }

    fn template_annotation(&self, name: &str) -> Option<&str> {
        let metadata = self.template()?.metadata.as_ref()?;
        metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    fn template(&self) -> Option<&Template> {
        self.spec.as_ref()?.template.as_ref()
    }

    /// Whether its pods use one of the Secrets.
    #[must_use]
    pub fn uses_any(&self, secrets: &[&str]) -> bool {
        secrets.iter().any(|secret| self.uses_secret(secret))
    }

    /// Whether its pods use the Secret, in `env`, `envFrom` or a volume.
    #[must_use]
    pub fn uses_secret(&self, secret: &str) -> bool {
        let Some(pod) = self.template().and_then(|template| template.spec.as_ref()) else {
            return false;
        };
        let containers = [&pod.containers, &pod.init_containers];
        let mut containers = containers.into_iter().flatten().flatten();
        let mut volumes = pod.volumes.iter().flatten();
        containers.any(|container| container.uses_secret(secret))
            || volumes.any(|volume| volume.uses_secret(secret))
    }
}

impl Container {
    fn uses_secret(&self, secret: &str) -> bool {
        let sources = self.env_from.iter().flatten();
        let variables = self.env.iter().flatten();
        let names = sources
            .filter_map(|source| source.secret_ref.as_ref())
            .chain(variables.filter_map(|variable| {
                let from = variable.value_from.as_ref()?;
                from.secret_key_ref.as_ref()
            }));
        has_name(names, secret)
    }
}

impl Volume {
    fn uses_secret(&self, secret: &str) -> bool {
        let own = self.secret.as_ref();
        let own = own.and_then(|volume| volume.secret_name.as_deref());
        let projected = self.projected.iter().flat_map(|projected| {
            let sources = projected.sources.iter().flatten();
            sources.filter_map(|source| source.secret.as_ref())
        });
        own == Some(secret) || has_name(projected, secret)
    }
}

fn has_name<'a>(mut references: impl Iterator<Item = &'a Reference>, secret: &str) -> bool {
    references.any(|reference| reference.name.as_deref() == Some(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn with_pod(pod: &Value) -> Workload {
        serde_json::from_value(json!({
            "metadata": {"name": "w", "resourceVersion": "1"},
            "spec": {"replicas": 2, "template": {"metadata": {"annotations": null}, "spec": pod}},
        }))
        .unwrap()
    }

    #[test]
    fn every_way_to_use_a_secret_counts() {
        for pod in [
            json!({"containers": [{"name": "a"}, {"name": "b", "envFrom": [{"configMapRef": {"name": "s"}}, {"secretRef": {"name": "s"}}]}]}),
            json!({"containers": [{"env": [{"name": "A", "value": "v"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "B"}}}]}]}),
            json!({"containers": [], "initContainers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]}),
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}]}}]}),
        ] {
            assert!(with_pod(&pod).uses_secret("s"), "{pod}");
            assert!(!with_pod(&pod).uses_secret("other"), "{pod}");
        }
        for pod in [
            json!({"containers": [{"envFrom": [{"configMapRef": {"name": "s"}}], "env": null}], "volumes": null}),
            json!(null),
        ] {
            assert!(!with_pod(&pod).uses_secret("s"), "{pod}");
        }
        // A Rollout may name the workload that has the template.
        let other = json!({"metadata": {"name": "r"}, "spec": {"workloadRef": {"name": "d"}}});
        let other: Workload = serde_json::from_value(other).unwrap();
        assert!(!other.uses_secret("s") && other.content() == PodContent::default());
    }
}

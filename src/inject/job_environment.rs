//! The namespace, the cluster and the environment of a pool's jobs.
//!
//! Input: a job as the worker renders it.
//! Output: plain values.
//! Invariants: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::rendering::{Job, Node, Text};
use crate::printable;

/// The longest name of a Secret in Kubernetes.
const MAX_SECRET_NAME: usize = 253;

/// The namespace of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobNamespace {
    /// The template sets this namespace.
    Fixed(String),
    /// Only a run resolves it: a placeholder of a block, a Prefect variable, or the worker's
    /// environment.
    Unknown(String),
    /// It is no namespace, so the worker cannot create a job.
    Invalid(String),
}

/// What overrides keys of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shadows {
    /// Keys that the pool's own `env` sets.
    pub(super) keys: Vec<String>,
    /// Later `envFrom` sources (`Secret x`, `ConfigMap y`). The template does not show their keys.
    pub(super) later_sources: Vec<String>,
}

/// An `envFrom` source of the first container.
pub(super) struct EnvFromSource {
    /// The Secret whose keys it adds under their own names.
    pub(super) secret: Option<String>,
    /// `Secret x` or `ConfigMap y`, with the prefix of its keys if there is one.
    label: String,
    /// The prefix of its keys.
    prefix: String,
}

/// The namespace in which a job runs.
///
/// The worker (prefect-kubernetes 0.8.0) creates the Job in `job_configuration.namespace`, or in
/// `default` if that is unset. It sets the manifest's namespace only if the manifest has none. The
/// API server rejects a manifest with another namespace, so the manifest never decides.
pub(super) fn job_namespace(job: Job<'_>) -> JobNamespace {
    let namespace = job.get("namespace");
    match (namespace, namespace.text()) {
        (Node::Missing, _) => JobNamespace::Fixed("default".to_owned()),
        (_, Text::Known(text)) if text.is_empty() => JobNamespace::Invalid(text.into_owned()),
        (_, Text::Known(text)) => JobNamespace::Fixed(text.into_owned()),
        (_, Text::Unresolved(text)) => JobNamespace::Unknown(text.to_owned()),
        (Node::Unresolved(value), _) => JobNamespace::Unknown(value.to_string()),
        (node, Text::None) => {
            JobNamespace::Invalid(node.raw().map(Value::to_string).unwrap_or_default())
        }
    }
}

/// Whether a job runs in the cluster of its own `cluster_config`.
pub(super) fn has_cluster_config(job: Job<'_>) -> bool {
    !job.get("cluster_config").is_unset()
}

/// The sources of the first container, in their order.
pub(super) fn env_from_sources(job: Job<'_>) -> impl Iterator<Item = EnvFromSource> {
    job.container()
        .get("envFrom")
        .elements()
        .filter_map(source_of)
}

fn source_of(element: Node<'_>) -> Option<EnvFromSource> {
    if let Node::Unresolved(value) = element {
        return Some(EnvFromSource {
            secret: None,
            label: printable::name(value.as_str().unwrap_or("a block")),
            prefix: String::new(),
        });
    }
    let prefix = element.get("prefix");
    let prefix_text = prefix.text();
    let has_prefix = !prefix.is_unset() && !prefix_text.is("");
    let name_of = |kind: &str| element.get(kind).get("name").text();
    let (kind, name) = match (name_of("secretRef"), name_of("configMapRef")) {
        (Text::None, Text::None) => return None,
        (Text::None, name) => ("ConfigMap", name),
        (name, _) => ("Secret", name),
    };
    let mut label = format!("{kind} {}", printable::name(name.shown()?));
    if has_prefix {
        let shown = printable::name(prefix_text.shown().unwrap_or_default());
        label = format!("{label} (prefix {shown})");
    }
    let secret = match name {
        Text::Known(name) if kind == "Secret" && !has_prefix && name.len() <= MAX_SECRET_NAME => {
            Some(name.into_owned())
        }
        _ => None,
    };
    let prefix = match prefix_text {
        Text::Known(prefix) => prefix.chars().take(MAX_SECRET_NAME).collect(),
        // It may be any prefix, also none.
        Text::Unresolved(_) | Text::None => String::new(),
    };
    Some(EnvFromSource {
        secret,
        label,
        prefix,
    })
}

/// All that may override keys of a Secret, read once for any number of Secrets.
pub(super) struct JobEnvironment {
    names: BTreeSet<String>,
    sources: Vec<EnvFromSource>,
}

impl JobEnvironment {
    /// Reads the pool's own `env` and the `envFrom` sources.
    pub(super) fn of(job: Job<'_>) -> Self {
        let mut names = configured_names(job);
        names.extend(container_names(job));
        Self {
            names,
            sources: env_from_sources(job).collect(),
        }
    }

    /// The names that the pool's own `env` sets.
    #[cfg(test)]
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The Secrets whose keys a source adds under their own names.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        let sources = self.sources.iter();
        sources.filter_map(|source| source.secret.as_deref())
    }

    /// Which of the Secret's keys the pool's own `env` overrides, and which later `envFrom` sources
    /// may.
    pub(super) fn shadows(&self, keys: &BTreeSet<String>, secret: &str) -> Shadows {
        let after = self
            .sources
            .iter()
            .rposition(|source| source.secret.as_deref() == Some(secret))
            .map_or(self.sources.len(), |at| at + 1);
        Shadows {
            keys: keys.intersection(&self.names).cloned().collect(),
            later_sources: self.sources[after..]
                .iter()
                // A source with a prefix only sets names that begin with it.
                .filter(|source| keys.iter().any(|key| key.starts_with(&source.prefix)))
                .map(|source| source.label.clone())
                .collect(),
        }
    }
}

/// The names in `job_configuration.env`, which is a map or a list of `{name, value}`. The worker
/// drops those without a value.
fn configured_names(job: Job<'_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut members: BTreeMap<&str, Node<'_>> = BTreeMap::new();
    for part in job.env() {
        let keys = part.raw().and_then(Value::as_object).into_iter().flatten();
        members.extend(keys.map(|(key, _)| (key.as_str(), part.get(key))));
        let listed = part.elements().filter(|entry| {
            !matches!(entry.get("valueFrom"), Node::Missing) || !entry.get("value").is_unset()
        });
        names.extend(listed.filter_map(name_of));
    }
    let set = members.into_iter().filter(|(_, value)| !value.is_unset());
    names.extend(set.map(|(name, _)| name.to_owned()));
    names
}

/// The names in the container's own `env`. The worker replaces anything but a list.
fn container_names(job: Job<'_>) -> impl Iterator<Item = String> {
    job.container().get("env").elements().filter_map(name_of)
}

fn name_of(entry: Node<'_>) -> Option<String> {
    match entry.get("name").text() {
        Text::Known(name) => Some(name.into_owned()),
        Text::Unresolved(_) | Text::None => None,
    }
}

#[cfg(test)]
mod tests;

//! The namespace, the cluster and the environment of a pool's jobs, read from its template.
//!
//! Input: the base job template.
//! Output: plain values.
//! Invariants: edits nothing. Fills placeholders as a worker does for a deployment without
//! overrides: `{{ x }}` is `variables.properties.x.default`.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::value::RawValue;

use super::json_text::value_at;
use super::template::{EnvFromSource, env_from_sources};

/// The namespace of a pool's jobs, unless a deployment overrides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobNamespace {
    /// The template sets this namespace.
    Fixed(String),
    /// Only a run resolves it: a placeholder of a block, a Prefect variable, or the worker's
    /// environment.
    Unknown(String),
}

/// What overrides keys of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadows {
    /// Keys that the pool's own `env` sets.
    pub keys: Vec<String>,
    /// Later `envFrom` sources (`Secret x`, `ConfigMap y`). The template does not show their keys.
    pub later_sources: Vec<String>,
}

fn parse_at(template: &RawValue, path: &[&str]) -> Option<Value> {
    serde_json::from_str(value_at(template, path)?.get()).ok()
}

/// The name in `{{ name }}`, if the text is that placeholder alone and a variable of the pool.
fn placeholder_variable(text: &str) -> Option<&str> {
    let name = text.trim().strip_prefix("{{")?.strip_suffix("}}")?.trim();
    let plain = name
        .chars()
        .all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    (plain && !name.is_empty()).then_some(name)
}

/// A value of `job_configuration` as a worker fills it: `Err` if only a run resolves it, `Ok(None)`
/// if it is unset.
fn fill_placeholder(template: &RawValue, value: Option<Value>) -> Result<Option<Value>, String> {
    match value {
        Some(Value::String(text)) if text.contains("{{") => match placeholder_variable(&text) {
            Some(name) => Ok(
                parse_at(template, &["variables", "properties", name, "default"])
                    .filter(|value| !value.is_null()),
            ),
            None => Err(text),
        },
        Some(Value::Null) | None => Ok(None),
        value => Ok(value),
    }
}

/// The namespace in which the pool's jobs run.
///
/// The worker (prefect-kubernetes 0.8.0) creates the Job in `job_configuration.namespace`, or in
/// `default` if that is unset. It sets the manifest's namespace only if the manifest has none. The
/// API server rejects a manifest with another namespace, so the manifest never decides.
#[must_use]
pub fn job_namespace(template: &RawValue) -> JobNamespace {
    match fill_placeholder(
        template,
        parse_at(template, &["job_configuration", "namespace"]),
    ) {
        Ok(Some(Value::String(namespace))) if namespace.contains("{{") => {
            JobNamespace::Unknown(namespace)
        }
        Ok(Some(Value::String(namespace))) => JobNamespace::Fixed(namespace),
        Ok(None) => JobNamespace::Fixed("default".to_owned()),
        Ok(Some(other)) => JobNamespace::Unknown(other.to_string()),
        Err(text) => JobNamespace::Unknown(text),
    }
}

/// Whether the pool sends its jobs to the cluster of its own `cluster_config`.
#[must_use]
pub fn targets_other_cluster(template: &RawValue) -> bool {
    !matches!(
        fill_placeholder(
            template,
            parse_at(template, &["job_configuration", "cluster_config"])
        ),
        Ok(None)
    )
}

/// The names in an `env`, which is a map or a list of `{name, …}`. The worker drops the nulls of a
/// map.
fn env_names(env: Option<Value>) -> Vec<String> {
    match env {
        Some(Value::Object(map)) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, _)| name)
            .collect(),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|entry| Some(entry.get("name")?.as_str()?.to_owned()))
            .collect(),
        _ => Vec::new(),
    }
}

/// All that may override keys of a Secret, read once for any number of Secrets.
pub struct JobEnvironment {
    names: BTreeSet<String>,
    sources: Vec<EnvFromSource>,
}

impl JobEnvironment {
    /// Reads the pool's own `env` and the `envFrom` sources.
    #[must_use]
    pub fn from_template(template: &RawValue) -> Self {
        let containers = [
            "job_configuration",
            "job_manifest",
            "spec",
            "template",
            "spec",
            "containers",
        ];
        let container = parse_at(template, &containers)
            .and_then(|containers| containers.get(0)?.get("env").cloned());
        let configuration = parse_at(template, &["job_configuration", "env"]);
        Self {
            names: [configuration, container]
                .into_iter()
                .filter_map(|env| fill_placeholder(template, env).ok())
                .flat_map(env_names)
                .collect(),
            sources: env_from_sources(template),
        }
    }

    /// Which of the Secret's keys the pool's own `env` overrides, and which later `envFrom` sources
    /// may.
    #[must_use]
    pub fn shadows(&self, keys: &BTreeSet<String>, secret: &str) -> Shadows {
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

/// Which of the Secret's keys the pool's own `env` overrides, and which later `envFrom` sources
/// may.
#[must_use]
pub fn find_shadows(template: &RawValue, keys: &BTreeSet<String>, secret: &str) -> Shadows {
    JobEnvironment::from_template(template).shadows(keys, secret)
}

#[cfg(test)]
mod tests;

//! The environment of a container.
//!
//! Input: a container, its pod, and the Secrets and `ConfigMaps` that it refers to.
//! Output: the environment in the kubelet's order (`envFrom`, then `env`; later entries win), or
//! the error for which the container cannot be created.
//! Invariants: never reads the API server; the environment cannot be printed.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::expand::expand;

/// The environment of a container. It has no `Debug`, because the values are secrets.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// One value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and values, for the process that gets them.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }
}

/// The content of a Secret.
pub type SecretData = BTreeMap<String, Vec<u8>>;

/// The objects that a container refers to; `None` stands for a missing object.
#[derive(Default)]
pub struct Sources {
    /// Secrets of the pod's namespace, by name.
    pub secrets: BTreeMap<String, Option<SecretData>>,
    /// `ConfigMaps` of the pod's namespace, by name.
    pub config_maps: BTreeMap<String, Option<BTreeMap<String, String>>>,
}

/// The names of the objects that a container refers to.
#[derive(Default)]
pub struct References {
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// `ConfigMaps`.
    pub config_maps: BTreeSet<String>,
}

impl References {
    /// The objects that `container` refers to.
    #[must_use]
    pub fn of(container: &Container) -> Self {
        let mut needed = Self::default();
        for from in container.env_from.iter().flatten() {
            needed
                .secrets
                .extend(from.secret_ref.iter().map(|r| r.name.clone()));
            needed
                .config_maps
                .extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        }
        for from in container
            .env
            .iter()
            .flatten()
            .filter_map(|e| e.value_from.as_ref())
        {
            needed
                .secrets
                .extend(from.secret_key_ref.iter().map(|r| r.name.clone()));
            needed
                .config_maps
                .extend(from.config_map_key_ref.iter().map(|r| r.name.clone()));
        }
        needed
    }
}

/// The environment of `container`.
///
/// # Errors
/// The kubelet's message of `CreateContainerConfigError`.
pub fn resolve(container: &Container, pod: &Pod, sources: &Sources) -> Result<Environment, String> {
    let mut env = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match data_of(&sources.config_maps, &reference.name) {
                Some(data) => {
                    env.extend(
                        data.iter()
                            .map(|(k, v)| (format!("{prefix}{k}"), v.clone())),
                    );
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        } else if let Some(reference) = &from.secret_ref {
            match data_of(&sources.secrets, &reference.name) {
                Some(data) => {
                    for (key, value) in data {
                        env.insert(format!("{prefix}{key}"), text(key, value)?);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (var.value.as_deref().unwrap_or_default(), &var.value_from) {
            ("", Some(from)) => match value_from(from, pod, sources)? {
                Some(value) => value,
                None => continue,
            },
            (value, _) => expand(value, |name| env.get(name).cloned()),
        };
        env.insert(var.name.clone(), value);
    }
    Ok(Environment(env))
}

/// The command line of `container`, with variables expanded.
#[must_use]
pub fn command_line(container: &Container, env: &Environment) -> Vec<String> {
    let words = container.command.iter().chain(container.args.iter());
    words
        .flatten()
        .map(|word| expand(word, |name| env.get(name).map(ToOwned::to_owned)))
        .collect()
}

/// `Ok(None)` leaves the variable unset, as an optional reference without its object does.
fn value_from(from: &EnvVarSource, pod: &Pod, sources: &Sources) -> Result<Option<String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(data) = data_of(&sources.secrets, &reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(format!("secret {:?} not found", reference.name))
            };
        };
        return match data.get(&reference.key) {
            Some(value) => text(&reference.key, value).map(Some),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                reference.key, reference.name
            )),
        };
    }
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(data) = data_of(&sources.config_maps, &reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(format!("configmap {:?} not found", reference.name))
            };
        };
        return match data.get(&reference.key) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                reference.key, reference.name
            )),
        };
    }
    match &from.field_ref {
        Some(field) => pod_field(pod, &field.field_path)
            .map(Some)
            .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path)),
        None => Err("this node resolves only Secrets, ConfigMaps and fields of the pod".to_owned()),
    }
}

fn pod_field(pod: &Pod, path: &str) -> Option<String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let owned = |value: &Option<String>| Some(value.clone().unwrap_or_default());
    match path {
        "metadata.name" => owned(&pod.metadata.name),
        "metadata.namespace" => owned(&pod.metadata.namespace),
        "metadata.uid" => owned(&pod.metadata.uid),
        "spec.nodeName" => owned(&spec.node_name),
        "spec.serviceAccountName" => owned(&spec.service_account_name),
        "status.podIP" | "status.hostIP" => Some("127.0.0.1".to_owned()),
        _ => {
            let keyed = |map: &Option<BTreeMap<String, String>>, field: &str| {
                let key = path.strip_prefix(field)?.strip_suffix("']")?;
                Some(
                    map.as_ref()
                        .and_then(|m| m.get(key))
                        .cloned()
                        .unwrap_or_default(),
                )
            };
            keyed(&pod.metadata.labels, "metadata.labels['")
                .or_else(|| keyed(&pod.metadata.annotations, "metadata.annotations['"))
        }
    }
}

fn data_of<'a, D>(objects: &'a BTreeMap<String, Option<D>>, name: &str) -> Option<&'a D> {
    objects.get(name).and_then(Option::as_ref)
}

/// The container runtime interface uses UTF-8: other values prevent the container.
fn text(key: &str, value: &[u8]) -> Result<String, String> {
    String::from_utf8(value.to_vec()).map_err(|_| format!("the value of key {key} is not UTF-8"))
}

#[cfg(test)]
mod tests;

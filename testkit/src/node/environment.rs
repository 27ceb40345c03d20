//! In: a container, its pod, and the Secrets and `ConfigMaps` it names. Out: its environment, in the
//! kubelet's order (`envFrom` in its order, then `env`, each later entry winning), or why the
//! container cannot be created. Never reads the API server, and cannot be printed.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::expand::expand;

/// What a container is given. It has no `Debug`: the values are secrets.
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

    /// Names and values, for the process that is started with them.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }
}

/// The objects that a container names; `None` is one that is not there.
#[derive(Default)]
pub struct Sources {
    /// Secrets of the pod's namespace, by name.
    pub secrets: BTreeMap<String, Option<BTreeMap<String, Vec<u8>>>>,
    /// `ConfigMaps` of the pod's namespace, by name.
    pub config_maps: BTreeMap<String, Option<BTreeMap<String, String>>>,
}

/// The names of the objects that a container needs.
#[derive(Default)]
pub struct References {
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// `ConfigMaps`.
    pub config_maps: BTreeSet<String>,
}

impl References {
    /// What `container` names.
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
/// The kubelet's message for `CreateContainerConfigError`.
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

/// The command line of `container`, with references to its environment expanded.
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

/// The container runtime is spoken to in UTF-8: anything else stops the container.
fn text(key: &str, value: &[u8]) -> Result<String, String> {
    String::from_utf8(value.to_vec()).map_err(|_| format!("the value of key {key} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolved(container: Value, sources: &Sources) -> Result<BTreeMap<String, String>, String> {
        let mut container = container;
        container["name"] = json!("c");
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {
            "name": "p", "namespace": "flows", "labels": {"team": "blue"}}}))
        .unwrap();
        resolve(&container, &pod, sources).map(|env| env.0)
    }

    fn sources() -> Sources {
        let secret = |entries: &[(&str, &str)]| {
            let pairs = entries.iter();
            Some(
                pairs
                    .map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec()))
                    .collect(),
            )
        };
        Sources {
            secrets: [
                (
                    "first".to_owned(),
                    secret(&[("A", "first"), ("B", "first")]),
                ),
                (
                    "second".to_owned(),
                    secret(&[("B", "second"), ("dotted.name", "$(A)")]),
                ),
                ("gone".to_owned(), None),
            ]
            .into(),
            config_maps: [(
                "settings".to_owned(),
                Some([("C".to_owned(), "map".to_owned())].into()),
            )]
            .into(),
        }
    }

    fn pairs(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        let entries = entries.iter();
        entries
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn later_env_from_wins_and_is_not_expanded() {
        let env = resolved(
            json!({"envFrom": [{"secretRef": {"name": "first"}}, {"secretRef": {"name": "second"}}]}),
            &sources(),
        );
        assert_eq!(
            env,
            Ok(pairs(&[
                ("A", "first"),
                ("B", "second"),
                ("dotted.name", "$(A)")
            ]))
        );
    }

    #[test]
    fn env_overrides_env_from_and_expands_earlier_names() {
        let env = resolved(
            json!({
                "envFrom": [{"secretRef": {"name": "first"}}, {"configMapRef": {"name": "settings"}, "prefix": "P_"}],
                "env": [{"name": "A", "value": "own"}, {"name": "D", "value": "$(A)-$(B)-$(P_C)-$(E)"}, {"name": "E", "value": ""}],
            }),
            &sources(),
        );
        assert_eq!(
            env,
            Ok(pairs(&[
                ("A", "own"),
                ("B", "first"),
                ("D", "own-first-map-$(E)"),
                ("E", ""),
                ("P_C", "map")
            ]))
        );
    }

    #[test]
    fn a_missing_secret_blocks_the_container_unless_optional() {
        let with =
            |optional| json!({"envFrom": [{"secretRef": {"name": "gone", "optional": optional}}]});
        assert_eq!(
            resolved(with(false), &sources()),
            Err("secret \"gone\" not found".to_owned())
        );
        assert_eq!(resolved(with(true), &sources()), Ok(BTreeMap::new()));
    }

    #[test]
    fn a_missing_key_blocks_the_container_unless_optional() {
        let with = |optional| json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "first", "key": "Z", "optional": optional}}}]});
        assert_eq!(
            resolved(with(false), &sources()),
            Err("couldn't find key Z in Secret flows/first".to_owned())
        );
        assert_eq!(resolved(with(true), &sources()), Ok(BTreeMap::new()));
    }

    #[test]
    fn pod_fields_are_resolved() {
        let var = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let env = resolved(
            json!({"env": [var("NS", "metadata.namespace"), var("TEAM", "metadata.labels['team']")]}),
            &sources(),
        );
        assert_eq!(env, Ok(pairs(&[("NS", "flows"), ("TEAM", "blue")])));
    }

    #[test]
    fn command_line_is_command_then_args_expanded() {
        let container: Container = serde_json::from_value(
            json!({"name": "c", "command": ["sh", "-c"], "args": ["echo $(A) $(B)"]}),
        )
        .unwrap();
        let env = Environment(pairs(&[("A", "1")]));
        assert_eq!(command_line(&container, &env), ["sh", "-c", "echo 1 $(B)"]);
    }

    #[test]
    fn collects_every_referenced_object() {
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "envFrom": [{"secretRef": {"name": "a"}}, {"configMapRef": {"name": "b"}}],
            "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "c", "key": "k"}}},
                    {"name": "Y", "valueFrom": {"configMapKeyRef": {"name": "d", "key": "k"}}}],
        }))
        .unwrap();
        let needed = References::of(&container);
        assert_eq!(needed.secrets, ["a".to_owned(), "c".to_owned()].into());
        assert_eq!(needed.config_maps, ["b".to_owned(), "d".to_owned()].into());
    }
}

//! The Secret volumes of a pod, and where its container mounts them.
//!
//! Input: a pod, its container, and the Secrets that its volumes name.
//! Output: the files of each volume, or the error for which the kubelet does not start the pod.
//! Invariants: pure. Volumes of other kinds, such as the token of the service account, are left out.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, SecretVolumeSource};

/// The mode of files without one.
const DEFAULT_MODE: i32 = 0o644;

/// A Secret volume that the container mounts.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretVolume {
    /// Name of the volume.
    pub name: String,
    source: SecretVolumeSource,
}

/// Where the container mounts a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Name of the volume.
    pub volume: String,
    /// Directory in the container.
    pub path: String,
    /// Whether the process cannot write there. It cannot write to a Secret volume anyway.
    pub read_only: bool,
}

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub content: Vec<u8>,
    /// Its mode.
    pub mode: u32,
}

/// The Secret volumes of a pod that its container mounts, and where.
///
/// # Errors
/// If the container mounts a part of one, which this node cannot do.
pub fn secret_volumes(
    pod: &Pod,
    container: &Container,
) -> Result<(Vec<SecretVolume>, Vec<Mount>), String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let mut used = Vec::new();
    let mut mounts = Vec::new();
    for volume in volumes.into_iter().flatten() {
        let Some(source) = &volume.secret else {
            continue;
        };
        let before = mounts.len();
        for mount in container.volume_mounts.iter().flatten() {
            if mount.name != volume.name {
                continue;
            }
            let is_part =
                |path: &Option<String>| path.as_ref().is_some_and(|path| !path.is_empty());
            if is_part(&mount.sub_path) || is_part(&mount.sub_path_expr) {
                return Err("this node mounts only whole volumes".to_owned());
            }
            mounts.push(Mount {
                volume: volume.name.clone(),
                path: mount.mount_path.clone(),
                read_only: mount.read_only.unwrap_or(false),
            });
        }
        if mounts.len() > before {
            used.push(SecretVolume {
                name: volume.name.clone(),
                source: source.clone(),
            });
        }
    }
    Ok((used, mounts))
}

impl SecretVolume {
    /// The Secret that it names.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.source.secret_name.as_deref().unwrap_or_default()
    }

    /// Its files, by their path in it. `data` is the content of its Secret, or none if it is missing.
    ///
    /// # Errors
    /// The kubelet's message of the Event `FailedMount`.
    pub fn files(
        &self,
        data: Option<&BTreeMap<String, Vec<u8>>>,
    ) -> Result<BTreeMap<String, File>, String> {
        let optional = self.source.optional == Some(true);
        let failed = |why: String| {
            let name = &self.name;
            Err(format!(
                "MountVolume.SetUp failed for volume {name:?} : {why}"
            ))
        };
        let Some(data) = data else {
            return if optional {
                Ok(BTreeMap::new())
            } else {
                failed(format!("secret {:?} not found", self.secret()))
            };
        };
        let default_mode = self.source.default_mode.unwrap_or(DEFAULT_MODE);
        let file = |content: &[u8], mode: Option<i32>| File {
            content: content.to_vec(),
            mode: u32::try_from(mode.unwrap_or(default_mode)).unwrap_or_default(),
        };
        let items = self.source.items.as_deref().unwrap_or_default();
        if items.is_empty() {
            let files = data.iter();
            return Ok(files
                .map(|(key, content)| (key.clone(), file(content, None)))
                .collect());
        }
        let mut files = BTreeMap::new();
        for item in items {
            match data.get(&item.key) {
                Some(content) => {
                    files.insert(item.path.clone(), file(content, item.mode));
                }
                None if optional => {}
                None => return failed(format!("references non-existent secret key: {}", item.key)),
            }
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(source: Value) -> SecretVolume {
        SecretVolume {
            name: "v".to_owned(),
            source: serde_json::from_value(source).unwrap(),
        }
    }

    fn data() -> BTreeMap<String, Vec<u8>> {
        [
            ("a".to_owned(), b"1".to_vec()),
            ("b".to_owned(), b"2".to_vec()),
        ]
        .into()
    }

    fn names(files: &BTreeMap<String, File>) -> Vec<(&str, u32)> {
        let files = files.iter();
        files
            .map(|(name, file)| (name.as_str(), file.mode))
            .collect()
    }

    #[test]
    fn files_are_all_keys_or_the_items() {
        let files = volume(json!({"secretName": "s"}))
            .files(Some(&data()))
            .unwrap();
        assert_eq!(names(&files), [("a", 0o644), ("b", 0o644)]);
        let items = json!([{"key": "b", "path": "x/y", "mode": 0o400}]);
        let some = volume(json!({"secretName": "s", "items": items, "defaultMode": 0o600}));
        assert_eq!(names(&some.files(Some(&data())).unwrap()), [("x/y", 0o400)]);
    }

    #[test]
    fn a_missing_secret_or_key_is_an_error_unless_optional() {
        let items = json!([{"key": "b", "path": "b"}, {"key": "c", "path": "c"}]);
        let with = |optional: bool| {
            volume(json!({"secretName": "s", "optional": optional, "items": items}))
        };
        assert_eq!(with(true).files(None).unwrap().len(), 0);
        assert_eq!(
            names(&with(true).files(Some(&data())).unwrap()),
            [("b", 0o644)]
        );
        let missing = with(false).files(None).unwrap_err();
        assert_eq!(
            missing,
            "MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found"
        );
        let missing = with(false).files(Some(&data())).unwrap_err();
        assert!(
            missing.ends_with("references non-existent secret key: c"),
            "{missing}"
        );
    }

    #[test]
    fn only_whole_secret_volumes_of_the_container_count() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
            {"name": "token", "projected": {}},
            {"name": "unused", "secret": {"secretName": "u"}},
            {"name": "v", "secret": {"secretName": "s"}},
        ]}}))
        .unwrap();
        let container = |mounts: Value| -> Container {
            serde_json::from_value(json!({"name": "c", "volumeMounts": mounts})).unwrap()
        };
        let mounts =
            json!([{"name": "token", "mountPath": "/t"}, {"name": "v", "mountPath": "/v"}]);
        let (volumes, mounts) = secret_volumes(&pod, &container(mounts)).unwrap();
        assert_eq!((volumes.len(), volumes[0].secret()), (1, "s"));
        assert_eq!((mounts.len(), mounts[0].path.as_str()), (1, "/v"));
        let part = json!([{"name": "v", "mountPath": "/v", "subPath": "a"}]);
        assert!(secret_volumes(&pod, &container(part)).is_err());
    }
}

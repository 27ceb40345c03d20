//! The two parts of a mount in a template: a volume of the Secret with the files, and its mount in the
//! first container.
//!
//! Input: the name of a binding's Secret, and where its files are mounted; or an element of a list.
//! Output: the parts as JSON, and which elements have exactly their shape.
//! Invariants: pure. The name of the volume follows from the name of the Secret, and from no other one.
//!
//! A list that was there and empty has to be empty again after the removal. So its elements say it:
//! they set a field to the value that Kubernetes gives it anyway (`defaultMode: 420`, `subPath: ""`).

use std::fmt::Write;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::crd::{FILES_SUFFIX, MountSpec, files_secret_of};

/// The longest name of a volume.
const MAX_VOLUME_NAME: usize = 63;
/// Bytes of the hash in the name of a volume. In hexadecimal digits, it never ends as other names do.
const HASH_BYTES: usize = 20;
/// The mode of files that Kubernetes gives a volume without one.
const DEFAULT_MODE: u32 = 420;

/// The name of the volume with the files of the binding whose Secret has this name.
#[must_use]
pub fn volume_name(secret: &str) -> String {
    let name = format!("doppler-{}", files_secret_of(secret));
    if name.len() <= MAX_VOLUME_NAME && !name.contains('.') {
        return name;
    }
    let hash = Sha256::digest(secret.as_bytes());
    let mut name = "doppler-".to_owned();
    for byte in &hash[..HASH_BYTES] {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// The volume as JSON.
#[must_use]
pub fn volume_json(secret: &str, optional: bool, mount: &MountSpec) -> Value {
    let mut source = json!({"secretName": files_secret_of(secret), "optional": optional});
    if !mount.files.is_empty() {
        let items = mount.files.iter();
        source["items"] = items
            .map(|file| json!({"key": file, "path": file}))
            .collect();
    }
    json!({"name": volume_name(secret), "secret": source})
}

/// The mount of the volume as JSON.
#[must_use]
pub fn volume_mount_json(secret: &str, mount: &MountSpec) -> Value {
    json!({"name": volume_name(secret), "mountPath": mount.path, "readOnly": true})
}

/// A part of a mount in exactly our shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Name of the volume.
    pub(super) volume: String,
    /// Of a volume, the Secret beside which the Secret with the files is, and its `optional`.
    pub(super) source: Option<(String, bool)>,
    /// The part without the field that says that its list was empty.
    json: Value,
    /// Whether its list was there and empty.
    pub(super) keeps_list: bool,
}

impl Part {
    /// The wanted volume.
    pub(super) fn volume(secret: &str, optional: bool, mount: &MountSpec) -> Self {
        Self {
            volume: volume_name(secret),
            source: Some((secret.to_owned(), optional)),
            json: volume_json(secret, optional, mount),
            keeps_list: false,
        }
    }

    /// The wanted mount.
    pub(super) fn volume_mount(secret: &str, mount: &MountSpec) -> Self {
        Self {
            volume: volume_name(secret),
            source: None,
            json: volume_mount_json(secret, mount),
            keeps_list: false,
        }
    }

    /// The part with another answer to whether its list was empty.
    pub(super) fn keeping_list(self, keeps_list: bool) -> Self {
        Self { keeps_list, ..self }
    }

    /// The part as it stands in the template.
    pub(super) fn text(&self) -> String {
        let mut json = self.json.clone();
        if self.keeps_list {
            if self.source.is_some() {
                json["secret"]["defaultMode"] = DEFAULT_MODE.into();
            } else {
                json["subPath"] = "".into();
            }
        }
        json.to_string()
    }

    /// An element of `volumes`, if it has exactly our shape.
    pub(super) fn parse_volume(element: &RawValue) -> Option<Self> {
        let mut json: Value = serde_json::from_str(element.get()).ok()?;
        let volume = json.get("name")?.as_str()?.to_owned();
        let source = json.get_mut("secret")?.as_object_mut()?;
        let keeps_list = match source.remove("defaultMode") {
            None => false,
            Some(mode) if mode == DEFAULT_MODE => true,
            Some(_) => return None,
        };
        let secret = source
            .get("secretName")?
            .as_str()?
            .strip_suffix(FILES_SUFFIX)?;
        let secret = secret.to_owned();
        let optional = source.get("optional")?.as_bool()?;
        let files = match source.get("items") {
            None => Vec::new(),
            Some(items) => file_names(items)?,
        };
        let mount = MountSpec {
            files,
            ..MountSpec::default()
        };
        (json == volume_json(&secret, optional, &mount)).then_some(Self {
            volume,
            source: Some((secret, optional)),
            json,
            keeps_list,
        })
    }

    /// An element of `volumeMounts`, if it has exactly our shape.
    pub(super) fn parse_volume_mount(element: &RawValue) -> Option<Self> {
        let mut json: Map<String, Value> = serde_json::from_str(element.get()).ok()?;
        let volume = json.get("name")?.as_str()?.to_owned();
        let keeps_list = match json.remove("subPath") {
            None => false,
            Some(path) if path == "" => true,
            Some(_) => return None,
        };
        let is_ours =
            json.len() == 3 && json.get("mountPath")?.is_string() && *json.get("readOnly")? == true;
        is_ours.then_some(Self {
            volume,
            source: None,
            json: Value::Object(json),
            keeps_list,
        })
    }

    /// The path of a mount.
    pub(super) fn path(&self) -> Option<&str> {
        self.json.get("mountPath")?.as_str()
    }
}

/// The files of a list of items, none of which has another name in the volume.
fn file_names(items: &Value) -> Option<Vec<String>> {
    let names = items.as_array()?.iter().map(|item| {
        let name = item.get("key")?.as_str()?;
        (*item == json!({"key": name, "path": name})).then(|| name.to_owned())
    });
    names.collect()
}

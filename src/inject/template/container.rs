//! Finds the first container of a base job template, its `envFrom`, and the lists of volumes.
//!
//! Input: the template as raw JSON.
//! Output: the container as slices of the text, or why the template cannot take an entry.
//! Invariants: edits nothing.

use serde_json::value::RawValue;

use super::entry::Entry;
use super::mount::{volume_json, volume_mount_json};
use crate::crd::MountSpec;
use crate::inject::json_text::{JsonKind, Members, parse_kind};
use crate::inject::rendering::variable_of_placeholder;

/// The path from the template to the pod's spec.
pub(super) const POD_SPEC_PATH: [&str; 5] = [
    "job_configuration",
    "job_manifest",
    "spec",
    "template",
    "spec",
];

/// What a message calls the template itself.
pub(super) const TOP: &str = "the top";

/// The longest text of a placeholder that is kept, in characters.
const MAX_SHOWN: usize = 80;

/// Why a template cannot take an entry. [`NotEditable::advice`] says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEditable {
    /// The pool was created without a template.
    #[error("its base job template is empty")]
    Empty,
    /// A step of the path is missing.
    #[error("its base job template has no `{0}`, so it is incomplete or of another pool type")]
    Missing(String),
    /// A placeholder interrupts the path.
    #[error(
        "its base job template has the placeholder `{1}` at `{0}`, which the operator does not replace"
    )]
    Placeholder(String, String),
    /// A step of the path has the wrong type.
    #[error("its base job template has at `{0}` something other than {1}")]
    WrongType(String, &'static str),
    /// The list of containers is empty.
    #[error("its base job template has no container")]
    NoContainer,
    /// The pool is of another type.
    #[error("it is of type `{0}`, and only pools of type `kubernetes` run pods")]
    NotKubernetes(String),
}

impl NotEditable {
    /// What to do so that the template has the entry.
    #[must_use]
    pub fn advice(&self, entry: &Entry) -> String {
        match self {
            Self::Empty => {
                "start a worker of the pool, which sets the default template, or set the template"
                    .to_owned()
            }
            Self::Missing(_) => "start from the default template of a kubernetes pool".to_owned(),
            Self::Placeholder(path, text) => placeholder_advice(path, text, entry),
            Self::WrongType(..) | Self::NoContainer => "correct the template".to_owned(),
            Self::NotKubernetes(_) => {
                "name a pool of type `kubernetes` in spec.inject.workPools".to_owned()
            }
        }
    }
}

/// An entry in the default of a variable counts as the user's.
fn placeholder_advice(path: &str, text: &str, entry: &Entry) -> String {
    if let Some(mount) = &entry.mount {
        return mount_advice(path, text, entry, mount);
    }
    let entry = entry.json();
    let Some(variable) = variable_of_placeholder(text) else {
        return format!(
            "replace it with its value, so that the operator adds the entry, or add {entry} to `envFrom` of the first container"
        );
    };
    let default = format!("`variables.properties.{variable}.default`");
    if path.ends_with(".envFrom") {
        format!("put {entry} into the list {default}, in front of other sources")
    } else {
        format!("put {entry} into the list `envFrom` of the first container in {default}")
    }
}

/// A mount in the default of a variable counts as the user's.
fn mount_advice(path: &str, text: &str, entry: &Entry, mount: &MountSpec) -> String {
    let volume = volume_json(&entry.secret, entry.optional, mount);
    let volume_mount = volume_mount_json(&entry.secret, mount);
    let Some(variable) = variable_of_placeholder(text) else {
        return format!(
            "replace it with its value, so that the operator adds the mount, or add {volume} to `volumes` of the pod and {volume_mount} to `volumeMounts` of the first container"
        );
    };
    let default = format!("`variables.properties.{variable}.default`");
    if path.ends_with(".volumes") {
        format!(
            "put {volume} into the list {default}, and {volume_mount} into `volumeMounts` of the first container"
        )
    } else if path.ends_with(".volumeMounts") {
        format!(
            "put {volume_mount} into the list {default}, and {volume} into `volumes` of the pod"
        )
    } else {
        format!(
            "add {volume} to `volumes` of the pod, and {volume_mount} to `volumeMounts` of the first container, in {default}"
        )
    }
}

/// The first container and its `envFrom`.
pub(super) struct FirstContainer<'a> {
    pub(super) container: &'a RawValue,
    pub(super) members: Members<'a>,
    pub(super) sources: ListMember<'a>,
    /// The pod's spec, which has the container.
    pod: (&'a RawValue, Members<'a>),
}

/// A list that is a member of an object.
pub(super) enum ListMember<'a> {
    Missing,
    Null,
    List(&'a RawValue, Vec<&'a RawValue>),
}

/// A list, and the object that it is a member of.
pub(super) struct OwnedList<'a> {
    pub(super) name: &'static str,
    pub(super) object: &'a RawValue,
    pub(super) members: Members<'a>,
    pub(super) list: ListMember<'a>,
}

/// The lists of a mount: the volumes of the pod, and the mounts of its first container.
pub(super) struct VolumeLists<'a> {
    pub(super) volumes: OwnedList<'a>,
    pub(super) mounts: OwnedList<'a>,
}

impl<'a> VolumeLists<'a> {
    /// # Errors
    /// If the template cannot take a mount.
    pub(super) fn of(template: &'a RawValue) -> Result<Self, NotEditable> {
        Self::around(first_container(template)?)
    }

    /// # Errors
    /// If the template of the container cannot take a mount.
    pub(super) fn around(first: FirstContainer<'a>) -> Result<Self, NotEditable> {
        let FirstContainer {
            container,
            members,
            pod: (pod, pod_members),
            ..
        } = first;
        let pod_path = POD_SPEC_PATH.join(".");
        let container_path = format!("{pod_path}.containers[0]");
        Ok(Self {
            volumes: OwnedList::of("volumes", pod, pod_members, &pod_path)?,
            mounts: OwnedList::of("volumeMounts", container, members, &container_path)?,
        })
    }
}

impl<'a> OwnedList<'a> {
    fn of(
        name: &'static str,
        object: &'a RawValue,
        members: Members<'a>,
        path: &str,
    ) -> Result<Self, NotEditable> {
        let list = ListMember::of(&members, name, path)?;
        Ok(Self {
            name,
            object,
            members,
            list,
        })
    }
}

impl<'a> ListMember<'a> {
    /// The list of this name among the members of the object at `path`.
    fn of(members: &Members<'a>, name: &str, path: &str) -> Result<Self, NotEditable> {
        let Some(value) = members.get(name) else {
            return Ok(Self::Missing);
        };
        match parse_kind(value) {
            JsonKind::Null => Ok(Self::Null),
            JsonKind::List(list) => Ok(Self::List(value, list)),
            other => Err(wrong_type(&format!("{path}.{name}"), other, "a list")),
        }
    }

    pub(super) fn elements(&self) -> &[&'a RawValue] {
        match self {
            Self::List(_, elements) => elements,
            Self::Missing | Self::Null => &[],
        }
    }
}

fn wrong_type(path: &str, found: JsonKind<'_>, expected: &'static str) -> NotEditable {
    match found {
        JsonKind::Text(text) if text.contains("{{") => {
            NotEditable::Placeholder(path.to_owned(), text.chars().take(MAX_SHOWN).collect())
        }
        _ => NotEditable::WrongType(path.to_owned(), expected),
    }
}

fn parse_object<'a>(value: &'a RawValue, path: &str) -> Result<Members<'a>, NotEditable> {
    match parse_kind(value) {
        JsonKind::Object(members) => Ok(members),
        other => Err(wrong_type(path, other, "an object")),
    }
}

/// A member of an object at `path`.
///
/// # Errors
/// If the value is no object, or does not have the member.
pub(super) fn parse_member<'a>(
    value: &'a RawValue,
    path: &str,
    key: &str,
) -> Result<&'a RawValue, NotEditable> {
    let found = parse_object(value, path)?.get(key);
    found.ok_or_else(|| {
        let parent = if path == TOP { "" } else { path };
        let dot = if parent.is_empty() { "" } else { "." };
        NotEditable::Missing(format!("{parent}{dot}{key}"))
    })
}

/// Finds the first container.
///
/// # Errors
/// If the template cannot take an entry.
pub(super) fn first_container(template: &RawValue) -> Result<FirstContainer<'_>, NotEditable> {
    let mut members = match parse_kind(template) {
        JsonKind::Null => return Err(NotEditable::Empty),
        _ => parse_object(template, TOP)?,
    };
    if members.0.is_empty() {
        return Err(NotEditable::Empty);
    }
    let mut path = String::new();
    let mut pod = template;
    for key in POD_SPEC_PATH {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        let value = members
            .get(key)
            .ok_or_else(|| NotEditable::Missing(path.clone()))?;
        members = parse_object(value, &path)?;
        pod = value;
    }
    let pod_members = members;
    path.push_str(".containers");
    let containers = pod_members
        .get("containers")
        .ok_or_else(|| NotEditable::Missing(path.clone()))?;
    let container = match parse_kind(containers) {
        JsonKind::List(list) => *list.first().ok_or(NotEditable::NoContainer)?,
        other => return Err(wrong_type(&path, other, "a list")),
    };
    path.push_str("[0]");
    let members = parse_object(container, &path)?;
    // A placeholder or another unknown value among the sources keeps its place after our entries.
    let sources = ListMember::of(&members, "envFrom", &path)?;
    Ok(FirstContainer {
        container,
        members,
        sources,
        pod: (pod, pod_members),
    })
}

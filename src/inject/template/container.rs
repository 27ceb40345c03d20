//! Finds the first container of a base job template and its `envFrom`.
//!
//! Input: the template as raw JSON.
//! Output: the container as slices of the text, or why the template cannot take an entry.
//! Invariants: edits nothing.

use serde_json::value::RawValue;

use super::entry::Entry;
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

/// The first container and its `envFrom`.
pub(super) struct FirstContainer<'a> {
    pub(super) container: &'a RawValue,
    pub(super) members: Members<'a>,
    pub(super) sources: EnvFrom<'a>,
}

/// The container's `envFrom`.
pub(super) enum EnvFrom<'a> {
    Missing,
    Null,
    List(&'a RawValue, Vec<&'a RawValue>),
}

impl<'a> EnvFrom<'a> {
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
    for key in POD_SPEC_PATH {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        let value = members
            .get(key)
            .ok_or_else(|| NotEditable::Missing(path.clone()))?;
        members = parse_object(value, &path)?;
    }
    path.push_str(".containers");
    let containers = members
        .get("containers")
        .ok_or_else(|| NotEditable::Missing(path.clone()))?;
    let container = match parse_kind(containers) {
        JsonKind::List(list) => *list.first().ok_or(NotEditable::NoContainer)?,
        other => return Err(wrong_type(&path, other, "a list")),
    };
    path.push_str("[0]");
    let members = parse_object(container, &path)?;
    path.push_str(".envFrom");
    let sources = match members.get("envFrom") {
        None => EnvFrom::Missing,
        Some(value) => match parse_kind(value) {
            JsonKind::Null => EnvFrom::Null,
            JsonKind::List(list) => EnvFrom::List(value, list),
            other => return Err(wrong_type(&path, other, "a list")),
        },
    };
    // A placeholder or another unknown value among the sources keeps its place after our entries.
    Ok(FirstContainer {
        container,
        members,
        sources,
    })
}

//! How a base job template names Secrets in `envFrom`.
//!
//! Input: the template as raw JSON.
//! Output: how its text names each Secret. Placeholders are text like any other here.
//! Invariants: edits nothing.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::container::{EnvFrom, NotEditable, first_container};

/// How a template names a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// By an entry of exactly the shape that we write.
    Exact {
        /// Its `optional`.
        optional: bool,
    },
    /// By an entry of another shape that adds all keys of the Secret under their own names.
    OtherShape,
    /// By no entry.
    Absent,
}

/// The Secret whose keys a source adds under their own names, and the `optional` of a source that
/// has exactly our shape.
pub(super) fn secret_source(element: &RawValue) -> Option<(String, Option<bool>)> {
    let value: serde_json::Value = serde_json::from_str(element.get()).ok()?;
    let source = value.as_object()?;
    let reference = source.get("secretRef")?.as_object()?;
    let name = reference.get("name")?.as_str()?.to_owned();
    match source.get("prefix") {
        None | Some(serde_json::Value::Null) => {}
        Some(prefix) if prefix.as_str() == Some("") => {}
        Some(_) => return None,
    }
    let optional = reference
        .get("optional")
        .and_then(serde_json::Value::as_bool)
        .filter(|_| source.len() == 1 && reference.len() == 2);
    Some((name, optional))
}

/// How the text of the template names each Secret that it adds.
///
/// # Errors
/// If the template cannot take an entry.
pub fn entry_states(template: &RawValue) -> Result<BTreeMap<String, EntryState>, NotEditable> {
    let target = first_container(template)?;
    let mut states = BTreeMap::new();
    for (name, exact) in target
        .sources
        .elements()
        .iter()
        .filter_map(|e| secret_source(e))
    {
        let state = states.entry(name).or_insert(EntryState::OtherShape);
        if let (Some(optional), EntryState::OtherShape) = (exact, *state) {
            *state = EntryState::Exact { optional };
        }
    }
    Ok(states)
}

/// How the template names the Secret.
///
/// # Errors
/// If the template cannot take an entry.
pub fn entry_state(template: &RawValue, secret: &str) -> Result<EntryState, NotEditable> {
    let states = entry_states(template)?;
    Ok(states.get(secret).copied().unwrap_or(EntryState::Absent))
}

/// Whether the first container has a list of sources.
pub(in crate::inject) fn has_list(template: &RawValue) -> bool {
    first_container(template).is_ok_and(|target| matches!(target.sources, EnvFrom::List(..)))
}

//! How a base job template names Secrets in `envFrom`, also by way of a variable that offers them.
//!
//! Input: the template as raw JSON.
//! Output: how its text names each Secret.
//! Invariants: edits nothing.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::container::{EnvFrom, NotEditable, first_container};
use super::entry::{EntryKey, placeholder};
use super::variable::declared_variable;
use crate::inject::rendering::variable_of_placeholder;

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

/// How the text of the template names each Secret that it adds, or that a variable of an entry
/// offers.
///
/// # Errors
/// If the template cannot take an entry.
pub fn entry_states(template: &RawValue) -> Result<BTreeMap<EntryKey, EntryState>, NotEditable> {
    let target = first_container(template)?;
    let mut states = BTreeMap::new();
    let mut add = |key: EntryKey, exact: Option<bool>| {
        let state = states.entry(key).or_insert(EntryState::OtherShape);
        if let (Some(optional), EntryState::OtherShape) = (exact, *state) {
            *state = EntryState::Exact { optional };
        }
    };
    let sources = target.sources.elements().iter();
    for (name, exact) in sources.filter_map(|element| secret_source(element)) {
        if let Some(variable) = variable_of_placeholder(&name)
            && let Some(names) = declared_variable(template, variable).and_then(|of| of.names)
        {
            // Another spacing in the placeholder is not our shape.
            let exact = exact.filter(|_| name == placeholder(variable));
            for secret in names {
                let variable = Some(variable.to_owned());
                add(EntryKey { secret, variable }, exact);
            }
        }
        add(EntryKey::all(name), exact);
    }
    Ok(states)
}

/// How the template names the Secret.
///
/// # Errors
/// If the template cannot take an entry.
pub fn entry_state(
    template: &RawValue,
    key: impl Into<EntryKey>,
) -> Result<EntryState, NotEditable> {
    let states = entry_states(template)?;
    let state = states.get(&key.into());
    Ok(state.copied().unwrap_or(EntryState::Absent))
}

/// How many entries of our shape the list begins with.
pub(in crate::inject) fn leading_entries(template: &RawValue) -> usize {
    let Ok(target) = first_container(template) else {
        return 0;
    };
    let elements = target.sources.elements().iter();
    let exact = |element: &&&RawValue| matches!(secret_source(element), Some((_, Some(_))));
    elements.take_while(exact).count()
}

/// Whether the first container has a list of sources.
pub(in crate::inject) fn has_list(template: &RawValue) -> bool {
    first_container(template).is_ok_and(|target| matches!(target.sources, EnvFrom::List(..)))
}

//! How a base job template names Secrets in `envFrom`, also by way of a variable that offers them, and
//! in mounts.
//!
//! Input: the template as raw JSON.
//! Output: how its text names each Secret.
//! Invariants: edits nothing.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::container::{ListMember, NotEditable, OwnedList, VolumeLists, first_container};
use super::entry::{EntryKey, placeholder};
use super::mount_parts::complete_mounts;
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
    /// By an entry of another shape that adds all keys of the Secret under their own names, or mounts
    /// its files at the path.
    OtherShape,
    /// Only one of the two parts of a mount is there, in exactly our shape.
    Incomplete,
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
                let key = EntryKey {
                    variable,
                    ..EntryKey::all(secret)
                };
                add(key, exact);
            }
        }
        add(EntryKey::all(name), exact);
    }
    // A template that cannot take a mount has none of ours.
    if let Ok(lists) = VolumeLists::around(target) {
        let mounts = complete_mounts(&lists).into_iter();
        states.extend(
            mounts.map(|(secret, optional)| {
                (EntryKey::mount(secret), EntryState::Exact { optional })
            }),
        );
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

/// Whether the pod has a list of volumes, and its first container one of mounts.
pub(in crate::inject) fn has_volume_lists(template: &RawValue) -> (bool, bool) {
    let is_list = |list: &OwnedList<'_>| matches!(list.list, ListMember::List(..));
    VolumeLists::of(template).map_or((false, false), |lists| {
        (is_list(&lists.volumes), is_list(&lists.mounts))
    })
}

/// Whether the first container has a list of sources.
pub(in crate::inject) fn has_list(template: &RawValue) -> bool {
    first_container(template).is_ok_and(|target| matches!(target.sources, ListMember::List(..)))
}

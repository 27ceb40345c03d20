//! The mounts of the operator that a template has.
//!
//! Input: the template as raw JSON, and the name of a binding's Secret.
//! Output: whether its volume and its mount are there, and at which path.
//! Invariants: edits nothing. A volume that another container, or a mount of another shape, uses is no
//! longer the operator's alone: without our mount, it counts as the user's.

use serde_json::Value;
use serde_json::value::RawValue;

use super::container::{NotEditable, POD_SPEC_PATH, VolumeLists};
use super::entry_state::EntryState;
use super::mount::{Part, volume_name};
use super::mount_parts::parts;

/// A mount as a template has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingMount {
    /// How far it is there.
    pub state: EntryState,
    /// Where it is, if it is there.
    pub path: Option<String>,
}

/// How the template mounts the files of the binding whose Secret has this name.
///
/// # Errors
/// If the template cannot take a mount.
pub fn standing_mount(template: &RawValue, secret: &str) -> Result<StandingMount, NotEditable> {
    let lists = VolumeLists::of(template)?;
    let name = volume_name(secret);
    let volumes = parts(&lists.volumes, Part::parse_volume);
    let volume = volumes
        .into_iter()
        .flatten()
        .find(|part| part.volume == name);
    let is_named = has_volume(&lists, &name);
    let mounts = parts(&lists.mounts, Part::parse_volume_mount);
    let mut mounts = mounts.into_iter().flatten();
    let mount = mounts.find(|part| part.volume == name && (volume.is_some() || !is_named));
    let source = volume.and_then(|volume| volume.source);
    let state = match (source, &mount) {
        (Some((_, optional)), Some(_)) => EntryState::Exact { optional },
        (Some(_), None) if is_used_by_others(template, &lists, &name) => EntryState::Absent,
        (Some(_), None) | (None, Some(_)) => EntryState::Incomplete,
        (None, None) => EntryState::Absent,
    };
    let path = mount.and_then(|mount| mount.path().map(str::to_owned));
    Ok(StandingMount { state, path })
}

/// Whether the pod has a volume of this name, of whichever shape.
pub(super) fn has_volume(lists: &VolumeLists<'_>, name: &str) -> bool {
    let mut elements = lists.volumes.list.elements().iter();
    elements.any(|element| names(&parsed(element), name))
}

/// Whether anything but mounts of our shape in the first container uses the volume.
pub(super) fn is_used_by_others(template: &RawValue, lists: &VolumeLists<'_>, name: &str) -> bool {
    let mut own = lists.mounts.list.elements().iter();
    if own
        .any(|element| Part::parse_volume_mount(element).is_none() && names(&parsed(element), name))
    {
        return true;
    }
    let template = parsed(template);
    let pod = POD_SPEC_PATH.iter().fold(&template, |part, key| &part[key]);
    let list = |key: &str| pod[key].as_array().into_iter().flatten();
    let mut others = list("containers").skip(1).chain(list("initContainers"));
    others.any(|container| {
        let mounts = container["volumeMounts"].as_array();
        mounts.into_iter().flatten().any(|mount| names(mount, name))
    })
}

fn names(element: &Value, name: &str) -> bool {
    element["name"] == name
}

fn parsed(text: &RawValue) -> Value {
    serde_json::from_str(text.get()).unwrap_or_default()
}

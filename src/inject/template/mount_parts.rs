//! The parts of mounts of exactly our shape that a template has.
//!
//! Input: the lists of volumes and of mounts.
//! Output: the parts, each in its place, and the Secrets with both parts.
//! Invariants: edits nothing.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::container::{OwnedList, VolumeLists};
use super::mount::Part;

/// The parts of exactly our shape in a list, each in its place.
pub(super) fn parts(
    list: &OwnedList<'_>,
    parse: fn(&RawValue) -> Option<Part>,
) -> Vec<Option<Part>> {
    let elements = list.list.elements().iter();
    elements.map(|element| parse(element)).collect()
}

/// The Secrets with both parts of a mount, and the `optional` of the volume.
pub(super) fn complete_mounts(lists: &VolumeLists<'_>) -> BTreeMap<String, bool> {
    let mounts = parts(&lists.mounts, Part::parse_volume_mount);
    let volumes = parts(&lists.volumes, Part::parse_volume).into_iter();
    let complete = volumes.flatten().filter(|volume| {
        let mut mounts = mounts.iter().flatten();
        mounts.any(|mount| mount.volume == volume.volume)
    });
    complete.filter_map(|volume| volume.source).collect()
}

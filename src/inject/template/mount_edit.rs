//! The smallest edit of a template that adds or removes mounts.
//!
//! Input: the template as raw JSON, the wanted mounts, and the Secrets whose mounts may be removed.
//! Output: the same text with at most two ranges changed.
//! Invariants: removes and changes only parts of exactly our shape. A volume that another container
//! uses stays, because a mount without its volume would stop every run of the pool.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::container::{ListMember, NotEditable, VolumeLists};
use super::entry::Entry;
use super::list_edit::{Change, ListEdit};
use super::mount::{Part, volume_name};
use super::mount_parts::parts;
use super::standing_mount::{has_volume, is_used_by_others};
use super::{parse, unexpected};
use crate::crd::MountSpec;

/// Adds the wanted mounts and removes those of `ours` that are not wanted. None if it is so already.
///
/// # Errors
/// If the template cannot take a mount, and one is wanted.
pub(super) fn edit_mounts(
    template: &RawValue,
    entries: &[Entry],
    ours: &BTreeSet<&str>,
) -> Result<Option<Box<RawValue>>, NotEditable> {
    let wanted = entries.iter().filter_map(|entry| {
        let mount = entry.mount.as_ref()?;
        Some(Wanted { entry, mount })
    });
    let mut wanted: Vec<Wanted<'_>> = wanted.collect();
    if wanted.is_empty() && ours.is_empty() {
        return Ok(None);
    }
    let lists = match VolumeLists::of(template) {
        Ok(lists) => lists,
        Err(_) if wanted.is_empty() => return Ok(None),
        Err(error) => return Err(error),
    };
    wanted.sort_by_key(|wanted| (&wanted.entry.secret, !wanted.entry.optional));
    wanted.dedup_by_key(|wanted| &wanted.entry.secret);
    wanted.retain(|wanted| {
        let secret = wanted.entry.secret.as_str();
        ours.contains(secret) || !has_volume(&lists, &volume_name(secret))
    });
    let volumes = volumes_edit(template, &lists, &wanted, ours);
    let mounts = mounts_edit(&lists, &wanted, ours);
    let mut changed: Option<Box<RawValue>> = None;
    if let Some(text) = volumes
        .apply(template, &lists.volumes)
        .map_err(|_| unexpected())?
    {
        changed = Some(parse(text)?);
    }
    let with_volumes = changed.as_deref().unwrap_or(template);
    let lists = VolumeLists::of(with_volumes)?;
    if let Some(text) = mounts
        .apply(with_volumes, &lists.mounts)
        .map_err(|_| unexpected())?
    {
        changed = Some(parse(text)?);
    }
    Ok(changed)
}

/// A mount that has to be in the template.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    entry: &'a Entry,
    mount: &'a MountSpec,
}

impl Wanted<'_> {
    fn volume(&self) -> Part {
        Part::volume(&self.entry.secret, self.entry.optional, self.mount)
    }

    fn volume_mount(&self) -> Part {
        Part::volume_mount(&self.entry.secret, self.mount)
    }
}

fn volumes_edit(
    template: &RawValue,
    lists: &VolumeLists<'_>,
    wanted: &[Wanted<'_>],
    ours: &BTreeSet<&str>,
) -> ListEdit {
    let mut found = parts(&lists.volumes, Part::parse_volume);
    let keeps_list = keeps_list(&lists.volumes.list, &found);
    let is_ours = |part: &Part| {
        let source = part.source.as_ref();
        source.is_some_and(|(secret, _)| ours.contains(secret.as_str()))
    };
    for part in &mut found {
        *part = part.take().filter(is_ours);
    }
    let Placed { mut at, missing } = place(&found, wanted.iter().map(Wanted::volume));
    let changes = found.iter().enumerate().map(|(index, part)| match part {
        None => Change::Keep,
        Some(part) => match at.remove(&index) {
            Some(wanted) => replace_by(part, wanted),
            None if is_used_by_others(template, lists, &part.volume) => Change::Keep,
            None => Change::Remove,
        },
    });
    let changes = changes.collect();
    ListEdit {
        changes,
        appended: texts(missing, keeps_list),
        keeps_list,
    }
}

fn mounts_edit(lists: &VolumeLists<'_>, wanted: &[Wanted<'_>], ours: &BTreeSet<&str>) -> ListEdit {
    let mut found = parts(&lists.mounts, Part::parse_volume_mount);
    let keeps_list = keeps_list(&lists.mounts.list, &found);
    let volumes = parts(&lists.volumes, Part::parse_volume);
    let our_volumes: BTreeSet<String> = ours.iter().map(|secret| volume_name(secret)).collect();
    // A volume of another shape under our name is a user's, and so is its mount.
    let is_ours = |part: &Part| {
        let mut volumes = volumes.iter().flatten();
        our_volumes.contains(&part.volume)
            && (!has_volume(lists, &part.volume) || volumes.any(|of| of.volume == part.volume))
    };
    for part in &mut found {
        *part = part.take().filter(is_ours);
    }
    let Placed { mut at, missing } = place(&found, wanted.iter().map(Wanted::volume_mount));
    let is_wanted = |part: &Part| {
        let mut wanted = wanted.iter();
        wanted.any(|wanted| volume_name(&wanted.entry.secret) == part.volume)
    };
    let changes = found.iter().enumerate().map(|(index, part)| match part {
        None => Change::Keep,
        Some(part) => match at.remove(&index) {
            Some(wanted) => replace_by(part, wanted),
            // A further mount of the volume is a user's, as long as the volume is there.
            None if is_wanted(part) => Change::Keep,
            None => Change::Remove,
        },
    });
    let changes = changes.collect();
    ListEdit {
        changes,
        appended: texts(missing, keeps_list),
        keeps_list,
    }
}

/// Where the wanted parts go.
struct Placed {
    /// In place of these elements.
    at: BTreeMap<usize, Part>,
    /// Behind all of them.
    missing: Vec<Part>,
}

/// Places each wanted part at the element of its volume: at the one with the same path, or else at the
/// first one.
fn place(found: &[Option<Part>], wanted: impl Iterator<Item = Part>) -> Placed {
    let mut placed = Placed {
        at: BTreeMap::new(),
        missing: Vec::new(),
    };
    for part in wanted {
        let of_volume = found.iter().enumerate().filter_map(|(index, other)| {
            let other = other.as_ref()?;
            (other.volume == part.volume).then_some((index, other))
        });
        let of_volume: Vec<(usize, &Part)> = of_volume.collect();
        let mut same_path = of_volume
            .iter()
            .filter(|(_, other)| other.path() == part.path());
        match same_path
            .next()
            .or(of_volume.first())
            .map(|(index, _)| *index)
        {
            Some(index) => drop(placed.at.insert(index, part)),
            None => placed.missing.push(part),
        }
    }
    placed
}

/// The change from a part to the wanted one.
fn replace_by(part: &Part, wanted: Part) -> Change {
    let wanted = wanted.keeping_list(part.keeps_list);
    if *part == wanted {
        Change::Keep
    } else {
        Change::Replace(wanted.text())
    }
}

/// Whether the list was there, and empty, before the operator's first part.
fn keeps_list(list: &ListMember<'_>, found: &[Option<Part>]) -> bool {
    let is_empty = matches!(list, ListMember::List(_, elements) if elements.is_empty());
    is_empty || found.iter().flatten().any(|part| part.keeps_list)
}

fn texts(parts: Vec<Part>, keeps_list: bool) -> Vec<String> {
    let parts = parts.into_iter();
    parts
        .map(|part| part.keeping_list(keeps_list).text())
        .collect()
}

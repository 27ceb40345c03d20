//! The smallest edit of a base job template that adds or removes our `envFrom` entries, the variables
//! by which runs choose a Secret, and mounts of files.
//!
//! Input: the template as raw JSON, the wanted entries, and the entries that may be removed.
//! Output: the same text with few ranges changed, or why the template cannot take an entry.
//! Invariants: moves no key, number, escape or space of anything else.
//!
//! Our entries come first, sorted by name: of two `envFrom` sources the later wins, so the user's
//! sources win. The entry of a variable names its placeholder, which sorts behind every Secret: what
//! a run chooses wins over what all runs get. If the last of our entries leaves the list empty, the key is removed too, so a
//! template without `envFrom` gets its text back. A template with an empty list loses the list,
//! which means the same to Kubernetes.

mod choice;
mod container;
mod entry;
mod entry_state;
mod list_edit;
mod mount;
mod mount_edit;
mod mount_parts;
mod standing_mount;
mod variable;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::value::RawValue;

use self::choice::{Choice, Placement, insert_member, remove_member};
use self::container::{FirstContainer, ListMember, POD_SPEC_PATH, first_container};
use self::entry::placeholder;
use self::entry_state::secret_source;
use self::mount_edit::edit_mounts;
use super::json_text::{range_of, splice};

pub use self::container::NotEditable;
pub use self::entry::{Entry, EntryKey};
pub use self::entry_state::{EntryState, entry_state, entry_states};
pub(super) use self::entry_state::{has_list, has_volume_lists, leading_entries};
pub use self::mount::{volume_json, volume_mount_json, volume_name};
pub use self::standing_mount::{StandingMount, standing_mount};
pub(super) use self::variable::{
    DeclaredVariable, declaration_of, declared_variable, refuses_undeclared,
};

/// The result of an edit.
#[derive(Debug)]
pub enum Edit {
    /// The template already is as wanted.
    Unchanged,
    /// The new template.
    Changed(Box<RawValue>),
}

/// Adds the wanted entries and removes those of `ours` that are not wanted.
///
/// Removes and changes only entries of exactly our shape that are in `ours`. A wanted Secret that is
/// not in `ours` and that an entry already names stays as it is.
///
/// # Errors
/// If the template cannot take an entry.
pub fn edit(
    template: &RawValue,
    entries: &[Entry],
    ours: &BTreeSet<EntryKey>,
) -> Result<Edit, NotEditable> {
    first_container(template)?;
    let all = entries.iter();
    let all = all.filter(|entry| entry.variable.is_none() && entry.mount.is_none());
    let mut sources: Vec<Source> = all
        .map(|entry| Source {
            name: entry.secret.clone(),
            optional: entry.optional,
        })
        .collect();
    let plain = ours.iter();
    let plain = plain.filter(|key| key.variable.is_none() && !key.mount);
    let mut our_names: BTreeSet<String> = plain.map(|key| key.secret.clone()).collect();
    let mut changed: Option<Box<RawValue>> = None;
    for (variable, choice) in choices(entries, ours) {
        let (text, placement) = choice.edit(changed.as_deref().unwrap_or(template), variable)?;
        if let Some(text) = text {
            changed = Some(parse(text)?);
        }
        let name = placeholder(variable);
        if placement == Placement::Present {
            sources.push(Source {
                name: name.clone(),
                optional: true,
            });
        }
        if placement != Placement::Foreign {
            our_names.insert(name);
        }
    }
    let with_variables = changed.as_deref().unwrap_or(template);
    if let Some(text) = edit_sources(with_variables, sources, &our_names)? {
        changed = Some(parse(text)?);
    }
    let our_mounts = ours.iter().filter(|key| key.mount);
    let our_mounts = our_mounts.map(|key| key.secret.as_str()).collect();
    let with_sources = changed.as_deref().unwrap_or(template);
    if let Some(with_mounts) = edit_mounts(with_sources, entries, &our_mounts)? {
        changed = Some(with_mounts);
    }
    Ok(changed.map_or(Edit::Unchanged, Edit::Changed))
}

/// A source of `envFrom` in exactly our shape.
struct Source {
    name: String,
    optional: bool,
}

impl Source {
    fn json(&self) -> String {
        let entry = Entry {
            secret: self.name.clone(),
            optional: self.optional,
            ..Entry::default()
        };
        entry.json().to_string()
    }
}

/// The names of each variable.
fn choices<'a>(
    entries: &'a [Entry],
    ours: &'a BTreeSet<EntryKey>,
) -> BTreeMap<&'a str, Choice<'a>> {
    let mut choices: BTreeMap<&str, Choice<'_>> = BTreeMap::new();
    for entry in entries {
        if let Some(variable) = &entry.variable {
            let choice = choices.entry(variable).or_default();
            choice.wanted.insert(&entry.secret);
        }
    }
    for key in ours {
        if let Some(variable) = &key.variable {
            choices
                .entry(variable)
                .or_default()
                .ours
                .insert(&key.secret);
        }
    }
    choices
}

/// The template with the wanted sources and without the others of `ours`. None if it is so already.
fn edit_sources(
    template: &RawValue,
    mut wanted: Vec<Source>,
    ours: &BTreeSet<String>,
) -> Result<Option<String>, NotEditable> {
    let target = first_container(template)?;
    let elements = target.sources.elements();
    let named: Vec<_> = elements
        .iter()
        .map(|element| secret_source(element))
        .collect();
    let is_ours =
        |at: usize| matches!(named.get(at), Some(Some((name, Some(_)))) if ours.contains(name));
    wanted.retain(|entry| {
        ours.contains(&entry.name) || !named.iter().flatten().any(|(name, _)| *name == entry.name)
    });
    wanted.sort_by(|a, b| a.name.cmp(&b.name).then(b.optional.cmp(&a.optional)));
    wanted.dedup_by(|a, b| a.name == b.name);

    let in_place = are_in_place(&wanted, &named);
    let kept: Vec<usize> = (0..elements.len()).filter(|at| !is_ours(*at)).collect();
    let count = elements.len() - kept.len();
    let owned = wanted.iter().filter(|entry| ours.contains(&entry.name));
    if in_place && count == owned.count() {
        return Ok(None);
    }
    let our_entries: Vec<String> = wanted.iter().map(Source::json).collect();
    let text = match &target.sources {
        ListMember::List(list, elements) if !(our_entries.is_empty() && kept.is_empty()) => {
            let new = rebuild_list(list.get(), elements, &our_entries, &kept);
            replace_part(template, list, &new)
        }
        ListMember::List(..) => remove_list(template, &target),
        ListMember::Null => target
            .members
            .get("envFrom")
            .and_then(|null| replace_part(template, null, &format!("[{}]", our_entries.join(",")))),
        ListMember::Missing => insert_list(template, &target, &our_entries),
    };
    text.map(Some).ok_or_else(unexpected)
}

/// The text as JSON.
fn parse(text: String) -> Result<Box<RawValue>, NotEditable> {
    RawValue::from_string(text).map_err(|_| unexpected())
}

/// The ranges come from the text itself, so this cannot happen. An unwritten pool is better than a
/// broken one.
fn unexpected() -> NotEditable {
    NotEditable::WrongType(POD_SPEC_PATH.join("."), "JSON that can be edited in place")
}

/// Whether the entries are in order, after nothing but entries of our shape.
///
/// After a restart, entries of our shape may belong to bindings that have not declared a claim yet.
/// They are no reason to move an entry.
fn are_in_place(wanted: &[Source], named: &[Option<(String, Option<bool>)>]) -> bool {
    let mut first_positions: HashMap<(&str, bool), usize> = HashMap::new();
    for (at, source) in named.iter().enumerate() {
        if let Some((name, Some(optional))) = source {
            first_positions.entry((name, *optional)).or_insert(at);
        }
    }
    let places: Option<Vec<usize>> = wanted
        .iter()
        .map(|entry| {
            first_positions
                .get(&(entry.name.as_str(), entry.optional))
                .copied()
        })
        .collect();
    places.is_some_and(|places| {
        // The last one is such an entry itself.
        let front = places.last().copied().unwrap_or_default();
        places.is_sorted()
            && named[..front]
                .iter()
                .all(|source| matches!(source, Some((_, Some(_)))))
    })
}

fn replace_part(template: &RawValue, part: &RawValue, with: &str) -> Option<String> {
    let at = range_of(template.get(), part.get())?;
    Some(splice(template.get(), at, with))
}

/// The list with our entries first, then the kept elements, each with the text before it.
fn rebuild_list(
    list: &str,
    elements: &[&RawValue],
    our_entries: &[String],
    kept: &[usize],
) -> String {
    let places: Vec<_> = elements
        .iter()
        .filter_map(|element| range_of(list, element.get()))
        .collect();
    let (Some(head), Some(tail)) = (places.first(), places.last()) else {
        return format!("[{}]", our_entries.join(","));
    };
    let mut text = list[..head.start].to_owned();
    text.push_str(&our_entries.join(","));
    for (nth, &at) in kept.iter().enumerate() {
        if nth > 0 {
            text.push_str(&list[places[at - 1].end..places[at].start]);
        } else if !our_entries.is_empty() {
            text.push(',');
        }
        text.push_str(&list[places[at].clone()]);
    }
    text.push_str(&list[tail.end..]);
    text
}

/// The template with `envFrom` added as the container's last member.
fn insert_list(
    template: &RawValue,
    target: &FirstContainer<'_>,
    our_entries: &[String],
) -> Option<String> {
    let member = format!("\"envFrom\":[{}]", our_entries.join(","));
    insert_member(template, target.container, &target.members, &member)
}

/// The template without the container's `envFrom`.
fn remove_list(template: &RawValue, target: &FirstContainer<'_>) -> Option<String> {
    remove_member(template, target.container, &target.members, "envFrom")
}

#[cfg(test)]
mod tests;

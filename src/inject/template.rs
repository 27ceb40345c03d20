//! The smallest edit of a base job template that adds or removes our `envFrom` entries.
//!
//! Input: the template as raw JSON, the wanted entries, and the Secrets whose entries may be
//! removed.
//! Output: the same text with one range changed, or why the template cannot take an entry.
//! Invariants: moves no key, number, escape or space of anything else.
//!
//! Our entries come first, sorted by name: of two `envFrom` sources the later wins, so the user's
//! sources win. If the last of our entries leaves the list empty, the key is removed too, so a
//! template without `envFrom` gets its text back. A template with an empty list loses the list,
//! which means the same to Kubernetes.

mod container;
mod entry;
mod entry_state;

use std::collections::{BTreeSet, HashMap};

use serde_json::value::RawValue;

use self::container::{EnvFrom, FirstContainer, POD_SPEC_PATH, first_container};
use self::entry_state::secret_source;
use super::json_text::{range_of, splice};

pub use self::container::NotEditable;
pub use self::entry::Entry;
pub(super) use self::entry_state::has_list;
pub use self::entry_state::{EntryState, entry_state, entry_states};

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
/// Removes and changes only entries of exactly our shape whose Secret is in `ours`. A wanted Secret
/// that is not in `ours` and that an entry already names stays as it is.
///
/// # Errors
/// If the template cannot take an entry.
pub fn edit(
    template: &RawValue,
    entries: &[Entry],
    ours: &BTreeSet<String>,
) -> Result<Edit, NotEditable> {
    let target = first_container(template)?;
    let elements = target.sources.elements();
    let named: Vec<_> = elements
        .iter()
        .map(|element| secret_source(element))
        .collect();
    let is_ours =
        |at: usize| matches!(named.get(at), Some(Some((name, Some(_)))) if ours.contains(name));
    let mut wanted: Vec<&Entry> = entries
        .iter()
        .filter(|entry| {
            ours.contains(&entry.secret)
                || !named
                    .iter()
                    .flatten()
                    .any(|(name, _)| *name == entry.secret)
        })
        .collect();
    wanted.sort_by(|a, b| a.secret.cmp(&b.secret).then(b.optional.cmp(&a.optional)));
    wanted.dedup_by(|a, b| a.secret == b.secret);

    let in_place = are_in_place(&wanted, &named);
    let kept: Vec<usize> = (0..elements.len()).filter(|at| !is_ours(*at)).collect();
    let count = elements.len() - kept.len();
    let owned = wanted
        .iter()
        .filter(|entry| ours.contains(&entry.secret))
        .count();
    if in_place && count == owned {
        return Ok(Edit::Unchanged);
    }
    let our_entries: Vec<String> = wanted
        .iter()
        .map(|entry| entry.json().to_string())
        .collect();
    let text = match &target.sources {
        EnvFrom::List(list, elements) if !(our_entries.is_empty() && kept.is_empty()) => {
            let new = rebuild_list(list.get(), elements, &our_entries, &kept);
            replace_part(template, list, &new)
        }
        EnvFrom::List(..) => remove_list(template, &target),
        EnvFrom::Null => target
            .members
            .get("envFrom")
            .and_then(|null| replace_part(template, null, &format!("[{}]", our_entries.join(",")))),
        EnvFrom::Missing => insert_list(template, &target, &our_entries),
    };
    match text.map(RawValue::from_string) {
        Some(Ok(template)) => Ok(Edit::Changed(template)),
        // The ranges come from the text itself, so this cannot happen. An unwritten pool is better
        // than a broken one.
        Some(Err(_)) | None => Err(NotEditable::WrongType(
            POD_SPEC_PATH.join("."),
            "JSON that can be edited in place",
        )),
    }
}

/// Whether the entries are in order, after nothing but entries of our shape.
///
/// After a restart, entries of our shape may belong to bindings that have not declared a claim yet.
/// They are no reason to move an entry.
fn are_in_place(wanted: &[&Entry], named: &[Option<(String, Option<bool>)>]) -> bool {
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
                .get(&(entry.secret.as_str(), entry.optional))
                .copied()
        })
        .collect();
    places.is_some_and(|places| {
        let front = places.last().map_or(0, |last| last + 1);
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
    let whole = template.get();
    if let Some((_, last)) = target.members.0.last() {
        let end = range_of(whole, last.get())?.end;
        Some(splice(whole, end..end, &format!(",{member}")))
    } else {
        let inside = range_of(whole, target.container.get())?.start + 1;
        Some(splice(whole, inside..inside, &member))
    }
}

/// The template without the container's `envFrom`.
fn remove_list(template: &RawValue, target: &FirstContainer<'_>) -> Option<String> {
    let whole = template.get();
    let at = target.members.position("envFrom")?;
    let end = range_of(whole, target.members.0[at].1.get())?.end;
    if at > 0 {
        let start = range_of(whole, target.members.0[at - 1].1.get())?.end;
        return Some(splice(whole, start..end, ""));
    }
    let open = range_of(whole, target.container.get())?.start;
    let start = open + whole[open..].find('"')?;
    let end = match whole[end..].trim_start().strip_prefix(',') {
        Some(rest) => whole.len() - rest.trim_start().len(),
        None => end,
    };
    Some(splice(whole, start..end, ""))
}

#[cfg(test)]
mod tests;

//! The minimal edit of a pool's base job template: our `envFrom` entries, and nothing else.
//!
//! In: the template as raw JSON, the entries that are wanted, and the names whose entries may be removed. Out: the same text with one range of it
//! changed, or why there is no place for an entry. It never moves a key, a number, an escape or a space of anything else.
//!
//! Our entries are one run, sorted by name, in front of the user's own: of two `envFrom` sources the later wins, so what users wrote wins. When
//! the last of ours goes and the list is empty, the key goes too: a template that had no `envFrom` is then the same text as before. (One that had
//! an empty list loses it, which means the same to Kubernetes.)

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::value::RawValue;

use super::json_text::{JsonKind, Members, parse_kind, range_of, splice};

/// The steps from the template to the pod's spec.
const POD_SPEC_PATH: [&str; 5] = [
    "job_configuration",
    "job_manifest",
    "spec",
    "template",
    "spec",
];

/// An entry that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the Secret.
    pub secret: String,
    /// Whether a pod may start without it.
    pub optional: bool,
}

impl Entry {
    /// The entry as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({"secretRef": {"name": self.secret, "optional": self.optional}})
    }
}

/// What an edit came to.
#[derive(Debug)]
pub enum Edit {
    /// The template already is as wanted.
    Unchanged,
    /// The new template.
    Changed(Box<RawValue>),
}

/// How a template names a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// An entry with exactly the shape that we write.
    Exact {
        /// Its `optional`.
        optional: bool,
    },
    /// An entry of another shape that brings in all keys of the Secret under their own names.
    OtherShape,
    /// No entry brings it in.
    Absent,
}

/// Why a template has no place for an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEditable {
    /// The pool was made without a template.
    #[error(
        "its base job template is empty: start a worker of the pool, which fills it, or set the template"
    )]
    Empty,
    /// A step of the path is missing.
    #[error(
        "its base job template has no `{0}`: it is not that of a kubernetes pool, or it was cut short"
    )]
    Missing(String),
    /// A placeholder stands where the path goes on.
    #[error(
        "its base job template has the placeholder `{1}` at `{0}`: write the value out there, or add the entry to the variable's default and use `mode: Observe`"
    )]
    Placeholder(String, String),
    /// A step of the path has a wrong type.
    #[error("its base job template has at `{0}` something other than {1}: correct the template")]
    WrongType(String, &'static str),
    /// No container.
    #[error("its base job template has no container: correct the template")]
    NoContainer,
    /// Not a kubernetes pool.
    #[error("it is of type `{0}`, and only pools of type `kubernetes` run pods that take an entry")]
    NotKubernetes(String),
}

/// The first container and its `envFrom`.
struct FirstContainer<'a> {
    container: &'a RawValue,
    members: Members<'a>,
    sources: EnvFrom<'a>,
}

enum EnvFrom<'a> {
    Missing,
    Null,
    List(&'a RawValue, Vec<&'a RawValue>),
}

impl<'a> EnvFrom<'a> {
    fn elements(&self) -> &[&'a RawValue] {
        match self {
            Self::List(_, elements) => elements,
            Self::Missing | Self::Null => &[],
        }
    }
}

fn wrong_type(path: &str, found: JsonKind<'_>, expected: &'static str) -> NotEditable {
    match found {
        JsonKind::Text(text) if text.contains("{{") => {
            NotEditable::Placeholder(path.to_owned(), text.chars().take(80).collect())
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

fn first_container(template: &RawValue) -> Result<FirstContainer<'_>, NotEditable> {
    let mut members = match parse_kind(template) {
        JsonKind::Null => return Err(NotEditable::Empty),
        _ => parse_object(template, "the top")?,
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
    // A placeholder or another stray value among the sources is not ours to judge: it keeps its place behind our run.
    Ok(FirstContainer {
        container,
        members,
        sources,
    })
}

/// The Secret that a source brings in under its own names, and whether the source has exactly our shape.
fn secret_source(element: &RawValue) -> Option<(String, Option<bool>)> {
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

/// How the template names each Secret that it brings in.
///
/// # Errors
/// If the template has no place for an entry.
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

/// How the template names that Secret.
///
/// # Errors
/// If the template has no place for an entry.
pub fn entry_state(template: &RawValue, secret: &str) -> Result<EntryState, NotEditable> {
    let states = entry_states(template)?;
    Ok(states.get(secret).copied().unwrap_or(EntryState::Absent))
}

/// A source of the first container, in the order of the list.
pub(super) struct EnvFromSource {
    /// The Secret that it brings in under its own names.
    pub(super) secret: Option<String>,
    /// `Secret x` or `ConfigMap y`.
    pub(super) label: String,
}

/// The sources of the first container that can be read.
pub(super) fn env_from_sources(template: &RawValue) -> Vec<EnvFromSource> {
    let Ok(target) = first_container(template) else {
        return Vec::new();
    };
    let label = |value: &serde_json::Value, key: &str, kind: &str| -> Option<String> {
        Some(format!("{kind} {}", value.get(key)?.get("name")?.as_str()?))
    };
    let parse = |element: &&RawValue| {
        let value: serde_json::Value = serde_json::from_str(element.get()).ok()?;
        let label = label(&value, "secretRef", "Secret")
            .or_else(|| label(&value, "configMapRef", "ConfigMap"))?;
        let secret = secret_source(element).map(|(name, _)| name);
        Some(EnvFromSource { secret, label })
    };
    target.sources.elements().iter().filter_map(parse).collect()
}

/// Whether the first container has a list of sources.
pub(super) fn has_list(template: &RawValue) -> bool {
    first_container(template).is_ok_and(|target| matches!(target.sources, EnvFrom::List(..)))
}

/// Puts the wanted entries in, and takes out those of `ours` that are not wanted.
///
/// Only entries of our exact shape whose Secret is in `ours` are removed or rewritten. A wanted Secret that is not in `ours` and that some entry
/// already names is left as it is.
///
/// # Errors
/// If the template has no place for an entry.
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

    // In place means: in order, and behind nothing but entries of our shape. Those may be of bindings that have not said yet what they want (after
    // a restart), and are no reason to move anything.
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
    let in_place = places.is_some_and(|places| {
        let front = places.last().map_or(0, |last| last + 1);
        places.is_sorted()
            && named[..front]
                .iter()
                .all(|source| matches!(source, Some((_, Some(_)))))
    });
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
        // The ranges come from the text itself, so this is out of reach; a pool is better left alone than half written.
        Some(Err(_)) | None => Err(NotEditable::WrongType(
            POD_SPEC_PATH.join("."),
            "JSON that can be edited in place",
        )),
    }
}

fn replace_part(template: &RawValue, part: &RawValue, with: &str) -> Option<String> {
    let at = range_of(template.get(), part.get())?;
    Some(splice(template.get(), at, with))
}

/// The list with our run in front of the elements that are kept, each kept one with the text that stood before it.
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

/// The template with an `envFrom` as last member of the container.
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

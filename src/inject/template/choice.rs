//! The smallest edit of a variable that adds or removes names which runs may choose.
//!
//! Input: the template as raw JSON, the wanted names, and the names that may be removed.
//! Output: the same text with a few ranges changed, and what becomes of the entry of the variable.
//! Invariants: what a user wrote in the declaration stays: its title, its description, its default,
//! and names of their own. The declaration is removed with the last name of the operator, unless
//! names of a user are left: from then on it is the user's.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{json, value::RawValue};

use super::container::NotEditable;
use super::variable::{Declaration, Properties, declaration_of};
use crate::crd::NO_CONFIG;
use crate::inject::json_text::{Members, range_of, splice};

/// The names of one variable.
#[derive(Default)]
pub(super) struct Choice<'a> {
    /// The names that it has to offer.
    pub(super) wanted: BTreeSet<&'a str>,
    /// The names that may be removed.
    pub(super) ours: BTreeSet<&'a str>,
}

/// What becomes of the entry of the variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// The operator keeps it.
    Present,
    /// It goes out with the variable.
    Absent,
    /// It is the user's.
    Foreign,
}

impl Choice<'_> {
    fn is_removed(&self, name: &str) -> bool {
        self.ours.contains(name) && !self.wanted.contains(name)
    }

    /// Edits the variable. Returns the new text if it differs.
    ///
    /// # Errors
    /// If the template has no `variables.properties`.
    pub(super) fn edit(
        &self,
        template: &RawValue,
        variable: &str,
    ) -> Result<(Option<String>, Placement), NotEditable> {
        let properties = Properties::of(template)?;
        let declaration = properties.declaration(variable);
        let is_left = |name: &Option<String>| {
            let name = name.as_deref();
            name.is_none_or(|name| name != NO_CONFIG && !self.is_removed(name))
        };
        let names = declaration.as_ref().map(Declaration::texts);
        let names = names.unwrap_or_default();
        if self.wanted.is_empty() && !names.iter().any(is_left) {
            let text = declaration.and_then(|_| {
                remove_member(template, properties.object, &properties.members, variable)
            });
            return Ok((text, Placement::Absent));
        }
        let placement = if self.wanted.is_empty() {
            Placement::Foreign
        } else {
            Placement::Present
        };
        let text = match &declaration {
            None => self.declare(template, &properties, variable),
            Some(declaration) => self.change(template, declaration, &names),
        };
        Ok((text, placement))
    }

    /// The template with the variable as the last one.
    fn declare(
        &self,
        template: &RawValue,
        properties: &Properties<'_>,
        variable: &str,
    ) -> Option<String> {
        let declaration = declaration_of(self.wanted.iter().copied());
        let member = format!("{}:{declaration}", json!(variable));
        insert_member(template, properties.object, &properties.members, &member)
    }

    /// The template with other names in the variable. None if nothing is to change.
    fn change(
        &self,
        template: &RawValue,
        declaration: &Declaration<'_>,
        names: &[Option<String>],
    ) -> Option<String> {
        let Some(members) = &declaration.members else {
            let new = declaration_of(self.wanted.iter().copied()).to_string();
            return replace(template, declaration.whole, &new);
        };
        let Some((list, elements)) = &declaration.names else {
            let offered = declaration_of(self.wanted.iter().copied());
            let Some(wrong) = members.get("enum") else {
                let member = format!("\"enum\":{}", offered["enum"]);
                return insert_member(template, declaration.whole, members, &member);
            };
            return replace(template, wrong, &offered["enum"].to_string());
        };
        let mut edits = Vec::new();
        let new = self.edit_list(list.get(), elements, names);
        if new != list.get() {
            edits.push((range_of(template.get(), list.get())?, new));
        }
        let default = declaration.text("default");
        if default.is_some_and(|name| self.is_removed(&name)) {
            let default = members.get("default")?;
            let none = json!(NO_CONFIG).to_string();
            edits.push((range_of(template.get(), default.get())?, none));
        }
        // From the end, so that the earlier ranges stay valid.
        edits.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
        edits
            .into_iter()
            .fold(None, |text: Option<String>, (range, new)| {
                let whole = text.as_deref().unwrap_or(template.get());
                Some(splice(whole, range, &new))
            })
    }

    /// The list without the removed names, and with the missing ones in their alphabetical place.
    fn edit_list(&self, list: &str, elements: &[&RawValue], names: &[Option<String>]) -> String {
        let removed =
            |name: &Option<String>| name.as_deref().is_some_and(|name| self.is_removed(name));
        let kept: Vec<usize> = (0..elements.len())
            .filter(|at| !removed(&names[*at]))
            .collect();
        let present: BTreeSet<&str> = names.iter().flatten().map(String::as_str).collect();
        // By the place in `kept` behind which they go. 0 is the start of the list.
        let mut added: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for &name in self.wanted.difference(&present) {
            let before = |at: &usize| {
                let other = names[*at].as_deref();
                other.is_some_and(|other| other == NO_CONFIG || other < name)
            };
            let place = kept.iter().rposition(before).map_or(0, |nth| nth + 1);
            added
                .entry(place)
                .or_default()
                .push(json!(name).to_string());
        }
        let places: Vec<_> = elements
            .iter()
            .filter_map(|element| range_of(list, element.get()))
            .collect();
        let (Some(head), Some(tail)) = (places.first(), places.last()) else {
            let added: Vec<String> = added.into_values().flatten().collect();
            return format!("[{}]", added.join(","));
        };
        let mut text = list[..head.start].to_owned();
        let mut is_first = true;
        if let Some(names) = added.get(&0) {
            text.push_str(&names.join(","));
            is_first = false;
        }
        for (nth, &at) in kept.iter().enumerate() {
            match at.checked_sub(1).filter(|_| nth > 0) {
                Some(before) => text.push_str(&list[places[before].end..places[at].start]),
                None if !is_first => text.push(','),
                None => {}
            }
            is_first = false;
            text.push_str(&list[places[at].clone()]);
            for name in added.get(&(nth + 1)).into_iter().flatten() {
                text.push(',');
                text.push_str(name);
            }
        }
        text.push_str(&list[tail.end..]);
        text
    }
}

/// The template with another text in place of a part.
pub(super) fn replace(template: &RawValue, part: &RawValue, with: &str) -> Option<String> {
    let at = range_of(template.get(), part.get())?;
    Some(splice(template.get(), at, with))
}

/// The template with a member at the end of one of its objects.
pub(super) fn insert_member(
    template: &RawValue,
    object: &RawValue,
    members: &Members<'_>,
    member: &str,
) -> Option<String> {
    let whole = template.get();
    if let Some((_, last)) = members.0.last() {
        let end = range_of(whole, last.get())?.end;
        Some(splice(whole, end..end, &format!(",{member}")))
    } else {
        let inside = range_of(whole, object.get())?.start + 1;
        Some(splice(whole, inside..inside, member))
    }
}

/// The template without a member of one of its objects.
pub(super) fn remove_member(
    template: &RawValue,
    object: &RawValue,
    members: &Members<'_>,
    name: &str,
) -> Option<String> {
    let whole = template.get();
    let at = members.position(name)?;
    let end = range_of(whole, members.0[at].1.get())?.end;
    if at > 0 {
        let start = range_of(whole, members.0[at - 1].1.get())?.end;
        return Some(splice(whole, start..end, ""));
    }
    let open = range_of(whole, object.get())?.start;
    let start = open + whole[open..].find('"')?;
    let end = match whole[end..].trim_start().strip_prefix(',') {
        Some(rest) => whole.len() - rest.trim_start().len(),
        None => end,
    };
    Some(splice(whole, start..end, ""))
}

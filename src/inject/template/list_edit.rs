//! The smallest edit of a list that is a member of an object.
//!
//! Input: the template as raw JSON, the list, what becomes of each element, and what is appended.
//! Output: the same text with one range changed.
//! Invariants: elements that stay keep their text and the text before them. An element that is appended
//! and then removed leaves no trace.

use serde_json::value::RawValue;

use super::choice::{insert_member, remove_member, replace};
use super::container::{ListMember, OwnedList};
use crate::inject::json_text::range_of;

/// What becomes of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Keep,
    Remove,
    Replace(String),
}

/// What becomes of a list.
pub(super) struct ListEdit {
    /// For each element.
    pub(super) changes: Vec<Change>,
    /// The texts of new elements.
    pub(super) appended: Vec<String>,
    /// Whether the list stays when it is empty.
    pub(super) keeps_list: bool,
}

impl ListEdit {
    /// The template with the edited list. None if nothing is to change.
    ///
    /// # Errors
    /// If the list is no part of the template.
    pub(super) fn apply(
        &self,
        template: &RawValue,
        owned: &OwnedList<'_>,
    ) -> Result<Option<String>, UnknownRange> {
        let is_same = self.changes.iter().all(|change| *change == Change::Keep);
        if is_same && self.appended.is_empty() {
            return Ok(None);
        }
        let OwnedList {
            name,
            object,
            members,
            list,
        } = owned;
        let is_left = self.changes.iter().any(|change| *change != Change::Remove);
        let appended = || format!("[{}]", self.appended.join(","));
        let text = match list {
            ListMember::Missing => {
                let member = format!("\"{name}\":{}", appended());
                insert_member(template, object, members, &member)
            }
            ListMember::Null => members
                .get(name)
                .and_then(|null| replace(template, null, &appended())),
            ListMember::List(..) if !is_left && self.appended.is_empty() && !self.keeps_list => {
                remove_member(template, object, members, name)
            }
            ListMember::List(list, elements) => self
                .rebuild(list.get(), elements)
                .and_then(|new| replace(template, list, &new)),
        };
        text.map(Some).ok_or(UnknownRange)
    }

    fn rebuild(&self, list: &str, elements: &[&RawValue]) -> Option<String> {
        let places = elements.iter().map(|element| range_of(list, element.get()));
        let places: Vec<_> = places.collect::<Option<_>>()?;
        let (Some(head), Some(tail)) = (places.first(), places.last()) else {
            return Some(format!("[{}]", self.appended.join(",")));
        };
        let mut text = list[..head.start].to_owned();
        let mut is_first = true;
        for (at, change) in self.changes.iter().enumerate() {
            let element = match change {
                Change::Remove => continue,
                Change::Keep => &list[places[at].clone()],
                Change::Replace(new) => new,
            };
            if !is_first {
                text.push_str(&list[places[at - 1].end..places[at].start]);
            }
            is_first = false;
            text.push_str(element);
        }
        for element in &self.appended {
            if !is_first {
                text.push(',');
            }
            is_first = false;
            text.push_str(element);
        }
        text.push_str(&list[tail.end..]);
        Some(text)
    }
}

/// A part is not in the text that it was parsed from, which cannot happen.
#[derive(Debug)]
pub(super) struct UnknownRange;

//! A part of a base job template as the worker renders it.
//!
//! Input: a part of the template, and the values of variables.
//! Output: its members, elements and text with the placeholders replaced.
//! Invariants: pure. It replaces what is read and nothing else, so a template whose rendering
//! would be very large costs no more than its text.

use std::borrow::Cow;

use serde_json::Value;

use super::placeholder::{Kind, placeholders, whole_placeholder};
use super::python_text::python_str;
use super::variables::{Lookup, Variables};

/// The longest text that is rendered, in bytes. A name in Kubernetes has at most 253.
const MAX_TEXT: usize = 4096;

/// A part of a template as the worker renders it.
#[derive(Clone, Copy, Debug)]
pub(in crate::inject) enum Node<'a> {
    /// A part of the template itself. It is no placeholder as a whole.
    Template(&'a Value, &'a Variables<'a>),
    /// The value of a variable, in which the worker looks for no variables.
    Value(&'a Value),
    /// A key that is not there, or a placeholder of a variable without a value. The worker drops it.
    Missing,
    /// Only a run resolves it: a block, a Prefect variable, or the environment of the worker. Or the
    /// value of a variable that is longer than any name.
    Unresolved(&'a Value),
}

/// The text of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::inject) enum Text<'a> {
    Known(Cow<'a, str>),
    /// As written, because only a run resolves it or it is too long.
    Unresolved(&'a str),
    /// The node is no text.
    None,
}

impl<'a> Node<'a> {
    /// A part of the template.
    pub(super) fn template(value: &'a Value, variables: &'a Variables<'a>) -> Self {
        let whole = value.as_str().and_then(whole_placeholder);
        match whole {
            Some(found) if found.kind == Kind::Variable => match variables.lookup(found.name) {
                Lookup::Found(found) => Self::value(found),
                Lookup::Missing => Self::Missing,
                Lookup::Character => Self::Unresolved(value),
            },
            Some(_) => Self::Unresolved(value),
            None if is_block_reference(value) => Self::Unresolved(value),
            None => Self::Template(value, variables),
        }
    }

    /// The value of a variable.
    fn value(value: &'a Value) -> Self {
        let is_unresolved = value.as_str().is_some_and(is_unknown) || is_block_reference(value);
        if is_unresolved {
            Self::Unresolved(value)
        } else {
            Self::Value(value)
        }
    }

    /// The JSON value as written. None if the worker drops it.
    pub(in crate::inject) const fn raw(self) -> Option<&'a Value> {
        match self {
            Self::Template(value, _) | Self::Value(value) | Self::Unresolved(value) => Some(value),
            Self::Missing => None,
        }
    }

    /// Whether the worker drops it, or it is null.
    pub(in crate::inject) fn is_unset(self) -> bool {
        self.raw().is_none_or(Value::is_null)
    }

    /// A member of an object.
    pub(in crate::inject) fn get(self, key: &str) -> Self {
        match self {
            Self::Template(object, variables) => object
                .get(key)
                .map_or(Self::Missing, |member| Self::template(member, variables)),
            Self::Value(object) => object.get(key).map_or(Self::Missing, Self::value),
            Self::Missing | Self::Unresolved(_) => Self::Missing,
        }
    }

    /// The elements of a list that the worker does not drop.
    pub(in crate::inject) fn elements(self) -> impl Iterator<Item = Self> {
        let list = match self {
            Self::Template(list, _) | Self::Value(list) => list.as_array(),
            Self::Missing | Self::Unresolved(_) => None,
        };
        let elements = list.map_or(&[][..], Vec::as_slice).iter();
        elements
            .map(move |element| self.child(element))
            .filter(|element| !matches!(element, Self::Missing))
    }

    /// Its text.
    pub(in crate::inject) fn text(self) -> Text<'a> {
        match self {
            Self::Template(Value::String(text), variables) => substitute(text, variables)
                .filter(|text| !needs_server(text))
                .map_or(Text::Unresolved(text), Text::Known),
            Self::Value(Value::String(text)) => Text::Known(Cow::Borrowed(text)),
            Self::Unresolved(Value::String(text)) => Text::Unresolved(text),
            _ => Text::None,
        }
    }

    fn child(self, value: &'a Value) -> Self {
        match self {
            Self::Template(_, variables) => Self::template(value, variables),
            _ => Self::value(value),
        }
    }
}

impl Text<'_> {
    /// Whether the text is known, and is this one.
    pub(in crate::inject) fn is(&self, text: &str) -> bool {
        matches!(self, Self::Known(known) if known == text)
    }

    /// The text, or the text as written. None if the node is no text.
    pub(in crate::inject) fn shown(&self) -> Option<&str> {
        match self {
            Self::Known(text) => Some(text),
            Self::Unresolved(text) => Some(text),
            Self::None => None,
        }
    }
}

/// Whether the worker replaces it by the data of a block.
fn is_block_reference(value: &Value) -> bool {
    let reference = value.get("$ref");
    reference.is_some_and(|reference| reference.get("block_document_id").is_some())
}

/// Whether the text of a variable is too long to be looked through, for each placeholder anew, or
/// only a run resolves it.
fn is_unknown(text: &str) -> bool {
    text.len() > MAX_TEXT || needs_server(text)
}

fn needs_server(text: &str) -> bool {
    placeholders(text).any(|found| found.kind == Kind::Server)
}

/// The text with the placeholders of variables replaced. None if only a run can do it, or if the
/// text is too long.
fn substitute<'a>(text: &'a str, variables: &Variables<'_>) -> Option<Cow<'a, str>> {
    if !text.contains("{{") {
        return Some(Cow::Borrowed(text));
    }
    if text.len() > MAX_TEXT {
        return None;
    }
    let mut replacements: Vec<(&str, String)> = Vec::new();
    for found in placeholders(text) {
        match found.kind {
            Kind::Environment => return None,
            Kind::Server => continue,
            Kind::Variable => {}
        }
        if replacements.iter().any(|(whole, _)| *whole == found.whole) {
            continue;
        }
        let replacement = match variables.lookup(found.name) {
            Lookup::Found(value) => python_str(value, MAX_TEXT)?,
            Lookup::Missing => String::new(),
            Lookup::Character => return None,
        };
        replacements.push((found.whole, replacement));
    }
    let forwards = replace_all(text, replacements.iter())?;
    // The worker replaces one placeholder after the other in no certain order, also in what it has
    // put in.
    let backwards = replace_all(text, replacements.iter().rev())?;
    (forwards == backwards).then_some(Cow::Owned(forwards))
}

fn replace_all<'a>(
    text: &str,
    replacements: impl Iterator<Item = &'a (&'a str, String)>,
) -> Option<String> {
    let mut text = text.to_owned();
    for (whole, replacement) in replacements {
        let growth = replacement.len().saturating_sub(whole.len());
        let count = text.matches(whole).count();
        if text.len().saturating_add(growth.saturating_mul(count)) > MAX_TEXT {
            return None;
        }
        text = text.replace(whole, replacement);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    /// The text in a template whose variable `a` has this default.
    fn rendered(text: &str, a: &str) -> Option<String> {
        let defaults = Map::from_iter([("a".to_owned(), json!(a))]);
        let variables = Variables::new(&defaults);
        let text = json!(text);
        match Node::template(&text, &variables).text() {
            Text::Known(text) => Some(text.into_owned()),
            Text::Unresolved(_) | Text::None => None,
        }
    }

    #[test]
    fn renders_texts_up_to_the_limit() {
        let longest = "x".repeat(MAX_TEXT);
        assert_eq!(rendered("{{ a }}", &longest).as_ref(), Some(&longest));
        assert_eq!(rendered("{{ a }}", &format!("{longest}x")), None);
        // The text of the template.
        let end = "x".repeat(MAX_TEXT - "{{ a }}".len());
        assert_eq!(
            rendered(&format!("{{{{ a }}}}{end}"), ""),
            Some(end.clone())
        );
        assert_eq!(rendered(&format!("{{{{ a }}}}{end}x"), ""), None);
        // The text with the values in it.
        let half = "x".repeat(MAX_TEXT / 2);
        assert_eq!(rendered("{{ a }}{{ a }}", &half), Some(longest));
        assert_eq!(rendered("{{ a }}{{ a }}x", &half), None);
    }
}

//! Finds the object with the Doppler fields in the data of a block.
//!
//! Input: the data of a block.
//! Output: the only object with the fields, or a [`BlockError`].
//! Invariants: pure. Depth and number of visited values are bounded.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{
    error::BlockError,
    field::Field,
    value::{MAX_VALUES, field_value, is_mask, unwrap},
};

/// The maximum depth of the search. Prefect's tools nest no deeper than a reference in a reference
/// in a JSON string.
const MAX_DEPTH: usize = 12;
/// The maximum number of pointers in an error.
const MAX_POINTERS: usize = 5;
/// The maximum length of a pointer in an error.
const MAX_POINTER_CHARS: usize = 80;

/// An object that has at least one of the fields.
struct Candidate {
    pointer: String,
    /// How many of project, config and credential it has.
    fields: usize,
    /// Whether its only field is an identity, a word that other objects use, too.
    is_weak: bool,
    object: Map<String, Value>,
}

#[derive(Default)]
struct Search {
    candidates: Vec<Candidate>,
    visited: usize,
    too_large: bool,
    masked: bool,
}

impl Search {
    fn visit(&mut self, value: &Value, pointer: &str, depth: usize) {
        self.visited += 1;
        if depth > MAX_DEPTH || self.visited > MAX_VALUES {
            self.too_large = true;
            return;
        }
        match &*unwrap(value) {
            Value::Object(object) => {
                // A field with an object as its value has another meaning there. A null is an unset
                // option of a custom class.
                let has = |field: Field| {
                    field_value(object, field)
                        .is_some_and(|value| !value.is_object() && !value.is_null())
                };
                let names = [Field::Project, Field::Config].map(has);
                let [token, identity] = [Field::AccessToken, Field::Identity].map(has);
                let fields = [names[0], names[1], token || identity];
                let fields = fields.into_iter().filter(|has| *has).count();
                if fields > 0 {
                    self.candidates.push(Candidate {
                        pointer: pointer.to_owned(),
                        fields,
                        is_weak: !token && fields == 1 && identity,
                        object: object.clone(),
                    });
                }
                for (key, inner) in object {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    self.visit(inner, &format!("{pointer}/{key}"), depth + 1);
                }
            }
            Value::Array(items) => {
                for (index, inner) in items.iter().enumerate() {
                    self.visit(inner, &format!("{pointer}/{index}"), depth + 1);
                }
            }
            Value::String(text) => self.masked |= is_mask(text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// The only object with project, config and a credential, or else the only one with some of them.
pub(super) fn find_object(data: &Value) -> Result<Cow<'_, Map<String, Value>>, BlockError> {
    let mut search = Search::default();
    search.visit(data, "", 0);
    if search.too_large {
        return Err(BlockError::TooLarge);
    }
    let mut candidates = search.candidates;
    if candidates.iter().any(|candidate| candidate.fields == 3) {
        candidates.retain(|candidate| candidate.fields == 3);
    }
    if candidates.iter().any(|candidate| !candidate.is_weak) {
        candidates.retain(|candidate| !candidate.is_weak);
    }
    if candidates.len() > 1 {
        return Err(BlockError::Ambiguous {
            pointers: displayed_pointers(&candidates),
        });
    }
    match candidates.pop() {
        Some(candidate) => Ok(Cow::Owned(candidate.object)),
        None if search.masked => Err(BlockError::Masked),
        None if holds_only_text(data) => Err(BlockError::NotJson),
        None => Err(BlockError::NoFields),
    }
}

/// Whether the block is a single text, as a Secret or String block is.
fn holds_only_text(data: &Value) -> bool {
    match data {
        Value::String(_) => true,
        Value::Object(object) => object.len() == 1 && object.values().all(Value::is_string),
        _ => false,
    }
}

/// The pointers of the first candidates, cut short and without control characters.
fn displayed_pointers(candidates: &[Candidate]) -> Vec<String> {
    let mut names: Vec<String> = candidates
        .iter()
        .take(MAX_POINTERS)
        .map(|candidate| match candidate.pointer.as_str() {
            "" => "\"\"".to_owned(),
            pointer => pointer
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .take(MAX_POINTER_CHARS)
                .collect(),
        })
        .collect();
    if candidates.len() > MAX_POINTERS {
        names.push(format!("and {} more", candidates.len() - MAX_POINTERS));
    }
    names
}

//! Finds Doppler project, config and access token in the data of a block.
//!
//! In: a block's data in any shape that Prefect's SDK, API and UIs leave behind, and perhaps a JSON pointer. Out: the three fields, each of
//! which may be absent, since a binding may give it itself. Values never appear in an error, nor does this file ever talk to a server.

use std::{borrow::Cow, fmt};

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use crate::reason::Reason;

/// How deep the search goes: the deepest shape that Prefect makes is a reference in a reference in a JSON string.
const MAX_DEPTH: usize = 12;
/// How many values the search looks at.
const MAX_VALUES: usize = 10_000;
/// How many places an error names.
const MAX_POINTERS: usize = 5;
/// How much of a place's pointer an error shows.
const MAX_POINTER_CHARS: usize = 80;

/// One of the three fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The Doppler project.
    Project,
    /// The Doppler config.
    Config,
    /// The token that reads it.
    AccessToken,
}

impl Field {
    const ALL: [Self; 3] = [Self::Project, Self::Config, Self::AccessToken];

    /// Its key in a block.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Config => "config",
            Self::AccessToken => "access_token",
        }
    }

    /// Its place in a binding.
    #[must_use]
    pub const fn spec_path(self) -> &'static str {
        match self {
            Self::Project => "spec.doppler.project",
            Self::Config => "spec.doppler.config",
            Self::AccessToken => "spec.doppler.accessToken",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// What a block says, or what a binding says instead. `None` is a field that is not given.
#[derive(Clone, Default)]
pub struct BlockFields {
    /// The Doppler project.
    pub project: Option<String>,
    /// The Doppler config.
    pub config: Option<String>,
    /// The token that reads it.
    pub access_token: Option<SecretString>,
}

/// All three fields, none of them empty.
#[derive(Clone)]
pub struct CompleteFields {
    /// The Doppler project.
    pub project: String,
    /// The Doppler config.
    pub config: String,
    /// The token that reads it.
    pub access_token: SecretString,
}

impl BlockFields {
    /// The fields that are not given, or empty.
    #[must_use]
    pub fn missing(&self) -> Vec<Field> {
        Field::ALL
            .into_iter()
            .filter(|field| {
                match field {
                    Field::Project => self.project.as_deref(),
                    Field::Config => self.config.as_deref(),
                    Field::AccessToken => {
                        self.access_token.as_ref().map(ExposeSecret::expose_secret)
                    }
                }
                .is_none_or(str::is_empty)
            })
            .collect()
    }

    /// These fields, each replaced by the one of `overrides` where that is given.
    #[must_use]
    pub fn overridden_by(self, overrides: Self) -> Self {
        Self {
            project: overrides.project.or(self.project),
            config: overrides.config.or(self.config),
            access_token: overrides.access_token.or(self.access_token),
        }
    }

    /// All three fields.
    ///
    /// # Errors
    /// [`BlockError::Incomplete`] names the fields that are not given, or empty.
    pub fn complete(self) -> Result<CompleteFields, BlockError> {
        let missing = self.missing();
        match self {
            Self {
                project: Some(project),
                config: Some(config),
                access_token: Some(access_token),
            } if missing.is_empty() => Ok(CompleteFields {
                project,
                config,
                access_token,
            }),
            _ => Err(BlockError::Incomplete { missing }),
        }
    }
}

/// Why a block's data does not give the fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Prefect hid the values.
    #[error(
        "Prefect hides the block's values (********): the API key's role lacks \"View secret block data\", or the block was saved with the hidden values; give the role that permission, or save the block again"
    )]
    Masked,
    /// Nothing in the data has any of the fields.
    #[error(
        "nothing in the block has the fields project, config and access_token: store a JSON object with these three in it, or set spec.prefect.block.pointer to the object that has them"
    )]
    NoFields,
    /// The data is a text, and not a JSON object.
    #[error(
        "the block holds a text that is not a JSON object: store an object with project, config and access_token in it (check its quotes and commas)"
    )]
    NotJson,
    /// Several objects have the fields.
    #[error("several objects in the block could be meant ({}): set spec.prefect.block.pointer to the right one", .pointers.join(", "))]
    Ambiguous {
        /// Where they are.
        pointers: Vec<String>,
    },
    /// Nothing is at the pointer.
    #[error(
        "spec.prefect.block.pointer leads nowhere in the block: correct it, or leave it out to have the object found by its shape"
    )]
    PointerNotFound,
    /// What is at the pointer has none of the fields.
    #[error(
        "what spec.prefect.block.pointer leads to is not an object with project, config and access_token: correct the pointer or the block"
    )]
    PointerNoFields,
    /// A field is not a text.
    #[error("{} in the block must be a text: correct the block, or give {} in the binding", .field, .field.spec_path())]
    WrongType {
        /// Which.
        field: Field,
    },
    /// The data is too deep or too wide to be searched.
    #[error(
        "the block holds too much to find the fields by their shape: set spec.prefect.block.pointer to the object with project, config and access_token"
    )]
    TooLarge,
    /// Fields are not given, or empty.
    #[error("{} missing or empty: fill in the block, or give {} in the binding", fields_with_verb(.missing), list(.missing, |field| field.spec_path()))]
    Incomplete {
        /// Which.
        missing: Vec<Field>,
    },
}

impl BlockError {
    /// The word for the condition.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Masked => Reason::BlockMasked,
            Self::Incomplete { .. } => Reason::BlockIncomplete,
            Self::NoFields
            | Self::NotJson
            | Self::Ambiguous { .. }
            | Self::PointerNotFound
            | Self::PointerNoFields
            | Self::WrongType { .. }
            | Self::TooLarge => Reason::BlockInvalid,
        }
    }
}

fn list(fields: &[Field], name: impl Fn(&Field) -> &'static str) -> String {
    fields.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn fields_with_verb(fields: &[Field]) -> String {
    let verb = if fields.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", list(fields, |field| field.key()))
}

/// The three fields in a block's data: of the object at `pointer`, or of the one object that has their shape.
///
/// # Errors
/// [`BlockError`], if there is no such object, if there are several, if Prefect hid the values, or if a field is not a text.
pub fn fields(data: &Value, pointer: Option<&str>) -> Result<BlockFields, BlockError> {
    let object = match pointer {
        Some(pointer) => Cow::Owned(object_at(data, pointer)?),
        None => find_by_shape(data)?,
    };
    let text = |field: Field| field_text(&object, field);
    Ok(BlockFields {
        project: text(Field::Project)?,
        config: text(Field::Config)?,
        access_token: text(Field::AccessToken)?.map(SecretString::from),
    })
}

/// What Prefect puts in place of a value: `********`, or pydantic's `**********`.
fn is_mask(text: &str) -> bool {
    let text = text.trim();
    text.len() >= 8 && text.bytes().all(|byte| byte == b'*')
}

/// Looks through what may lie around an object: a JSON string, and the UI's `{"__prefect_kind": "json", "value": "…"}`. `None` if nothing does.
fn unwrapped(value: &Value) -> Option<Value> {
    let text = match value {
        Value::String(text) => text,
        Value::Object(wrapper) if wrapper.get("__prefect_kind")?.as_str()? == "json" => {
            match wrapper.get("value")? {
                Value::String(text) => text,
                inner => return Some(inner.clone()),
            }
        }
        _ => return None,
    };
    // Numbers and plain words stay the text they are.
    serde_json::from_str(text)
        .ok()
        .filter(|inner: &Value| inner.is_object() || inner.is_array() || inner.is_string())
}

/// As [`unwrapped`], as often as needed.
fn fully_unwrapped(value: &Value) -> Cow<'_, Value> {
    let mut value = Cow::Borrowed(value);
    for _ in 0..4 {
        match unwrapped(&value) {
            Some(inner) => value = Cow::Owned(inner),
            None => break,
        }
    }
    value
}

/// The object at an explicit pointer. Each step may lead through a JSON string or a wrapper.
fn object_at(data: &Value, pointer: &str) -> Result<Map<String, Value>, BlockError> {
    let mut place = Cow::Borrowed(data);
    if !pointer.is_empty() {
        let steps = pointer
            .strip_prefix('/')
            .ok_or(BlockError::PointerNotFound)?;
        for step in steps.split('/') {
            let step = format!("/{step}");
            let next = place
                .pointer(&step)
                .cloned()
                .or_else(|| fully_unwrapped(&place).pointer(&step).cloned());
            place = match next {
                Some(next) => Cow::Owned(next),
                None if place.as_str().is_some_and(is_mask) => return Err(BlockError::Masked),
                None => return Err(BlockError::PointerNotFound),
            };
        }
    }
    match fully_unwrapped(&place).into_owned() {
        Value::Object(object)
            if Field::ALL
                .iter()
                .any(|field| object.contains_key(field.key())) =>
        {
            Ok(object)
        }
        Value::String(text) if is_mask(&text) => Err(BlockError::Masked),
        _ => Err(BlockError::PointerNoFields),
    }
}

/// What a field holds. A field that refers to a Secret block of its own is inlined by Prefect as `{"value": …}`.
fn field_value(object: &Map<String, Value>, field: Field) -> Option<&Value> {
    match object.get(field.key()) {
        Some(Value::Object(inner)) if inner.len() == 1 => match inner.get("value") {
            Some(value @ (Value::String(_) | Value::Null)) => Some(value),
            _ => object.get(field.key()),
        },
        other => other,
    }
}

fn field_text(object: &Map<String, Value>, field: Field) -> Result<Option<String>, BlockError> {
    match field_value(object, field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if is_mask(text) => Err(BlockError::Masked),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
        Some(_) => Err(BlockError::WrongType { field }),
    }
}

/// An object that has some of the fields.
struct Candidate {
    pointer: String,
    fields: usize,
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
        match &*fully_unwrapped(value) {
            Value::Object(object) => {
                // A field under which there are more objects is a name that means something else there, and one that is null is an
                // option of a custom class that has no value.
                let fields = Field::ALL
                    .into_iter()
                    .filter(|field| {
                        field_value(object, *field)
                            .is_some_and(|value| !value.is_object() && !value.is_null())
                    })
                    .count();
                if fields > 0 {
                    self.candidates.push(Candidate {
                        pointer: pointer.to_owned(),
                        fields,
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

/// The object with the three fields, or else the only one with some of them.
fn find_by_shape(data: &Value) -> Result<Cow<'_, Map<String, Value>>, BlockError> {
    let mut search = Search::default();
    search.visit(data, "", 0);
    if search.too_large {
        return Err(BlockError::TooLarge);
    }
    let mut candidates = search.candidates;
    if candidates.iter().any(|candidate| candidate.fields == 3) {
        candidates.retain(|candidate| candidate.fields == 3);
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

/// Whether the block is one text, as in a Secret or String block.
fn holds_only_text(data: &Value) -> bool {
    match data {
        Value::String(_) => true,
        Value::Object(object) => object.len() == 1 && object.values().all(Value::is_string),
        _ => false,
    }
}

/// Where the candidates are, for people: a few, cut short, without control characters.
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

#[cfg(test)]
mod tests;

//! JSON text and the ranges of its parts.
//!
//! Input: raw JSON.
//! Output: its members or elements as slices of the same text, so that an edit replaces one range.
//! Invariants: never serialises the whole again, so all other text keeps its order, numbers,
//! escapes and spaces.

use std::fmt;
use std::ops::Range;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The members of an object, in their order in the text.
pub(super) struct Members<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The value of the key. The last one wins, as in every JSON parser.
    pub(super) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.position(key).map(|at| self.0[at].1)
    }

    pub(super) fn position(&self, key: &str) -> Option<usize> {
        self.0.iter().rposition(|(name, _)| name == key)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A raw value by its JSON type.
pub(super) enum JsonKind<'a> {
    Object(Members<'a>),
    List(Vec<&'a RawValue>),
    Text(String),
    Null,
    Other,
}

pub(super) fn parse_kind(value: &RawValue) -> JsonKind<'_> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => serde_json::from_str(text).map_or(JsonKind::Other, JsonKind::Object),
        Some(b'[') => serde_json::from_str(text).map_or(JsonKind::Other, JsonKind::List),
        Some(b'"') => serde_json::from_str(text).map_or(JsonKind::Other, JsonKind::Text),
        Some(b'n') => JsonKind::Null,
        _ => JsonKind::Other,
    }
}

/// The range of `part`, a slice of `whole`.
pub(super) fn range_of(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let range = start..start.checked_add(part.len())?;
    (whole.get(range.clone()) == Some(part)).then_some(range)
}

/// `whole` with one range replaced.
pub(super) fn splice(whole: &str, range: Range<usize>, with: &str) -> String {
    let mut text = String::with_capacity(whole.len() + with.len());
    text.push_str(&whole[..range.start]);
    text.push_str(with);
    text.push_str(&whole[range.end..]);
    text
}

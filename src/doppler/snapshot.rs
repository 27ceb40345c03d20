//! The content of one config at one time.
//!
//! Input: the body of a 200.
//! Output: names and values, or what is wrong with the body.
//! Invariants: `Debug` and errors never show names or values. The messages of the JSON parser are
//! not used, because they quote the body.

use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Names and values of one config, with Doppler's tag of this state. Two snapshots are equal if
/// their names and values are.
#[derive(Clone, Default)]
pub struct Snapshot {
    values: BTreeMap<String, SecretString>,
    etag: Option<String>,
}

impl Snapshot {
    /// Creates a snapshot. `etag` is Doppler's tag, which is sent back unchanged.
    #[must_use]
    pub const fn new(values: BTreeMap<String, SecretString>, etag: Option<String>) -> Self {
        Self { values, etag }
    }

    /// The values by name.
    #[must_use]
    pub const fn values(&self) -> &BTreeMap<String, SecretString> {
        &self.values
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Whether the config has no secrets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Doppler's tag of this state.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        let same = |((name, value), (other_name, other_value)): (
            (&String, &SecretString),
            (&String, &SecretString),
        )| {
            name == other_name && value.expose_secret() == other_value.expose_secret()
        };
        self.values.len() == other.values.len() && self.values.iter().zip(&other.values).all(same)
    }
}

impl Eq for Snapshot {}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("len", &self.values.len())
            .finish_non_exhaustive()
    }
}

/// Parses the body of a 200: a flat JSON object of strings.
///
/// A number, a boolean or a null is an error: Doppler never sends one, so either another server
/// answered or Doppler's format has changed. A guess would end up in a Secret.
///
/// # Errors
/// What is wrong with the body, as the rest of a sentence about the answer.
pub(super) fn parse(body: &[u8]) -> Result<BTreeMap<String, SecretString>, &'static str> {
    let text = std::str::from_utf8(body).map_err(|_| "is not UTF-8")?;
    let Pairs(pairs) = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Eof => "ends too early",
        serde_json::error::Category::Data => "is not a JSON object",
        _ => "is not JSON",
    })?;
    let mut values = BTreeMap::new();
    for (name, value) in pairs {
        let value = value.ok_or("has a value that is not a string")?;
        if values.insert(name, value).is_some() {
            return Err("has one name twice");
        }
    }
    Ok(values)
}

/// The pairs of an object in their order, `None` for a value that is not a string.
struct Pairs(Vec<(String, Option<SecretString>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, Text(value))) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

struct Text(Option<SecretString>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Some(text.into())))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests;

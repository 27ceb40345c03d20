//! The content of one config at one time.
//!
//! Input: the body of a 200.
//! Output: names and values, or what is wrong with the body.
//! Invariants: the memory of a snapshot is bounded. `Debug` and errors never show values, and an error
//! shows a name only if its value is the problem. The messages of the JSON parser are
//! not used, because they quote the body.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use tokio::time::Instant;

use super::error_messages::one_line;

/// The most that the names and values of a config may hold, in bytes: no Secret can hold more.
const MAX_BYTES: usize = 1 << 20;
/// The maximum number of names of a config.
const MAX_NAMES: usize = 10_000;
/// The longest name in an error, in characters.
const MAX_SHOWN_CHARS: usize = 60;

/// Names and values of one config, with Doppler's tag of this state. Two snapshots are equal if
/// their names and values are.
#[derive(Clone, Default)]
pub struct Snapshot {
    values: BTreeMap<String, SecretString>,
    etag: Option<String>,
    /// Whether a later read confirmed that most of the names are gone.
    is_confirmed: bool,
    /// Since when answers are refused that lack most of these names.
    loss_since: Arc<Mutex<Option<Instant>>>,
}

impl Snapshot {
    /// Creates a snapshot. `etag` is Doppler's tag, which is sent back unchanged.
    #[must_use]
    pub fn new(values: BTreeMap<String, SecretString>, etag: Option<String>) -> Self {
        Self {
            values,
            etag,
            ..Self::default()
        }
    }

    /// This state, after a later read confirmed that most of the names are gone.
    pub(super) fn confirmed(self) -> Self {
        Self {
            is_confirmed: true,
            ..self
        }
    }

    /// Whether a later read confirmed that most of the names are gone.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// An answer lacks most of these names. Returns since when answers do.
    pub(super) fn record_loss(&self, now: Instant) -> Instant {
        *self.loss_since.lock().get_or_insert(now)
    }

    /// An answer has these names.
    pub(super) fn clear_loss(&self) {
        *self.loss_since.lock() = None;
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

/// What is wrong with a body, as the rest of a sentence about the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    /// No Secret can hold it.
    #[error("holds more than 1 MiB")]
    TooLarge,
    /// It is no config.
    #[error("{0}")]
    Malformed(String),
}

impl From<String> for Invalid {
    fn from(problem: String) -> Self {
        Self::Malformed(problem)
    }
}

/// Parses the body of a 200: a flat JSON object of strings.
///
/// A number, a boolean or a null is an error: Doppler never sends one, so either another server
/// answered or Doppler's format has changed. A guess would end up in a Secret.
///
/// # Errors
/// What is wrong with the body.
pub(super) fn parse(body: &[u8]) -> Result<BTreeMap<String, SecretString>, Invalid> {
    let text = std::str::from_utf8(body).map_err(|_| "is not UTF-8".to_owned())?;
    let config: Config = serde_json::from_str(text).map_err(|error| {
        let problem = match error.classify() {
            serde_json::error::Category::Eof => "ends too early",
            serde_json::error::Category::Data => "is not a JSON object",
            _ => "is not JSON",
        };
        problem.to_owned()
    })?;
    match config.problem {
        Some(problem) => Err(problem),
        None => Ok(config.values),
    }
}

/// The pairs of an object, up to the first problem.
#[derive(Default)]
struct Config {
    values: BTreeMap<String, SecretString>,
    bytes: usize,
    problem: Option<Invalid>,
}

impl Config {
    /// Adds a pair. A value that is not a string is the JSON type that it has.
    fn add(
        &mut self,
        name: String,
        value: Result<SecretString, &'static str>,
    ) -> Result<(), Invalid> {
        let shown = || one_line(&name, MAX_SHOWN_CHARS);
        let value = value
            .map_err(|kind| format!("has {kind} as the value of {}, and not a string", shown()))?;
        self.bytes += name.len() + value.expose_secret().len();
        if self.bytes > MAX_BYTES {
            return Err(Invalid::TooLarge);
        }
        if self.values.len() == MAX_NAMES {
            return Err("has more than 10,000 names".to_owned().into());
        }
        if self.values.contains_key(&name) {
            return Err(format!("has the name {} twice", shown()).into());
        }
        self.values.insert(name, value);
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Config;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Config, A::Error> {
                let mut config = Config::default();
                while config.problem.is_none() {
                    let Some((name, Text(value))) = map.next_entry()? else {
                        return Ok(config);
                    };
                    config.problem = config.add(name, value).err();
                }
                config.values.clear();
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(config)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A string, or the JSON type of another value.
struct Text(Result<SecretString, &'static str>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Ok(text.into())))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(Err("a boolean")))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text(Err("a number")))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
                Ok(Text(Err("a number")))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text(Err("a number")))
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(Err("null")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(Err("a list")))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(Err("an object")))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests;

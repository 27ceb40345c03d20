//! What one config held at one time.
//!
//! In: the body of a 200. Out: names and values, or what is wrong with the body, never quoting it: the words of a JSON parser would.

use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Names and values of one config, with the tag under which Doppler knows this state. Equal if names and values are.
#[derive(Clone, Default)]
pub struct Snapshot {
    values: BTreeMap<String, SecretString>,
    etag: Option<String>,
}

impl Snapshot {
    /// Holds these values; `etag` is Doppler's tag, to be sent back as it is.
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

    /// Whether the config holds nothing at all.
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

/// Reads the body of a 200: a flat JSON object of strings.
///
/// A number, a boolean or a null is refused rather than turned into text: Doppler never sends one, so whoever answered is not Doppler, or what it
/// sends has changed, and a guess would end up in a Secret.
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

/// An object's pairs as they come, `None` for a value that is not a string.
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
mod tests {
    use super::*;

    fn snapshot(pairs: &[(&str, &str)], etag: &str) -> Snapshot {
        let values = pairs
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.into()))
            .collect();
        Snapshot::new(values, Some(etag.to_owned()))
    }

    #[test]
    fn reads_every_value_exactly() {
        let body = r#"{"A":"","B":"a\nb\"c$d\\","C":"Grüße 🎉","D":"\u0000","E":"{\"x\":1}"}"#;
        let values = parse(body.as_bytes()).unwrap();
        let read: Vec<_> = values
            .iter()
            .map(|(name, value)| (name.as_str(), value.expose_secret()))
            .collect();
        assert_eq!(
            read,
            [
                ("A", ""),
                ("B", "a\nb\"c$d\\"),
                ("C", "Grüße 🎉"),
                ("D", "\0"),
                ("E", "{\"x\":1}")
            ]
        );
        assert!(parse(b"{}").unwrap().is_empty());
    }

    #[test]
    fn refuses_what_is_not_a_flat_object_of_strings_without_quoting_it() {
        for (body, problem) in [
            (r#"{"A":1}"#, "has a value that is not a string"),
            (r#"{"A":-1.5}"#, "has a value that is not a string"),
            (r#"{"A":true}"#, "has a value that is not a string"),
            (r#"{"A":null}"#, "has a value that is not a string"),
            (r#"{"A":["canary"]}"#, "has a value that is not a string"),
            (
                r#"{"A":{"raw":"canary"}}"#,
                "has a value that is not a string",
            ),
            (
                r#"{"messages":[],"success":false}"#,
                "has a value that is not a string",
            ),
            (r#"{"A":"x","A":"canary"}"#, "has one name twice"),
            (r#"{"A":"x","A":"x"}"#, "has one name twice"),
            (r#"["canary"]"#, "is not a JSON object"),
            (r#""canary""#, "is not a JSON object"),
            ("null", "is not a JSON object"),
            ("", "ends too early"),
            (r#"{"A":"cana"#, "ends too early"),
            (r#"{"A":"x"} canary"#, "is not JSON"),
            ("<html>canary</html>", "is not JSON"),
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap_err(), problem, "{body}");
        }
        assert_eq!(parse(b"{\"A\":\"\xff\"}").unwrap_err(), "is not UTF-8");
    }

    #[test]
    fn is_equal_by_content_whatever_the_tag() {
        assert_eq!(snapshot(&[("A", "1")], "x"), snapshot(&[("A", "1")], "y"));
        assert_ne!(snapshot(&[("A", "1")], "x"), snapshot(&[("A", "2")], "x"));
        assert_ne!(snapshot(&[("A", "1")], "x"), snapshot(&[("B", "1")], "x"));
        assert_ne!(snapshot(&[("A", "1")], "x"), snapshot(&[], "x"));
    }

    #[test]
    fn does_not_print_values() {
        let snapshot = snapshot(&[("A", "canary")], "canary");
        assert!(!format!("{snapshot:?} {snapshot:#?}").contains("canary"));
    }
}

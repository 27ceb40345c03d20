//! The number of values in JSON text, before it is decoded.
//!
//! Input: JSON that another party wrote, and a bound.
//! Output: whether a decoder would build no more values than that.
//! Invariants: it allocates nothing that grows with the text. `{"a":1},` takes 8 bytes as text and
//! about 700 as a [`serde_json::Value`], so a bound on bytes alone does not bound memory.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Whether `text` is JSON with at most `max` values: objects, lists, texts, numbers, booleans and
/// nulls, at any depth. Text that is not JSON, or too deep for the decoder, is not within any bound.
#[must_use]
pub fn is_within(text: &[u8], max: usize) -> bool {
    let left = Cell::new(max);
    let mut decoder = serde_json::Deserializer::from_slice(text);
    let counted = Counter(&left).deserialize(&mut decoder);
    counted.is_ok() && decoder.end().is_ok()
}

/// Takes one value from the rest of the bound, and its members and elements.
#[derive(Clone, Copy)]
struct Counter<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Counter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0.get().checked_sub(1) {
            Some(left) => self.0.set(left),
            None => return Err(D::Error::custom("too many values")),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn count(value: &Value) -> usize {
        match value {
            Value::Array(list) => 1 + list.iter().map(count).sum::<usize>(),
            Value::Object(map) => 1 + map.values().map(count).sum::<usize>(),
            _ => 1,
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::hash_map("\\PC{0,4}", inner, 0..8)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn counts_every_value(value in values()) {
            let (text, number) = (value.to_string(), count(&value));
            prop_assert!(is_within(text.as_bytes(), number));
            prop_assert!(!is_within(text.as_bytes(), number - 1));
        }
    }

    #[test]
    fn text_that_is_not_json_is_within_no_bound() {
        for text in ["", "{", "[1,", "1 2", "{\"a\"}", "\u{0}"] {
            assert!(!is_within(text.as_bytes(), usize::MAX), "{text}");
        }
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(!is_within(deep.as_bytes(), usize::MAX));
        assert!(is_within(
            json!({"a": [1, "b", null]}).to_string().as_bytes(),
            5
        ));
    }
}

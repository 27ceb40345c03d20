//! The text of a value in the middle of another text: Python's `str(value)`.
//!
//! Input: a JSON value.
//! Output: the text that the worker, a Python program, puts in the place of a placeholder.
//! Invariants: pure. The text has at most the given number of bytes, or there is none.

use serde_json::{Number, Value};

/// `str(value)`, unless it is longer than `max` bytes.
pub(super) fn python_str(value: &Value, max: usize) -> Option<String> {
    let mut text = Bounded {
        text: String::new(),
        max,
    };
    match value {
        Value::String(inner) => text.push(inner)?,
        other => repr(other, &mut text)?,
    }
    Some(text.text)
}

struct Bounded {
    text: String,
    max: usize,
}

impl Bounded {
    fn push(&mut self, part: &str) -> Option<()> {
        let fits = self.text.len() + part.len() <= self.max;
        fits.then(|| self.text.push_str(part))
    }
}

fn repr(value: &Value, text: &mut Bounded) -> Option<()> {
    match value {
        Value::Null => text.push("None"),
        Value::Bool(true) => text.push("True"),
        Value::Bool(false) => text.push("False"),
        Value::Number(number) => text.push(&number_repr(number)?),
        Value::String(inner) => text.push(&string_repr(inner, text.max)?),
        Value::Array(items) => {
            text.push("[")?;
            for (index, item) in items.iter().enumerate() {
                text.push(if index > 0 { ", " } else { "" })?;
                repr(item, text)?;
            }
            text.push("]")
        }
        // A map has lost the order of its keys, which the text shows.
        Value::Object(members) if members.len() > 1 => None,
        Value::Object(members) => {
            text.push("{")?;
            for (key, value) in members {
                text.push(&string_repr(key, text.max)?)?;
                text.push(": ")?;
                repr(value, text)?;
            }
            text.push("}")
        }
    }
}

/// Python reads an integer of any size exactly; one that does not fit 64 bits has lost its digits.
fn number_repr(number: &Number) -> Option<String> {
    if number.is_i64() || number.is_u64() {
        return Some(number.to_string());
    }
    let float = number.as_f64()?;
    // The shortest digits that give the number, with the exponent where Python shows it.
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e')?;
    let exponent: i32 = exponent.parse().ok()?;
    if (-4..16).contains(&exponent) {
        let plain = format!("{float}");
        Some(if plain.contains('.') {
            plain
        } else {
            format!("{plain}.0")
        })
    } else if exponent > 0 {
        None
    } else {
        Some(format!("{digits}e-{:02}", -exponent))
    }
}

/// Only plain text: Python's rules for quotes and escapes give other text otherwise.
fn string_repr(inner: &str, max: usize) -> Option<String> {
    let plain = |c: char| (' '..='~').contains(&c) && c != '\'' && c != '\\';
    (inner.len() <= max && inner.chars().all(plain)).then(|| format!("'{inner}'"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_values_as_python_does() {
        for (value, text) in [
            (json!("it's"), "it's"),
            (json!(null), "None"),
            (json!([true, false]), "[True, False]"),
            (json!(-7), "-7"),
            (json!(1.0), "1.0"),
            (json!(0.5), "0.5"),
            (json!(0.00001), "1e-05"),
            (json!(-0.0), "-0.0"),
            (json!(123_456.75), "123456.75"),
            (json!([1, "a", {"k": null}]), "[1, 'a', {'k': None}]"),
            (json!({}), "{}"),
        ] {
            assert_eq!(python_str(&value, 100).as_deref(), Some(text), "{value}");
        }
    }

    #[test]
    fn gives_no_text_that_may_differ_or_is_too_long() {
        for value in [
            json!(1e300),
            json!({"a": 1, "b": 2}),
            json!(["it's"]),
            json!("x".repeat(101)),
            json!(vec!["x"; 50]),
        ] {
            assert_eq!(python_str(&value, 100), None, "{value}");
        }
    }
}

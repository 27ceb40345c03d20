//! JSON that people can review: each value on one line if it fits, and each list of numbers on one
//! line.
//!
//! Input: a value. Output: JSON text that ends with a line break.
//! Invariants: the text has the same content as `serde_json::to_string`.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

/// The longest line that holds more than numbers.
const WIDTH: usize = 120;
const INDENT: usize = 2;

/// The JSON text of a value.
///
/// # Errors
/// When the value cannot be represented as JSON.
pub fn to_text(value: &impl Serialize) -> Result<String> {
    let mut text = String::new();
    write(&mut text, &serde_json::to_value(value)?, 0);
    text.push('\n');
    Ok(text)
}

fn write(text: &mut String, value: &Value, depth: usize) {
    let line = value.to_string();
    if INDENT * depth + line.chars().count() <= WIDTH || is_numeric(value) {
        text.push_str(&line);
        return;
    }
    match value {
        Value::Array(items) => {
            let items = items.iter().map(|item| (String::new(), item));
            write_block(text, ('[', ']'), items, depth);
        }
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, field)| (format!("{}: ", Value::from(name.as_str())), field));
            write_block(text, ('{', '}'), fields, depth);
        }
        _ => text.push_str(&line),
    }
}

/// Writes one item a line, each after its prefix.
fn write_block<'a>(
    text: &mut String,
    (open, close): (char, char),
    items: impl Iterator<Item = (String, &'a Value)>,
    depth: usize,
) {
    text.push(open);
    for (at, (prefix, item)) in items.enumerate() {
        if at > 0 {
            text.push(',');
        }
        break_line(text, depth + 1);
        text.push_str(&prefix);
        write(text, item, depth + 1);
    }
    break_line(text, depth);
    text.push(close);
}

fn break_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.push_str(&" ".repeat(INDENT * depth));
}

/// Whether a list holds only numbers, or only lists of numbers.
fn is_numeric(value: &Value) -> bool {
    value.as_array().is_some_and(|items| {
        items
            .iter()
            .all(|item| item.is_number() || is_numeric(item))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn number_lists_stay_on_one_line() {
        let points: Vec<_> = (0..200).map(|at| (at, 0.5)).collect();
        let value = json!({"name": "a \"line\"", "points": points, "note": "x".repeat(WIDTH)});
        let text = to_text(&value).unwrap();
        assert_eq!(text.lines().count(), 5, "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn short_values_stay_on_one_line() {
        let value = json!({"a": [1, "b", null]});
        assert_eq!(to_text(&value).unwrap(), "{\"a\":[1,\"b\",null]}\n");
    }
}

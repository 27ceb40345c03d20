//! How Prefect's SDK, API and UIs store an object and its fields.
//!
//! Input: a JSON value of a block.
//! Output: the value without wrappers, and the texts of its fields.
//! Invariants: pure.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{error::BlockError, field::Field};
use crate::bounded_json;

/// Prefect's tools nest at most a JSON string in a wrapper in a JSON string.
const MAX_WRAPPERS: usize = 4;
/// The bound on the JSON values of a block, and of each JSON string in it.
pub(super) const MAX_VALUES: usize = 10_000;
/// The longest project, config or token, in bytes. Doppler's are far shorter.
const MAX_FIELD_BYTES: usize = 4096;

/// Whether a text is a mask: Prefect's `********`, or pydantic's `**********`.
pub(super) fn is_mask(text: &str) -> bool {
    let text = text.trim();
    text.len() >= 8 && text.bytes().all(|byte| byte == b'*')
}

/// Removes one wrapper of an object: a JSON string, or the UI's
/// `{"__prefect_kind": "json", "value": "…"}`. `None` if there is no wrapper.
fn unwrap_once(value: &Value) -> Option<Value> {
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
    // A text that is a number or a plain word stays a text.
    if !bounded_json::is_within(text.as_bytes(), MAX_VALUES) {
        return None;
    }
    serde_json::from_str(text)
        .ok()
        .filter(|inner: &Value| inner.is_object() || inner.is_array() || inner.is_string())
}

/// Removes all wrappers, up to a maximum.
pub(super) fn unwrap(value: &Value) -> Cow<'_, Value> {
    let mut value = Cow::Borrowed(value);
    for _ in 0..MAX_WRAPPERS {
        match unwrap_once(&value) {
            Some(inner) => value = Cow::Owned(inner),
            None => break,
        }
    }
    value
}

/// The value of a field. Prefect inlines a reference to a Secret block as `{"value": …}`.
pub(super) fn field_value(object: &Map<String, Value>, field: Field) -> Option<&Value> {
    match object.get(field.key()) {
        Some(Value::Object(inner)) if inner.len() == 1 => match inner.get("value") {
            Some(value @ (Value::String(_) | Value::Null)) => Some(value),
            _ => object.get(field.key()),
        },
        other => other,
    }
}

/// The text of a field, without space around it.
pub(super) fn field_text(
    object: &Map<String, Value>,
    field: Field,
) -> Result<Option<String>, BlockError> {
    match field_value(object, field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if is_mask(text) => Err(BlockError::Masked),
        Some(Value::String(text)) if text.trim().len() > MAX_FIELD_BYTES => {
            Err(BlockError::FieldTooLong { field })
        }
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
        Some(_) => Err(BlockError::WrongType { field }),
    }
}

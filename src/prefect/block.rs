//! Finds Doppler project, config, access token and identity in the data of a block.
//!
//! Input: the data of a block, in any shape that Prefect's SDK, API and UIs store, and an optional
//! JSON pointer.
//! Output: the fields. Each may be missing, because a binding can set it instead.
//! Invariants: pure. No error contains a value.

mod error;
mod field;
mod search;
mod value;

use std::borrow::Cow;

use secrecy::SecretString;
use serde_json::{Map, Value};

pub use error::BlockError;
pub use field::{BlockFields, CompleteFields, Field, FieldCredential};

use search::find_object;
use value::{field_text, is_mask, unwrap};

use crate::printable::{MAX_NAME_BYTES, has_control};

impl BlockFields {
    /// Project, config and credential.
    ///
    /// # Errors
    /// [`BlockError::Incomplete`] names the fields that are not set, or empty,
    /// [`BlockError::NotAName`] a project, config or identity that Doppler cannot have.
    pub fn complete(mut self) -> Result<CompleteFields, BlockError> {
        let missing = self.missing();
        let identity = self.identity.as_ref().filter(|_| self.uses_identity);
        for (field, name) in [
            (Field::Project, self.project.as_ref()),
            (Field::Config, self.config.as_ref()),
            (Field::Identity, identity),
        ] {
            if name.is_some_and(|name| !is_name(name)) {
                return Err(BlockError::NotAName { field });
            }
        }
        if missing == [Field::AccessToken] && self.identity.is_some() {
            return Err(BlockError::IdentityWithoutAccount);
        }
        match (self.credential(), self.project, self.config) {
            (Some(credential), Some(project), Some(config)) if missing.is_empty() => {
                Ok(CompleteFields {
                    project,
                    config,
                    credential,
                })
            }
            _ => Err(BlockError::Incomplete { missing }),
        }
    }
}

/// Whether Doppler can have a project, config or identity of this name.
fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && !has_control(name)
}

/// The fields of the object at `pointer`, or of the only object in the data that has them.
///
/// # Errors
/// If there is no such object, or several, if Prefect masked the values, or if a field is not a text.
pub fn fields(data: &Value, pointer: Option<&str>) -> Result<BlockFields, BlockError> {
    let object = match pointer {
        Some(pointer) => Cow::Owned(object_at(data, pointer)?),
        None => find_object(data)?,
    };
    let text = |field: Field| field_text(&object, field);
    Ok(BlockFields {
        project: text(Field::Project)?,
        config: text(Field::Config)?,
        access_token: text(Field::AccessToken)?.map(SecretString::from),
        // A custom block may have a field of this name for something else.
        identity: text(Field::Identity).unwrap_or_default(),
        uses_identity: false,
    })
}

/// The object at an explicit pointer. Each step may cross a JSON string or a wrapper.
fn object_at(data: &Value, pointer: &str) -> Result<Map<String, Value>, BlockError> {
    let mut value = Cow::Borrowed(data);
    if !pointer.is_empty() {
        let steps = pointer
            .strip_prefix('/')
            .ok_or(BlockError::PointerNotFound)?;
        for step in steps.split('/') {
            let step = format!("/{step}");
            let next = value
                .pointer(&step)
                .cloned()
                .or_else(|| unwrap(&value).pointer(&step).cloned());
            value = match next {
                Some(next) => Cow::Owned(next),
                None if value.as_str().is_some_and(is_mask) => return Err(BlockError::Masked),
                None => return Err(BlockError::PointerNotFound),
            };
        }
    }
    match unwrap(&value).into_owned() {
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

#[cfg(test)]
mod tests;

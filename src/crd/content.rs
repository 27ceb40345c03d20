//! What becomes of the values of Doppler configs before they are keys of the Secret.
//!
//! Input: fields of `spec.doppler` as users write them.
//! Output: their types and schemas.
//! Invariants: data only; the doc comments are the manual of the fields.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

// The schema of an optional enum shows this description, and not that of the field.
/// What happens to `DOPPLER_PROJECT`, `DOPPLER_CONFIG` and `DOPPLER_ENVIRONMENT`, which Doppler adds
/// to every config, also as `nameTransformer` spells them. `Keep`: they are keys of the Secret.
/// `Drop`: the operator excludes them. Default: `Keep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConfigMetadata {
    /// They are keys of the Secret.
    Keep,
    /// The operator excludes them.
    Drop,
}

/// The schema of `rename`, with rules for its values.
pub(super) fn rename_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {
            "type": "string",
            "minLength": 1,
            "maxLength": 253,
            "pattern": "^[-._a-zA-Z0-9]+$",
        },
        "x-kubernetes-validations": [{
            "rule": "self.all(a, self.all(b, a == b || self[a] != self[b]))",
            "message": "two names get the same new name: give each name one of its own",
        }],
    })
}

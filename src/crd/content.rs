//! What becomes of the values of Doppler configs before they are keys of the Secret.
//!
//! Input: fields of `spec.doppler` as users write them.
//! Output: their types and schemas.
//! Invariants: data only; the doc comments are the manual of the fields.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::references::AccessToken;

/// One of several Doppler configs, and which of its names become keys.
///
/// The schema has no defaults in it, as in [`WorkPoolSpec`](super::WorkPoolSpec).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(description = "One of several Doppler configs, and which of its names become keys.")]
#[serde(rename_all = "camelCase")]
pub struct ConfigSource {
    /// Doppler project, such as `shared`.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = super::plain_text::plain_text())]
    pub project: String,
    /// Doppler config, such as `prd`.
    #[schemars(length(min = 1, max = 60))]
    #[x_kube(validation = super::plain_text::plain_text())]
    pub config: String,
    /// Reference to the Doppler token of this config. Default: `spec.doppler.accessToken` or `identity`, or else the
    /// block's `access_token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<AccessToken>,
    /// Globs of the names to include from this config, applied after `spec.doppler.include` and
    /// `exclude`, and before `prefix`. Default: all names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 200)))]
    #[x_kube(validation = super::plain_text::plain_texts())]
    pub include: Vec<String>,
    /// Globs of the names to exclude from this config, applied after `include`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 200)))]
    #[x_kube(validation = super::plain_text::plain_texts())]
    pub exclude: Vec<String>,
    /// What to put in front of each name of this config, also of those that Doppler adds, such as
    /// `ETL_`: letters, digits, `-`, `_` and `.`, with a letter or `_` at the beginning. Default:
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^[a-zA-Z_][-._a-zA-Z0-9]*$"))]
    pub prefix: Option<String>,
}

// The schema of an optional enum shows this description, and not that of the field.
/// What happens if two configs have the same name, or a rename gives a key the name of another one.
/// `Later`: the later config wins, and a rename wins over it. `Refuse`: the Secret keeps its last good
/// values, and the condition names the keys and the configs. The names that Doppler adds to every
/// config do not count: those of the last config win. Default: `Later`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnConflict {
    /// The later config wins.
    Later,
    /// The Secret keeps its last good values.
    Refuse,
}

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

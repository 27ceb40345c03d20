//! The Doppler part of the spec.
//!
//! Input: `spec.doppler` as users write it.
//! Output: its type and schema.
//! Invariants: data only; the doc comments are the manual of the fields.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    content::{ConfigMetadata, ConfigSource, OnConflict, rename_schema},
    identity::IdentitySpec,
    references::AccessToken,
};

/// The Doppler config to read, and the names to include. Each of `project`, `config` and
/// `accessToken` overrides the block's value. With all three, the operator does not read the block.
/// `identity` takes the place of `accessToken`; with its `id`, it counts as the third. `configs` names
/// several configs instead.
/// With the operator's `--block-overrides=deny`, `project` and `config` must equal those of the block
/// unless `accessToken` or `identity` is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!(has(self.accessToken) && has(self.identity))")
    .message("accessToken and identity exclude each other: remove one of them"))]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.configs) || size(self.configs) == 0 || !(has(self.project) || has(self.config))"
).message("configs replaces project and config: name them in an item of configs"))]
pub struct DopplerSpec {
    /// Base URL of Doppler's API. The operator's `--allowed-doppler-host` must allow its host.
    /// Default: `https://api.doppler.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.startsWith('https://') || self.startsWith('http://')")
        .message("use a full URL such as https://api.doppler.com"))]
    #[x_kube(validation = super::plain_text::plain_text())]
    pub host: Option<String>,
    /// Doppler project, such as `my-project`. Default: the block's `project`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = super::plain_text::plain_text())]
    pub project: Option<String>,
    /// Doppler config, such as `dev`. Default: the block's `config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 60))]
    #[x_kube(validation = super::plain_text::plain_text())]
    pub config: Option<String>,
    /// Reference to the Doppler token. A service token with read access to the one config is
    /// enough. Default: the block's `access_token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<AccessToken>,
    /// A Doppler identity in place of a token: the operator proves it with a token of a service
    /// account, and no token is stored anywhere. Excludes `accessToken`. Default: a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentitySpec>,
    /// Globs (`*`, `?`, `[ab]`, `{a,b}`) of the names to include, such as `DB_*`. Default: all
    /// names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 200)))]
    #[x_kube(validation = super::plain_text::plain_texts())]
    pub include: Vec<String>,
    /// Globs of the names to exclude, applied after `include`, such as `*_TEST`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 200)))]
    #[x_kube(validation = super::plain_text::plain_texts())]
    pub exclude: Vec<String>,
    /// Doppler's name transformer. Default: the names stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_transformer: Option<NameTransformer>,
    /// Several Doppler configs, at most 16, instead of `project` and `config`. The Secret holds the
    /// names of all of them, and the operator writes it only once it has read all of them. The token
    /// comes from the item, `accessToken` or the block. Default: the one config of `project` and
    /// `config`, or of the block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub configs: Vec<ConfigSource>,
    /// What happens if two configs have the same name, or a rename gives a key the name of another
    /// one. `Later`: the later config wins. `Refuse`: the Secret keeps its last good values. Default:
    /// `Later`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_conflict: Option<OnConflict>,
    /// What happens to `DOPPLER_PROJECT`, `DOPPLER_CONFIG` and `DOPPLER_ENVIRONMENT`, which Doppler
    /// adds to every config. `Keep`: they are keys of the Secret. `Drop`: the operator excludes them.
    /// Default: `Keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ConfigMetadata>,
    /// New names for single keys, such as `DATABASE_URL: SQLALCHEMY_URL`: left the name after
    /// `nameTransformer` and `prefix`, right the key in the Secret. All renames happen at once, so that two keys can
    /// swap their names. A key that has a new name already is excluded, or refused with `onConflict:
    /// Refuse`. A name that no config has has no effect, and the condition says so. Reserved names need `allowReservedNames` as
    /// everywhere. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "rename_schema")]
    pub rename: BTreeMap<String, String>,
}

// The schema of an optional enum shows this description, and not that of the field.
/// Doppler's name transformer: `lower-snake` turns `SECRET_API_KEY` into `secret_api_key`. See
/// <https://docs.doppler.com/docs/name-transformers>. Default: the names stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NameTransformer {
    /// `apiKey`
    Camel,
    /// `ApiKey`
    UpperCamel,
    /// `api_key`
    LowerSnake,
    /// `TF_VAR_api_key`
    TfVar,
    /// `Api:Key`
    Dotnet,
    /// `Api__Key`
    DotnetEnv,
    /// `api-key`
    LowerKebab,
}

impl NameTransformer {
    /// Its name in Doppler's API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Camel => "camel",
            Self::UpperCamel => "upper-camel",
            Self::LowerSnake => "lower-snake",
            Self::TfVar => "tf-var",
            Self::Dotnet => "dotnet",
            Self::DotnetEnv => "dotnet-env",
            Self::LowerKebab => "lower-kebab",
        }
    }
}

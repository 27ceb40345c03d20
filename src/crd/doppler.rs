//! What is read from Doppler.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::references::SecretKeySource;

/// What is read from Doppler. Each of `project`, `config` and `accessToken` overrides what the block says; with all three the block is not read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DopplerSpec {
    /// Base URL of Doppler's API, one that the operator's `--allowed-doppler-host` allows. Default: `https://api.doppler.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.startsWith('https://') || self.startsWith('http://')")
        .message("write a whole URL such as https://api.doppler.com"))]
    pub host: Option<String>,
    /// Doppler project. Default: the block's `project`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub project: Option<String>,
    /// Doppler config, such as `dev`. Default: the block's `config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 60))]
    pub config: Option<String>,
    /// Doppler token. Default: the block's `access_token`. A service token that can read one config is all that is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<AccessToken>,
    /// Globs (`*`, `?`, `[ab]`, `{a,b}`) on the names to pass on. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 200)))]
    pub include: Vec<String>,
    /// Globs on the names not to pass on, applied after `include`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 200)))]
    pub exclude: Vec<String>,
    /// Doppler's own change of the names: `lower-snake` turns `SECRET_API_KEY` into `secret_api_key`. Default: the names as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_transformer: Option<NameTransformer>,
}

/// A Doppler token in a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessToken {
    /// A Secret key that holds the token.
    pub value_from: SecretKeySource,
}

/// Doppler's transformations of names, <https://docs.doppler.com/docs/name-transformers>.
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
    /// The word that Doppler's API knows it by.
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

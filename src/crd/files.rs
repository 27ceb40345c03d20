//! Keys of a Secret that are files, and the type of the Secret.
//!
//! Input: fields of `spec.managedSecret` as users write them.
//! Output: their types and schemas.
//! Invariants: data only; the doc comments are the manual of the fields.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one file holds: exactly one of `template`, `from` and `format`.
///
/// The schema has no defaults in it, as in [`WorkPoolSpec`](super::WorkPoolSpec).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(description = "What one file holds: exactly one of `template`, `from` and `format`.")]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(has(self.template) ? 1 : 0) + (has(self.from) ? 1 : 0) + (has(self.format) ? 1 : 0) == 1"
).message("set exactly one of template, from and format"))]
#[x_kube(validation = Rule::new("!has(self.encoding) || has(self.from)")
    .message("encoding says how the value in from is stored: set from as well"))]
pub struct FileSpec {
    /// A text with `{{ NAME }}` for each value, in the language of Jinja, such as
    /// `host: {{ DB_HOST }}`: names, filters and `{% if %}`, but no loops, lists or variables. A name that
    /// does not exist is an error. Names are those after `rename`. At most 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub template: Option<String>,
    /// The name of the one value that the file holds, after `rename`, such as `TLS_CRT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = super::plain_text::plain_text())]
    pub from: Option<String>,
    /// How the value in `from` is stored in Doppler. `Plain`: the file holds it as it is. `Base64`: the
    /// file holds what it decodes to, which may be binary. Default: `Plain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<FileEncoding>,
    /// All keys of the environment in one file. `Json`: one object. `Yaml`: one map. `Env`: lines
    /// `NAME="value"`. `DotnetJson`: one object, in which `A__B` is `B` inside of `A`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FileFormat>,
}

// The schema of an optional enum shows this description, and not that of the field.
/// How the value in `from` is stored in Doppler. `Plain`: the file holds it as it is. `Base64`: the
/// file holds what it decodes to, which may be binary. Default: `Plain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FileEncoding {
    /// As it is.
    Plain,
    /// In base64.
    Base64,
}

/// All keys of the environment in one file. `Json`: one object. `Yaml`: one map. `Env`: lines
/// `NAME="value"`. `DotnetJson`: one object, in which `A__B` is `B` inside of `A`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FileFormat {
    /// One JSON object.
    Json,
    /// One YAML map.
    Yaml,
    /// Lines `NAME="value"`.
    Env,
    /// A JSON object in objects, as .NET reads it.
    DotnetJson,
}

/// Type of the Secret with the files, or without files of the only Secret. Kubernetes never changes
/// the type of a Secret: after a change, delete the Secret, and the operator creates it again.
/// Default: `Opaque`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SecretType {
    /// Any keys.
    #[default]
    Opaque,
    /// Needs `tls.crt` and `tls.key`.
    #[serde(rename = "kubernetes.io/tls")]
    Tls,
    /// Needs `.dockerconfigjson`, which has to be JSON.
    #[serde(rename = "kubernetes.io/dockerconfigjson")]
    DockerConfigJson,
    /// Needs `username` or `password`.
    #[serde(rename = "kubernetes.io/basic-auth")]
    BasicAuth,
    /// Needs `ssh-privatekey`.
    #[serde(rename = "kubernetes.io/ssh-auth")]
    SshAuth,
}

impl SecretType {
    /// Its name in Kubernetes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opaque => "Opaque",
            Self::Tls => "kubernetes.io/tls",
            Self::DockerConfigJson => "kubernetes.io/dockerconfigjson",
            Self::BasicAuth => "kubernetes.io/basic-auth",
            Self::SshAuth => "kubernetes.io/ssh-auth",
        }
    }
}

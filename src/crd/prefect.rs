//! The Prefect server and the block on it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::references::{InlineValue, KeyRefSource, SecretKeySource};

/// The Prefect server and the block on it that names the Doppler project, config and token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrefectSpec {
    /// The Prefect server: the same stanza as in the resources of prefect-operator, so that it can be pasted from there.
    pub server: ServerSpec,
    /// The block document. Default: `doppler-config` of type `secret`.
    #[serde(default)]
    pub block: BlockSpec,
}

/// A Prefect server in the cluster (`name`), one elsewhere (`remoteApiUrl`), or a workspace of Prefect Cloud (`accountId` and `workspaceId`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!(has(self.name) && has(self.remoteApiUrl))")
    .message("name and remoteApiUrl both say where the server is: give name for a server in this cluster, or remoteApiUrl for any other"))]
#[x_kube(validation = Rule::new("has(self.name) || has(self.remoteApiUrl) || (has(self.accountId) && has(self.workspaceId))")
    .message("say where the Prefect server is: name for a server in this cluster, remoteApiUrl for any other, or accountId and workspaceId for Prefect Cloud"))]
#[x_kube(validation = Rule::new("has(self.accountId) == has(self.workspaceId)")
    .message("accountId and workspaceId belong together: give both or neither"))]
#[x_kube(validation = Rule::new("!has(self.name) || !has(self.accountId)")
    .message("accountId and workspaceId are for Prefect Cloud: leave them out beside name"))]
#[x_kube(validation = Rule::new("!has(self.__namespace__) || has(self.name)")
    .message("namespace says where the Service called name is: give name as well, or leave namespace out"))]
#[x_kube(validation = Rule::new("!(has(self.apiKey) && has(self.basicAuth))")
    .message("apiKey and basicAuth are both sent as the Authorization header: give the one that the server asks for"))]
#[serde(rename_all = "camelCase")]
pub struct ServerSpec {
    /// Name of the server's Service in this cluster: `http://NAME.NAMESPACE.svc:4200/api`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: Option<String>,
    /// Namespace of that Service. Default: the binding's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: Option<String>,
    /// URL of a server elsewhere, such as `https://prefect.example.com/api`; `/api` is appended if it is missing. Its host must be one that the
    /// operator's `--allowed-prefect-host` allows. With `accountId` and `workspaceId` it defaults to Prefect Cloud's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('https://') || self.startsWith('http://')")
        .message("write a whole URL such as https://prefect.example.com/api"))]
    pub remote_api_url: Option<String>,
    /// Prefect Cloud's account id, a UUID, from the URL of the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[0-9a-zA-Z-]+$"))]
    pub account_id: Option<String>,
    /// Prefect Cloud's workspace id, a UUID, from the URL of the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[0-9a-zA-Z-]+$"))]
    pub workspace_id: Option<String>,
    /// API key, sent as a Bearer token. On Prefect Cloud its role needs "View secret block data", and "Edit work pools" for injection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKey>,
    /// Basic authentication of a self-hosted server that runs with `PREFECT_SERVER_API_AUTH_STRING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    /// Extra headers for each request, for a proxy before the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<Header>,
    /// Certificate authorities of the server, in PEM, added to the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<CaBundle>,
}

/// An API key, in place or in a Secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.value) != has(self.valueFrom)")
    .message("give exactly one of value and valueFrom; valueFrom.secretKeyRef keeps the key out of this resource"))]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// The key itself. Everyone who can read the binding can read it: prefer `valueFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<InlineValue>,
    /// A Secret or ConfigMap key that holds it (the Prefect charts keep it in Secret `prefect-api-key`, key `key`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<KeyRefSource>,
}

/// `user:password` in a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// A Secret key that holds `user:password` (the Prefect charts use the key `auth-string`).
    pub value_from: SecretKeySource,
}

/// A header of each request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.value) != has(self.valueFrom)").message("give exactly one of value and valueFrom"))]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Name of the header, such as `CF-Access-Client-Id`. `Authorization`, `Host` and headers of the connection itself are refused.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9-]+$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['authorization', 'host', 'connection', 'content-length', 'transfer-encoding', 'upgrade', 'te', 'trailer'])")
        .message("this header is the client's own: use apiKey or basicAuth for Authorization, remoteApiUrl for Host"))]
    pub name: String,
    /// Its value, in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<InlineValue>,
    /// A Secret key that holds its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<SecretKeySource>,
}

/// Certificate authorities in PEM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaBundle {
    /// A Secret or ConfigMap key that holds one or more certificates in PEM.
    pub value_from: KeyRefSource,
}

/// A block document of Prefect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockSpec {
    /// Name of the block document. Default: `doppler-config`.
    #[serde(default = "BlockSpec::default_name")]
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Slug of its block type: `secret`, `json`, or that of a custom class (`DopplerConfig` has `dopplerconfig`). Default: `secret`.
    #[serde(default = "BlockSpec::default_type_slug")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[a-z0-9-]+$"))]
    pub type_slug: String,
    /// JSON pointer (RFC 6901) to the object with `project`, `config` and `access_token` in the block's data, such as `/cfg/value`. Default: the
    /// one such object that the data holds, found by its shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^(/.*)?$"))]
    pub pointer: Option<String>,
}

impl BlockSpec {
    fn default_name() -> String {
        "doppler-config".to_owned()
    }

    fn default_type_slug() -> String {
        "secret".to_owned()
    }
}

impl Default for BlockSpec {
    fn default() -> Self {
        Self {
            name: Self::default_name(),
            type_slug: Self::default_type_slug(),
            pointer: None,
        }
    }
}

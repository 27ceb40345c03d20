//! The Prefect server and the block on it.
//!
//! Input: `spec.prefect` as users write it.
//! Output: its type and schema.
//! Invariants: data only; the doc comments are the manual of the fields.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::references::{InlineValue, KeyRefSource, SecretKeySource};

/// The Prefect server, and the block on it that holds the Doppler project, config and token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!(has(self.server) && has(self.serverRef))")
    .message("server and serverRef exclude each other: set server for a server of this binding, or serverRef for a ClusterPrefectServer"))]
#[serde(rename_all = "camelCase")]
pub struct PrefectSpec {
    /// The Prefect server. The fields are those of `spec.server` in prefect-operator's resources,
    /// so that you can copy them from there. Default: that of `serverRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerSpec>,
    /// A `ClusterPrefectServer`, which has the address of the Prefect server and its credentials. It
    /// lists the namespaces, blocks and work pools that may be used; if it does not list those of this
    /// binding, the operator sends nothing and reports the reason `ServerNotAllowed`. Default: the one
    /// that the operator's `--default-prefect-server` names, if `server` is absent as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_ref: Option<ServerRef>,
    /// The block document that holds project, config and token. Default: the block `doppler-config`
    /// of type `secret`.
    #[serde(default)]
    pub block: BlockSpec,
}

/// A `ClusterPrefectServer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerRef {
    /// Name of the `ClusterPrefectServer`.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// How a binding names its Prefect server.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerChoice {
    /// By the address and the credentials of the binding.
    Own(Box<ServerSpec>),
    /// By the name of a `ClusterPrefectServer`.
    Shared(String),
}

impl PrefectSpec {
    /// How the binding names its server. None if it leaves that to the operator's default.
    #[must_use]
    pub fn choice(&self) -> Option<ServerChoice> {
        let own = self.server.clone().map(Box::new).map(ServerChoice::Own);
        let shared = self.server_ref.as_ref();
        own.or_else(|| Some(ServerChoice::Shared(shared?.name.clone())))
    }
}

/// A Prefect server in this cluster (`name`), a server elsewhere (`remoteApiUrl`), or a workspace
/// of Prefect Cloud (`accountId` and `workspaceId`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!(has(self.name) && has(self.remoteApiUrl))")
    .message("name and remoteApiUrl exclude each other: set name for a server in this cluster, or remoteApiUrl for any other"))]
#[x_kube(validation = Rule::new("has(self.name) || has(self.remoteApiUrl) || (has(self.accountId) && has(self.workspaceId))")
    .message("the Prefect server is missing: set name for a server in this cluster, remoteApiUrl for any other, or accountId and workspaceId for Prefect Cloud"))]
#[x_kube(validation = Rule::new("has(self.accountId) == has(self.workspaceId)")
    .message("accountId and workspaceId belong together: set both or neither"))]
#[x_kube(validation = Rule::new("!has(self.name) || !has(self.accountId)")
    .message("accountId and workspaceId are for Prefect Cloud: remove them, or remove name"))]
#[x_kube(validation = Rule::new("!has(self.__namespace__) || has(self.name)")
    .message("namespace is the namespace of the Service in name: set name as well, or remove namespace"))]
#[x_kube(validation = Rule::new("!(has(self.apiKey) && has(self.basicAuth))")
    .message("apiKey and basicAuth both set the Authorization header: set only the one that the server requires"))]
#[serde(rename_all = "camelCase")]
pub struct ServerSpec {
    /// Name of the server's Service in this cluster, such as `prefect-server`. The URL is
    /// `http://NAME.NAMESPACE.svc:4200/api`. The operator's `--allowed-prefect-service` must allow
    /// the Service, and its type must not be `ExternalName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: Option<String>,
    /// Namespace of that Service. Default: the binding's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: Option<String>,
    /// URL of a server elsewhere, such as `https://prefect.example.com/api`. The operator appends
    /// `/api` if it is missing. The operator's `--allowed-prefect-host` must allow its host.
    /// Default: Prefect Cloud's URL if `accountId` and `workspaceId` are set, otherwise none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('https://') || self.startsWith('http://')")
        .message("use a full URL such as https://prefect.example.com/api"))]
    #[x_kube(validation = super::plain_text::plain_text())]
    pub remote_api_url: Option<String>,
    /// Account ID of Prefect Cloud, a UUID in the URL of the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[0-9a-zA-Z-]+$"))]
    pub account_id: Option<String>,
    /// Workspace ID of Prefect Cloud, a UUID in the URL of the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[0-9a-zA-Z-]+$"))]
    pub workspace_id: Option<String>,
    /// API key, sent as a bearer token. On Prefect Cloud, its role needs the permission "View
    /// secret block data", and "Edit work pools" for injection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKey>,
    /// Basic authentication, for a self-hosted server with `PREFECT_SERVER_API_AUTH_STRING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    /// Extra headers of each request, for a proxy in front of the server. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<Header>,
    /// Certificate authorities of the server in PEM, in addition to the system's root certificates.
    /// The server's own certificate works too, also if it is self-signed: its names and dates are
    /// checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<CaBundle>,
}

/// An API key, inline or in a Secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.value) != has(self.valueFrom)")
    .message("set exactly one of value and valueFrom; valueFrom.secretKeyRef keeps the key out of this resource"))]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// The key itself. Every user who can read the binding can read it, so prefer `valueFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<InlineValue>,
    /// The key of a Secret or ConfigMap that holds it. The Prefect charts use the Secret
    /// `prefect-api-key` and the key `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<KeyRefSource>,
}

/// `user:password` in a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// The key of a Secret that holds `user:password`. The Prefect charts use the key
    /// `auth-string`.
    pub value_from: SecretKeySource,
}

/// An extra header of each request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.value) != has(self.valueFrom)").message("set exactly one of value and valueFrom"))]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Name of the header, such as `CF-Access-Client-Id`. `Authorization`, `Host` and headers of
    /// the connection itself are rejected.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9-]+$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['authorization', 'host', 'connection', 'content-length', 'transfer-encoding', 'upgrade', 'te', 'trailer'])")
        .message("the operator itself sets this header: use apiKey or basicAuth for Authorization, remoteApiUrl for Host"))]
    pub name: String,
    /// Its inline value. Every user who can read the binding can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<InlineValue>,
    /// The key of a Secret that holds its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<SecretKeySource>,
}

/// Certificate authorities in PEM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaBundle {
    /// The key of a Secret or ConfigMap that holds one or more certificates in PEM.
    pub value_from: KeyRefSource,
}

/// A block document of Prefect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockSpec {
    /// Name of the block document. Default: `doppler-config`.
    #[serde(default = "BlockSpec::default_name")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = super::plain_text::plain_text())]
    pub name: String,
    /// Slug of its block type: `secret`, `json`, or the slug of a custom class, such as
    /// `dopplerconfig` for `DopplerConfig`. Default: `secret`.
    #[serde(default = "BlockSpec::default_type_slug")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[a-z0-9-]+$"))]
    pub type_slug: String,
    /// JSON pointer (RFC 6901) to the object with `project`, `config` and `access_token` (or
    /// `identity`) in the block's data, such as `/cfg/value`. Default: the operator finds the one
    /// object of this shape in the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^(/.*)?$"))]
    #[x_kube(validation = super::plain_text::plain_text())]
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

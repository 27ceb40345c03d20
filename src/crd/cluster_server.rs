//! The resource `ClusterPrefectServer`: one definition of a Prefect server for many namespaces.
//!
//! Input: YAML that the platform team applies.
//! Output: the typed resource, the server as a binding would define it, and the CRD.
//! Invariants: a list that is absent or empty allows nothing. Credentials stand in Secrets only. Each
//! reference names its namespace.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    prefect::{ApiKey, BasicAuth, CaBundle, Header, ServerSpec},
    references::{InlineValue, KeyRef, KeyRefSource, SecretKeySource},
};

/// A Prefect server that bindings of several namespaces name with `spec.prefect.serverRef`, and what
/// they may use on it.
#[allow(
    clippy::duplicated_attributes,
    reason = "printer columns repeat their attributes"
)]
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "doppler-prefect.dev",
    version = "v1alpha1",
    kind = "ClusterPrefectServer",
    plural = "clusterprefectservers",
    shortname = "cps",
    category = "doppler",
    status = "ClusterPrefectServerStatus",
    derive = "PartialEq",
    doc = "One definition of a Prefect server for bindings of many namespaces: its address, its credentials, and which namespaces, blocks and work pools may be used. A binding names it with spec.prefect.serverRef.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Bindings", type_ = "integer", json_path = ".status.bindings"),
    printcolumn(
        name = "Refused",
        type_ = "integer",
        json_path = ".status.refusedBindings"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPrefectServerSpec {
    /// The Prefect server. The fields are those of `spec.prefect.server` of a binding, with a
    /// namespace in each reference.
    pub server: ClusterServerSpec,

    /// The namespaces whose bindings may use the server. Default: none.
    #[serde(default, skip_serializing_if = "AllowedNamespaces::is_empty")]
    pub namespaces: AllowedNamespaces,

    /// Patterns of names of blocks that a binding may name, such as `team-{namespace}-doppler`. `*` is
    /// any text and `?` one character, both without `/`, `\` and `%`, and `{namespace}` is the namespace
    /// of the binding. A `*` next to
    /// `{namespace}` also matches the blocks of a longer namespace: `team-{namespace}-*` gives namespace
    /// `a` the blocks of `a-b`. Default: none, and then a binding cannot read any block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    #[x_kube(validation = super::plain_text::plain_texts())]
    pub blocks: Vec<String>,

    /// Patterns of names of work pools that a binding may name in `spec.inject.workPools`, as in
    /// `blocks`. Default: none, and then a binding cannot name any work pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    #[x_kube(validation = super::plain_text::plain_texts())]
    pub work_pools: Vec<String>,
}

/// The namespaces whose bindings may use a server: those in `names`, and those whose labels `selector`
/// matches. With neither, none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AllowedNamespaces {
    /// Names of namespaces. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1024),
        inner(
            length(min = 1, max = 63),
            regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
        )
    )]
    pub names: Vec<String>,
    /// Selects further namespaces by their labels. A user who may label a namespace can then let it use
    /// the server. An empty selector (`{}`) matches every namespace. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

impl AllowedNamespaces {
    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.selector.is_none()
    }
}

/// A Prefect server in this cluster (`name` and `namespace`), a server elsewhere (`remoteApiUrl`), or a
/// workspace of Prefect Cloud (`accountId` and `workspaceId`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!(has(self.name) && has(self.remoteApiUrl))")
    .message("name and remoteApiUrl exclude each other: set name for a server in this cluster, or remoteApiUrl for any other"))]
#[x_kube(validation = Rule::new("has(self.name) || has(self.remoteApiUrl) || (has(self.accountId) && has(self.workspaceId))")
    .message("the Prefect server is missing: set name for a server in this cluster, remoteApiUrl for any other, or accountId and workspaceId for Prefect Cloud"))]
#[x_kube(validation = Rule::new("has(self.accountId) == has(self.workspaceId)")
    .message("accountId and workspaceId belong together: set both or neither"))]
#[x_kube(validation = Rule::new("!has(self.name) || !has(self.accountId)")
    .message("accountId and workspaceId are for Prefect Cloud: remove them, or remove name"))]
#[x_kube(validation = Rule::new("has(self.name) == has(self.__namespace__)")
    .message("name and namespace belong together: set both for a server in this cluster, or neither"))]
#[x_kube(validation = Rule::new("!(has(self.apiKey) && has(self.basicAuth))")
    .message("apiKey and basicAuth both set the Authorization header: set only the one that the server requires"))]
#[serde(rename_all = "camelCase")]
pub struct ClusterServerSpec {
    /// Name of the server's Service in this cluster, such as `prefect-server`. The URL is
    /// `http://NAME.NAMESPACE.svc:4200/api`. The operator's `--allowed-prefect-service` must allow
    /// the Service by its namespace (`.` stands for none here), and its type must not be
    /// `ExternalName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: Option<String>,
    /// Namespace of that Service. Required with `name`.
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
    /// API key in a Secret, sent as a bearer token. On Prefect Cloud, its role needs the permission
    /// "View secret block data", and "Edit work pools" for injection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ClusterSecretValue>,
    /// `user:password` in a Secret, for a self-hosted server with `PREFECT_SERVER_API_AUTH_STRING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<ClusterSecretValue>,
    /// Extra headers of each request, for a proxy in front of the server. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<ClusterHeader>,
    /// Certificate authorities of the server in PEM, in addition to the system's root certificates.
    /// The server's own certificate works too, also if it is self-signed: its names and dates are
    /// checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<ClusterCaBundle>,
}

/// A value in a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSecretValue {
    /// The key of a Secret that holds the value.
    pub value_from: ClusterSecretSource,
}

/// The source of a secret value: a key of a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSecretSource {
    /// A key of a Secret. The operator needs the permission to get, list and watch this Secret; the
    /// chart grants it for the Secrets in `clusterServers.secrets`.
    pub secret_key_ref: ClusterKeyRef,
}

/// An extra header of each request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.value) != has(self.valueFrom)").message("set exactly one of value and valueFrom"))]
#[serde(rename_all = "camelCase")]
pub struct ClusterHeader {
    /// Name of the header, such as `CF-Access-Client-Id`. `Authorization`, `Host` and headers of
    /// the connection itself are rejected.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9-]+$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['authorization', 'host', 'connection', 'content-length', 'transfer-encoding', 'upgrade', 'te', 'trailer'])")
        .message("the operator itself sets this header: use apiKey or basicAuth for Authorization, remoteApiUrl for Host"))]
    pub name: String,
    /// Its inline value. Every user who can read the resource can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<InlineValue>,
    /// The key of a Secret that holds its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ClusterSecretSource>,
}

/// Certificate authorities in PEM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCaBundle {
    /// The key of a Secret or ConfigMap that holds one or more certificates in PEM.
    pub value_from: ClusterKeySource,
}

/// The source of a value: a key of a Secret or of a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)")
    .message("set exactly one of secretKeyRef and configMapKeyRef"))]
#[serde(rename_all = "camelCase")]
pub struct ClusterKeySource {
    /// A key of a Secret, as for `apiKey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<ClusterKeyRef>,
    /// A key of a ConfigMap. The chart grants its reading for the ConfigMaps in
    /// `clusterServers.configMaps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ClusterKeyRef>,
}

/// A key of a Secret or a ConfigMap in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterKeyRef {
    /// Namespace of the object.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: String,
    /// Name of the object.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Key in the data of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// The last result of the operator for the server. It changes only if the result changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPrefectServerStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the flags allow the address, and the credentials are resolved. Whether the server accepts
    /// them is a condition of each binding.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Namespace of the operator that wrote this status. If several operators of a cluster read servers,
    /// it is the last one whose bindings name this server, and the numbers are those of its bindings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_namespace: Option<String>,
    /// Number of bindings that use the server.
    #[serde(default)]
    pub bindings: i32,
    /// Number of bindings that name the server and may not use it.
    #[serde(default)]
    pub refused_bindings: i32,
}

impl ClusterServerSpec {
    /// The same server as the spec of a binding has it, with the namespace of each reference.
    #[must_use]
    pub fn to_server(&self) -> ServerSpec {
        ServerSpec {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            remote_api_url: self.remote_api_url.clone(),
            account_id: self.account_id.clone(),
            workspace_id: self.workspace_id.clone(),
            api_key: self.api_key.as_ref().map(|key| ApiKey {
                value: None,
                value_from: Some(KeyRefSource {
                    secret_key_ref: Some(key.value_from.secret_key_ref.to_key_ref()),
                    config_map_key_ref: None,
                }),
            }),
            basic_auth: self.basic_auth.as_ref().map(|auth| BasicAuth {
                value_from: auth.value_from.to_source(),
            }),
            headers: self.headers.iter().map(ClusterHeader::to_header).collect(),
            ca_bundle: self.ca_bundle.as_ref().map(|bundle| CaBundle {
                value_from: KeyRefSource {
                    secret_key_ref: key_ref(bundle.value_from.secret_key_ref.as_ref()),
                    config_map_key_ref: key_ref(bundle.value_from.config_map_key_ref.as_ref()),
                },
            }),
        }
    }
}

fn key_ref(of: Option<&ClusterKeyRef>) -> Option<KeyRef> {
    of.map(ClusterKeyRef::to_key_ref)
}

impl ClusterHeader {
    fn to_header(&self) -> Header {
        let source = self.value_from.as_ref();
        Header {
            name: self.name.clone(),
            value: self.value.clone(),
            value_from: source.map(ClusterSecretSource::to_source),
        }
    }
}

impl ClusterSecretSource {
    fn to_source(&self) -> SecretKeySource {
        SecretKeySource {
            secret_key_ref: self.secret_key_ref.to_key_ref(),
        }
    }
}

impl ClusterKeyRef {
    fn to_key_ref(&self) -> KeyRef {
        KeyRef {
            name: self.name.clone(),
            key: self.key.clone(),
            namespace: Some(self.namespace.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_shared_server_keeps_the_namespace_of_each_reference() {
        let at = |name: &str| json!({"namespace": "prefect", "name": name, "key": "key"});
        let from = |name: &str| json!({"valueFrom": {"secretKeyRef": at(name)}});
        let spec: ClusterServerSpec = serde_json::from_value(json!({
            "remoteApiUrl": "https://prefect.example.com/api",
            "apiKey": from("api-key"),
            "headers": [{"name": "X-A", "value": "a"}, {"name": "X-B", "valueFrom": {"secretKeyRef": at("header")}}],
            "caBundle": {"valueFrom": {"configMapKeyRef": at("ca")}},
        }))
        .unwrap();
        let server = spec.to_server();
        let source = server.api_key.unwrap().value_from.unwrap();
        let key = source.secret_key_ref.unwrap();
        assert_eq!(key.namespace.as_deref(), Some("prefect"));
        assert_eq!((&*key.name, &*key.key), ("api-key", "key"));
        let header = server.headers[1].value_from.clone().unwrap();
        assert_eq!(header.secret_key_ref.namespace.as_deref(), Some("prefect"));
        let ca = server.ca_bundle.unwrap().value_from;
        assert_eq!(
            ca.config_map_key_ref.unwrap().namespace.as_deref(),
            Some("prefect")
        );
    }

    #[test]
    fn a_binding_cannot_set_the_namespace_of_a_reference() {
        let key: KeyRef =
            serde_json::from_value(json!({"name": "a", "key": "k", "namespace": "prefect"}))
                .unwrap();
        assert_eq!(key.namespace, None);
    }
}

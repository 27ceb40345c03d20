//! The Kubernetes Secret that is written.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Kubernetes Secret that is written, always of type `Opaque`, in the binding's namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManagedSecretSpec {
    /// Its name. Default: the binding's name. After a change the new Secret is written first; the old one goes once no pool refers to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: Option<String>,
    /// Labels to put on it; labels that others put there are kept. Names of `kubernetes.io` and of this operator are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(k, size(k) <= 317 && !k.contains('kubernetes.io/') && !k.startsWith('doppler-prefect.dev/'))")
        .message("labels of kubernetes.io and doppler-prefect.dev mean something to Kubernetes or to this operator: use a prefix of your own"))]
    pub labels: BTreeMap<String, String>,
    /// Annotations to put on it; annotations that others put there are kept. Names of `kubernetes.io` and of this operator are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(k, size(k) <= 317 && !k.contains('kubernetes.io/') && !k.startsWith('doppler-prefect.dev/'))")
        .message("annotations of kubernetes.io and doppler-prefect.dev mean something to Kubernetes or to this operator: use a prefix of your own"))]
    pub annotations: BTreeMap<String, String>,
    /// What happens to it when the binding goes: `Delete` or `Retain`. Default: `Delete`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Take over an existing Secret of that name that no controller and no other binding owns; its `data` is replaced whole. Default: false, and
    /// such a Secret is left as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
    /// Names to pass on although they are held back by default, since they would break or take over the job pod: `PATH`, `HOME`, `PS1`,
    /// `HOSTNAME`, `BASH_ENV`, `LD_*`, `PYTHON*`, `PIP_*`, `UV_*`, `BROWSER`, `NODE_OPTIONS`, `EXTRA_PIP_PACKAGES`, `PREFECT_*`, `KUBERNETES_*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 200)))]
    pub allow_reserved_names: Vec<String>,
}

/// What happens to the Secret when its binding goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It is deleted, once no work pool refers to it.
    #[default]
    Delete,
    /// It stays; a new binding needs `adopt: true` to take it.
    Retain,
}

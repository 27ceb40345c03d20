//! The work pools and the Jobs whose pods get the Secret.
//!
//! Input: `spec.inject` as users write it.
//! Output: its type and schema.
//! Invariants: data only. List items have no schema defaults, so that a second apply changes nothing.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::jobs::JobSelector;

/// The work pools and the Jobs whose pods get the Secret as environment variables.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InjectSpec {
    /// Prefect work pools of type kubernetes whose jobs run in the binding's namespace. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub work_pools: Vec<WorkPoolSpec>,
    /// Jobs of the binding's namespace that get the Secret when a client creates them, by an
    /// admission policy of the API server. No template of a work pool is changed, and
    /// the policy works without the operator. Needs the chart's `admission.enabled` and Kubernetes
    /// 1.36, or 1.34 with a feature gate. A label is a convenience and no boundary: everybody who may
    /// set labels of Jobs can choose any of the namespace's bindings. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub jobs: Vec<JobSelector>,
}

/// A Prefect work pool.
///
/// The schema has no defaults in it: `kubectl apply` replaces a list as a whole, so that a default
/// in a list item makes each apply a change. [`Self::mode`] and [`Self::optional`] fill the
/// defaults in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(description = "A Prefect work pool.")]
#[serde(rename_all = "camelCase")]
pub struct WorkPoolSpec {
    /// Name of the work pool on the Prefect server, such as `k8s`.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = super::plain_text::plain_text())]
    pub name: String,
    /// Whether the operator writes the pool's template. Default: `Patch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<InjectMode>,
    /// The `optional` field of the entry. true: pods start even if the Secret is missing, and code
    /// that requires a value fails at once. false: pods stay in `CreateContainerConfigError`, which
    /// Prefect shows as Pending, until the Secret exists. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// Whether the `cluster_config` of the pool names the cluster of this binding. Without it, the
    /// operator does not write a pool with a `cluster_config`, because it cannot tell which cluster
    /// that is. Risk: if it names another cluster, its jobs start without the values, or never with
    /// `optional: false`; if that cluster has a Secret of this name, they get the values of that one.
    /// Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_cluster: Option<bool>,
}

impl WorkPoolSpec {
    /// The mode, by default [`InjectMode::Patch`].
    #[must_use]
    pub fn mode(&self) -> InjectMode {
        self.mode.unwrap_or_default()
    }

    /// Whether the `cluster_config` of the pool names this cluster, by default false.
    #[must_use]
    pub fn same_cluster(&self) -> bool {
        self.same_cluster.unwrap_or(false)
    }

    /// Whether pods start without the Secret, by default true.
    #[must_use]
    pub fn optional(&self) -> bool {
        self.optional.unwrap_or(true)
    }
}

// The schema of an optional enum shows this description, and not that of the field.
/// `Patch`: the operator keeps an `envFrom` entry in the pool's base job template. `Observe`:
/// the operator never writes; it reads the pool and accepts any entry that names the Secret.
/// Use `Observe` for pools that Terraform, CI or a chart manages. Default: `Patch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum InjectMode {
    /// The operator keeps its entry in the pool's template.
    #[default]
    Patch,
    /// The operator only reads the template.
    Observe,
}

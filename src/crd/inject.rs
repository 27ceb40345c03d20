//! Where the Secret is made the environment of job pods.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the Secret is made the environment of job pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InjectSpec {
    /// Prefect work pools of type kubernetes whose jobs run in the binding's namespace. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub work_pools: Vec<WorkPoolSpec>,
}

/// A Prefect work pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkPoolSpec {
    /// Name of the work pool on the Prefect server.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// `Patch`: keep an `envFrom` entry in the pool's base job template. `Observe`: never write; the pool is looked at, and an entry that names
    /// the Secret, whoever wrote it, counts (for pools that Terraform, CI or a chart owns). Default: `Patch`.
    #[serde(default)]
    pub mode: InjectMode,
    /// The entry's `optional`: with true, a run without the Secret starts and fails loudly in `Settings()`; with false, its pod waits, unseen in
    /// Prefect, until the Secret is there. Default: true.
    #[serde(default = "WorkPoolSpec::default_optional")]
    pub optional: bool,
}

impl WorkPoolSpec {
    const fn default_optional() -> bool {
        true
    }
}

/// Whether a pool's template is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum InjectMode {
    /// Keep our entry in the pool's template.
    #[default]
    Patch,
    /// Never write; look.
    Observe,
}

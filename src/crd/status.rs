//! What users read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator last did for the binding. Nothing in it changes while nothing changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DopplerPrefectBindingStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `BlockResolved`, `SecretSynced`, `Injected` (absent when no pool is named) and `Ready`.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Doppler project that was resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Doppler config that was resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Name of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// How many keys the Secret holds.
    #[serde(default, rename = "keys", skip_serializing_if = "Option::is_none")]
    pub key_count: Option<i32>,
    /// Names that Doppler has and the Secret does not, each with why. At most 50 are listed.
    #[serde(default, rename = "heldBack", skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub excluded_keys: Vec<ExcludedKey>,
    /// Keyed hash of the content, as in the Secret's annotation `doppler-prefect.dev/content-hash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    /// When the content last changed.
    #[serde(
        default,
        rename = "lastChanged",
        skip_serializing_if = "Option::is_none"
    )]
    pub last_change_time: Option<Time>,
    /// The named work pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub work_pools: Vec<WorkPoolStatus>,
}

/// A name that is not passed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExcludedKey {
    /// The name in Doppler.
    pub name: String,
    /// Why it is not passed on, and how to pass it on.
    #[serde(rename = "why")]
    pub reason: String,
}

/// A work pool as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkPoolStatus {
    /// Name of the work pool.
    pub name: String,
    /// What was found or done. Absent until the pool was first looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WorkPoolState>,
    /// Keys of the Secret that the pool's own `env` or a later `envFrom` entry overrides. At most 50 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadowed_keys: Vec<String>,
    /// Namespaces without the Secret to which deployments of the pool send jobs. At most 50 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unserved_namespaces: Vec<String>,
}

/// What was found or done at a work pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WorkPoolState {
    /// The operator wrote the entry.
    Patched,
    /// Somebody else wrote an entry that names the Secret.
    AlreadyPresent,
    /// Somebody keeps taking the entry out; it is put back with growing waits.
    Contested,
    /// The template has no place where the entry could go: it is empty, not of a kubernetes pool, or has a placeholder there.
    NotEditable,
    /// The credentials may not read or edit the pool.
    Forbidden,
    /// There is no pool of that name.
    Missing,
    /// The pool's jobs run in another namespace than the binding's.
    OtherNamespace,
    /// The pool sends its jobs to another cluster.
    OtherCluster,
    /// A `PrefectWorkPool` owns the template: the entry is to be added there.
    Managed,
    /// Mode `Observe`, and no entry names the Secret.
    Absent,
}

//! The status of a binding: what users read.
//!
//! Input: what a reconcile came to.
//! Output: the type and schema of the status.
//! Invariants: no field contains a secret value. Lists are bounded.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::entry_record::InjectedEntry;

/// The last result of the operator for the binding. The status changes only if the result changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DopplerPrefectBindingStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `BlockResolved`, `SecretSynced`, `Injected` (absent if the binding names no pool and no Jobs,
    /// unless a pod of a flow run does not start because of the Secret), `Ready`, and for clients of
    /// kstatus, such as Flux: `Stalled` while only a change by a user can help, or `Reconciling` while
    /// the operator tries again by itself.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The resolved Doppler project; with `spec.doppler.configs`, that of the last config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The resolved Doppler config; with `spec.doppler.configs`, the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// With `spec.doppler.configs`, the resolved configs in their order: the Secret holds the values
    /// of all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<ResolvedConfig>,
    /// Name of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// Name of the Secret that the admission policy adds to Jobs. Absent without
    /// `spec.inject.jobs`, and until the Secret exists and belongs to the binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub job_secret_name: Option<String>,
    /// The Secret with files that the admission policy mounts in Jobs. Absent if no item of
    /// `spec.inject.jobs` has a mount, and until that Secret exists and belongs to the binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_files: Option<JobFiles>,
    /// Number of keys in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_count: Option<i32>,
    /// Names in the Doppler config that the operator excludes from the Secret, each with the
    /// reason. The status lists at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub excluded_keys: Vec<ExcludedKey>,
    /// Keyed hash of the content, as in the Secret's annotation `doppler-prefect.dev/content-hash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    /// The Secret with the files of `spec.managedSecret.files`. Absent without files, and until it was
    /// written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesStatus>,
    /// Time of the last change of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change_time: Option<Time>,
    /// The last value of the annotation `doppler-prefect.dev/refresh` for which the operator has read
    /// block and config, and the Secret holds what it read. During an outage, the value appears once
    /// the upstream answers again. `kubectl wait --for=jsonpath='{.status.refreshed}'=VALUE` waits
    /// for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refreshed: Option<String>,
    /// Version of the Prefect server, as the server states it. Absent for Prefect Cloud, and until the
    /// event socket of the server is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefect_version: Option<String>,
    /// State of each work pool that the binding names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub work_pools: Vec<WorkPoolStatus>,
    /// The entries that the operator wrote, or is about to write, to work pools, at most 64. It
    /// removes them when the binding no longer asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub injected_entries: Vec<InjectedEntry>,
}

/// A Doppler config whose values the Secret holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResolvedConfig {
    /// Doppler project.
    pub project: String,
    /// Doppler config.
    pub config: String,
}

/// The Secret with the files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilesStatus {
    /// Name of the Secret with the files.
    pub secret_name: String,
    /// Number of files in it.
    pub file_count: i32,
    /// Keyed hash of the files, as in the annotation of that Secret.
    pub content_hash: String,
}

/// The Secret with files that the admission policy mounts in Jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobFiles {
    /// Name of the Secret with the files.
    pub secret_name: String,
    /// Name of its volume in the pods.
    pub volume_name: String,
}

/// A name that the operator excludes from the Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExcludedKey {
    /// Name of the secret in Doppler.
    pub name: String,
    /// Why the operator excludes it, and how to include it.
    pub reason: String,
}

/// Last observed state of a work pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkPoolStatus {
    /// Name of the work pool.
    pub name: String,
    /// What the operator observed or did. Absent until the first read of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WorkPoolState>,
    /// Keys of the Secret that the `env` of the pool or a later `envFrom` entry overrides. The
    /// status lists at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadowed_keys: Vec<String>,
    /// Namespaces to which deployments of the pool send jobs, and which do not have the Secret. The
    /// status lists at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unserved_namespaces: Vec<String>,
    /// With `runs: Selected`, deployments that choose the Secret in the variable of the pool. The
    /// status lists at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
}

// The schema of an optional enum shows this description, and not that of the field.
/// What the operator observed or did at the work pool. Absent until the first read of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WorkPoolState {
    /// The operator wrote the entry.
    Patched,
    /// Another client wrote an entry that names the Secret.
    AlreadyPresent,
    /// Another client keeps removing the entry. The operator restores it with backoff.
    Contested,
    /// The operator cannot add the entry: the template is empty, is not of a kubernetes pool, has a
    /// placeholder in that place without the entry in its default, or has a variable of its own
    /// under the name by which runs should choose, or something at the path of the mount.
    NotEditable,
    /// The credentials have no permission to read or edit the pool.
    Forbidden,
    /// The pool does not exist.
    Missing,
    /// The jobs of the pool run in another namespace than the binding's.
    OtherNamespace,
    /// The pool sends its jobs to another cluster.
    OtherCluster,
    /// A `PrefectWorkPool` owns the template. Add the entry there.
    Managed,
    /// The mode is `Observe`, and no entry names the Secret.
    Absent,
}

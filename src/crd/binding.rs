//! The resource `DopplerPrefectBinding` and its spec.
//!
//! Input: YAML that users apply.
//! Output: the typed resource, and its CRD.
//! Invariants: the API server checks the validation rules at apply; the operator still works with a
//! spec that an older version of the rules has accepted.

use std::time::Duration;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    doppler::DopplerSpec, inject::InjectSpec, interval::interval, prefect::PrefectSpec,
    secret::ManagedSecretSpec, status::DopplerPrefectBindingStatus,
};

/// Syncs one Doppler config to one Kubernetes Secret, and injects the Secret into the job pods of
/// Prefect work pools.
///
/// A binding belongs in the namespace in which the job pods run. The operator writes the Secret
/// there, and reads every Secret or ConfigMap that the binding refers to there.
#[allow(
    clippy::duplicated_attributes,
    reason = "printer columns repeat their attributes"
)]
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "doppler-prefect.dev",
    version = "v1alpha1",
    kind = "DopplerPrefectBinding",
    plural = "dopplerprefectbindings",
    shortname = "dpb",
    category = "doppler",
    namespaced,
    status = "DopplerPrefectBindingStatus",
    derive = "PartialEq",
    validation = Rule::new(
        "(has(self.spec.managedSecret) && has(self.spec.managedSecret.name) ? self.spec.managedSecret.name : self.metadata.name) != 'none'"
    ).message(
        "no Secret may have the name none, because a run that chooses none gets no values: set spec.managedSecret.name"
    ),
    doc = "Syncs one Doppler config to one Kubernetes Secret, and injects the Secret into the job pods of Prefect work pools. Create it in the namespace in which the job pods run.",
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
    printcolumn(name = "Project", type_ = "string", json_path = ".status.project"),
    printcolumn(name = "Config", type_ = "string", json_path = ".status.config"),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keyCount"),
    printcolumn(name = "Changed", type_ = "date", json_path = ".status.lastChangeTime"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Secret",
        type_ = "string",
        json_path = ".status.secretName",
        priority = "1"
    ),
    printcolumn(
        name = "Pools",
        type_ = "string",
        json_path = ".status.workPools[*].name",
        priority = "1"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = "1"
    )
)]
#[x_kube(validation = Rule::new(
    "has(self.prefect) || (has(self.doppler) && (has(self.doppler.configs) ? has(self.doppler.accessToken) || (has(self.doppler.identity) && has(self.doppler.identity.id)) || self.doppler.configs.all(c, has(c.accessToken)) : has(self.doppler.project) && has(self.doppler.config) && (has(self.doppler.accessToken) || (has(self.doppler.identity) && has(self.doppler.identity.id)))))"
).message(
    "the source of the Doppler project, config and token is missing: set spec.prefect.server or spec.prefect.serverRef (the operator reads the block there), or all three of spec.doppler.project, spec.doppler.config and spec.doppler.accessToken (or spec.doppler.identity with its id), or spec.doppler.configs and the token of each"
))]
#[x_kube(validation = Rule::new(
    "has(self.prefect) || !has(self.inject) || !has(self.inject.workPools) || size(self.inject.workPools) == 0"
).message(
    "spec.inject.workPools names work pools of a Prefect server: set spec.prefect.server or spec.prefect.serverRef as well"
))]
#[x_kube(validation = Rule::new(
    "!has(self.inject) || (has(self.managedSecret) && has(self.managedSecret.files) && size(self.managedSecret.files) > 0) || ((!has(self.inject.workPools) || self.inject.workPools.all(pool, !has(pool.mount))) && (!has(self.inject.jobs) || self.inject.jobs.all(job, !has(job.mount))))"
).message("mount needs files: set spec.managedSecret.files as well"))]
#[x_kube(validation = Rule::new(
    "!has(self.inject) || !has(self.managedSecret) || !has(self.managedSecret.files) || ((!has(self.inject.workPools) || self.inject.workPools.all(pool, !has(pool.mount) || !has(pool.mount.files) || pool.mount.files.all(file, file in self.managedSecret.files))) && (!has(self.inject.jobs) || self.inject.jobs.all(job, !has(job.mount) || !has(job.mount.files) || job.mount.files.all(file, file in self.managedSecret.files))))"
).message("mount.files names a file that spec.managedSecret.files does not have: add it there, or correct the name"))]
#[serde(rename_all = "camelCase")]
pub struct DopplerPrefectBindingSpec {
    /// Stops the sync: the operator reads and writes nothing, and the Secret and the pool entries
    /// stay as they are. Deleting the binding still cleans up. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// The interval at which the operator polls the block and the config, with 10 % jitter: hours,
    /// minutes and seconds, from `10s` to `24h`, such as `30s`, `5m` or `1h30m`. Default: the
    /// operator's `--refresh-interval` (`60s` unless changed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && size(self) > 0")
        .message("use a duration of hours, minutes and seconds such as 30s, 5m or 1h"))]
    #[x_kube(validation = Rule::new(
        "!self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') || size(self) == 0 || (duration(self) >= duration('10s') && duration(self) <= duration('24h'))"
    ).message("use a duration from 10s to 24h"))]
    pub refresh_interval: Option<String>,

    /// Whether the operator also reads the config when a worker starts a flow run in one of the work
    /// pools in `inject`, before the worker creates the Job, at most once a second. A run then starts
    /// with the values that Doppler has at that moment. The run never waits: if the read fails or takes
    /// too long, it starts with the last good values. Without effect if the Prefect server does not
    /// report flow runs. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_on_run: Option<bool>,

    /// The Prefect server, and the block on it that holds the Doppler project, config and token.
    /// Required unless `doppler` sets all three and `inject` names no work pool. An empty object is the
    /// block `doppler-config` on the default server of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefect: Option<PrefectSpec>,

    /// The Doppler config to read, and the names to include. Each of `project`, `config` and
    /// `accessToken` (or `identity`) overrides the block's value. `configs` names several configs
    /// instead.
    #[serde(default, skip_serializing_if = "is_default")]
    pub doppler: DopplerSpec,

    /// The Kubernetes Secret that the operator writes, and the Secret with the files if there are any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub managed_secret: ManagedSecretSpec,

    /// The work pools and the Jobs whose pods get the Secret as environment variables, and files as
    /// mounts. Default: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inject: InjectSpec,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl DopplerPrefectBindingSpec {
    /// Whether the start of a flow run causes a read, by default true.
    #[must_use]
    pub fn refresh_on_run(&self) -> bool {
        self.refresh_on_run.unwrap_or(true)
    }

    /// The polling interval of the binding. `None` if it sets none, or if the text is not a valid
    /// duration.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        interval(self.refresh_interval.as_deref()?)
    }
}

impl DopplerPrefectBinding {
    /// Name of the Secret of this binding.
    #[must_use]
    pub fn secret_name(&self) -> &str {
        self.spec
            .managed_secret
            .name
            .as_deref()
            .or(self.metadata.name.as_deref())
            .unwrap_or_default()
    }
}

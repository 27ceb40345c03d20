//! What users write and read: the `DopplerPrefectBinding` resource.
//!
//! In: YAML that people apply. Out: typed spec and status, and the CRD itself ([`crd_yaml`]). The field docs are the user manual that
//! `kubectl explain` shows; the rules are checked by the API server at apply. This room never talks to anything.

mod binding_ref;
mod doppler;
mod inject;
mod prefect;
mod references;
mod secret;
mod status;
mod uid;

pub use binding_ref::BindingRef;
pub use doppler::{AccessToken, DopplerSpec, NameTransformer};
pub use inject::{InjectMode, InjectSpec, WorkPoolSpec};
pub use prefect::{ApiKey, BasicAuth, BlockSpec, CaBundle, Header, PrefectSpec, ServerSpec};
pub use references::{InlineValue, KeyRef, KeyRefSource, ReferenceKind, SecretKeySource};
pub use secret::{DeletionPolicy, ManagedSecretSpec};
pub use status::{DopplerPrefectBindingStatus, ExcludedKey, WorkPoolState, WorkPoolStatus};
pub use uid::Uid;

use std::time::Duration;

use kube::{CustomResource, CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize};

/// Label on every Secret that the operator wrote, with the value [`MANAGED_BY`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`], name of the field owner and of the Event reporter.
pub const MANAGED_BY: &str = "doppler-prefect-operator";
/// Finalizer that a binding carries while a work pool refers to its Secret.
pub const FINALIZER: &str = "doppler-prefect.dev/injected";
/// Annotation of a binding that notes the pool entries the operator may have written.
pub const INJECTED_ANNOTATION: &str = "doppler-prefect.dev/injected";

/// Brings the secrets of one Doppler config into one Kubernetes Secret and into the job pods of Prefect work pools.
///
/// A binding lives in the namespace in which the job pods run. Its Secret is written there, and every Secret or ConfigMap that it names is read
/// there.
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
    doc = "Brings the secrets of one Doppler config into one Kubernetes Secret and into the job pods of Prefect work pools. It lives in the namespace in which the job pods run.",
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
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keys"),
    printcolumn(name = "Changed", type_ = "date", json_path = ".status.lastChanged"),
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
    "has(self.prefect) || (has(self.doppler) && has(self.doppler.project) && has(self.doppler.config) && has(self.doppler.accessToken))"
).message(
    "nothing says where the Doppler project, config and token come from: give spec.prefect.server (the block is read there), or all three of spec.doppler.project, spec.doppler.config and spec.doppler.accessToken"
))]
#[x_kube(validation = Rule::new(
    "has(self.prefect) || !has(self.inject) || !has(self.inject.workPools) || size(self.inject.workPools) == 0"
).message(
    "spec.inject.workPools names work pools of a Prefect server: give spec.prefect.server as well"
))]
#[serde(rename_all = "camelCase")]
pub struct DopplerPrefectBindingSpec {
    /// Leave everything as it is: nothing is fetched or written, pool entries stay, and deleting the binding still cleans up. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// How often the block and the config are read again, jittered by 10 %: `30s`, `5m`, `1h`, from `10s` to `24h`. Default: the operator's
    /// `--refresh-interval` (60 s unless changed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && size(self) > 0")
        .message("write a duration of hours, minutes and seconds such as 30s, 5m or 1h"))]
    #[x_kube(validation = Rule::new(
        "!self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') || size(self) == 0 || (duration(self) >= duration('10s') && duration(self) <= duration('24h'))"
    ).message("write a duration from 10s to 24h"))]
    pub refresh_interval: Option<String>,

    /// The Prefect server, and the block on it that names the Doppler project, config and token. May be left out only if `doppler` gives all
    /// three and no work pool is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefect: Option<PrefectSpec>,

    /// What is read from Doppler. Each of `project`, `config` and `accessToken` overrides what the block says.
    #[serde(default, skip_serializing_if = "is_default")]
    pub doppler: DopplerSpec,

    /// The Kubernetes Secret that is written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub managed_secret: ManagedSecretSpec,

    /// Where the Secret is made the environment of job pods.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inject: InjectSpec,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl DopplerPrefectBindingSpec {
    /// The interval between two polls, if the binding sets one. `None` also for a text that the API server would have refused.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        let span: jiff::SignedDuration = self.refresh_interval.as_deref()?.parse().ok()?;
        Duration::try_from(span).ok().filter(|interval| {
            (Duration::from_secs(10)..=Duration::from_hours(24)).contains(interval)
        })
    }
}

impl DopplerPrefectBinding {
    /// Name of the Secret that this binding writes.
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

/// The CRD as YAML, as `doppler-prefect-operator crd` prints it and as `crds/` holds it.
///
/// # Errors
/// If the CRD cannot be written as YAML, which only a fault in this room can cause.
pub fn crd_yaml() -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(&DopplerPrefectBinding::crd())
}

//! Which workloads restart when the content of the Secret changes.
//!
//! Input: `spec.managedSecret.restart` as users write it.
//! Output: its type and schema, and the names that the operator writes to workloads.
//! Invariants: data only; the doc comments are the manual of the fields. List items have no schema
//! defaults, so that a second apply changes nothing.

use std::{fmt, time::Duration};

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::interval::interval;

/// Label of a workload that restarts with the Secrets that its pods use.
pub const RESTART_LABEL: &str = "doppler-prefect.dev/restart";
/// Annotation of a pod template: for each binding, `BINDING=HASH` of the content that its pods have,
/// with a comma between two.
pub const CONTENT_HASHES_ANNOTATION: &str = "doppler-prefect.dev/content-hash";
/// Annotation of a pod template: when the operator last changed [`CONTENT_HASHES_ANNOTATION`].
pub const RESTARTED_AT_ANNOTATION: &str = "doppler-prefect.dev/restarted-at";

/// The interval between two restarts of a workload if the binding does not set it.
pub const DEFAULT_MIN_INTERVAL: Duration = Duration::from_mins(1);

/// Restarts workloads when the content of the Secret changes: flows served by `flow.serve()`, Prefect
/// workers, and everything else that reads its environment once. Runs of work pools need no restart.
///
/// The operator sets an annotation on the pod template, as `kubectl rollout restart` does, and the
/// workload's own controller replaces the pods. It restarts the `targets`, and every workload of the
/// namespace with the label `doppler-prefect.dev/restart: "true"`, if their pods use the Secret in
/// `env`, `envFrom` or a volume. It needs the permissions that the chart grants with `rbac.restarts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartSpec {
    /// Workloads of the binding's namespace. Default: only those with the label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".to_owned(), "name".to_owned()]))]
    pub targets: Vec<RestartTarget>,
    /// The least time between two restarts of a workload, from `10s` to `24h`, such as `30s`, `10m` or
    /// `1h`. A change within it restarts the workload at its end, once for all changes. Default: `1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && size(self) > 0")
        .message("use a duration of hours, minutes and seconds such as 30s, 10m or 1h"))]
    #[x_kube(validation = Rule::new(
        "!self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') || size(self) == 0 || (duration(self) >= duration('10s') && duration(self) <= duration('24h'))"
    ).message("use a duration from 10s to 24h"))]
    pub min_interval: Option<String>,
    /// Globs of keys whose values restart nothing, such as `FLAG_*`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 200)))]
    #[x_kube(validation = super::plain_text::plain_texts())]
    pub ignore: Vec<String>,
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct RestartTarget {
    /// `Deployment`, `StatefulSet`, `DaemonSet`, or `Rollout` of Argo Rollouts. A `CronJob` needs no
    /// restart: its next Job has the new values.
    pub kind: RestartKind,
    /// Name of the workload, such as `served-flows`.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

// The schema of an enum shows this description.
/// Kinds of workloads that restart when their pod template changes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum RestartKind {
    /// `apps/v1`
    Deployment,
    /// `apps/v1`
    StatefulSet,
    /// `apps/v1`
    DaemonSet,
    /// `argoproj.io/v1alpha1`
    Rollout,
}

impl RestartKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Rollout,
    ];

    /// The path of its objects in a namespace, for the API server.
    #[must_use]
    pub fn url_path(self, namespace: &str) -> String {
        let (group, plural) = match self {
            Self::Deployment => ("apps/v1", "deployments"),
            Self::StatefulSet => ("apps/v1", "statefulsets"),
            Self::DaemonSet => ("apps/v1", "daemonsets"),
            Self::Rollout => ("argoproj.io/v1alpha1", "rollouts"),
        };
        format!("/apis/{group}/namespaces/{namespace}/{plural}")
    }
}

impl fmt::Display for RestartKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Rollout => "Rollout",
        })
    }
}

impl fmt::Display for RestartTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl RestartSpec {
    /// The least time between two restarts of a workload.
    #[must_use]
    pub fn min_interval(&self) -> Duration {
        let given = self.min_interval.as_deref().and_then(interval);
        given.unwrap_or(DEFAULT_MIN_INTERVAL)
    }
}

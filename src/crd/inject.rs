//! The work pools and the Jobs whose pods get the Secret.
//!
//! Input: `spec.inject` as users write it.
//! Output: its type and schema.
//! Invariants: data only. List items have no schema defaults, so that a second apply changes nothing.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{jobs::JobSelector, mount::MountSpec};

/// The work pools and the Jobs whose pods get the Secret as environment variables, and files as mounts.
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

/// The variable of a pool by which deployments choose a Secret, unless the spec names another.
pub const DEFAULT_VARIABLE: &str = "doppler_config";
/// The value of the variable that chooses no Secret. No binding may have a Secret of this name.
pub const NO_CONFIG: &str = "none";

/// A Prefect work pool.
///
/// The schema has no defaults in it: `kubectl apply` replaces a list as a whole, so that a default
/// in a list item makes each apply a change. The methods fill the defaults in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(description = "A Prefect work pool.")]
#[x_kube(validation = Rule::new(
    "!has(self.variable) || (has(self.runs) && self.runs == 'Selected')"
).message("variable has a meaning only with runs: Selected: set that as well, or remove variable"))]
#[x_kube(validation = Rule::new(
    "!has(self.runs) || self.runs != 'Selected' || !has(self.optional) || self.optional"
).message(
    "with runs: Selected, a run that chooses nothing has no Secret, so that the entry must be optional: remove optional: false"
))]
#[x_kube(validation = Rule::new(
    "!has(self.mount) || !has(self.runs) || self.runs != 'Selected'"
).message(
    "mount and runs: Selected exclude each other, because the bindings of one variable would share one volume with one path: use a work pool for each, or inject.jobs, which selects by label"
))]
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
    /// Which runs of the pool get the Secret. Default: `All`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<Runs>,
    /// With `runs: Selected`, the variable of the pool by which a deployment or a run chooses a
    /// Secret, by its name. All bindings of a pool use the same one; a binding with another one is
    /// not injected. It must not be a variable that the pool already has. Default:
    /// `doppler_config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub variable: Option<String>,
    /// Whether the `cluster_config` of the pool names the cluster of this binding. Without it, the
    /// operator does not write a pool with a `cluster_config`, because it cannot tell which cluster
    /// that is. Risk: if it names another cluster, its jobs start without the values, or never with
    /// `optional: false`; if that cluster has a Secret of this name, they get the values of that one.
    /// Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_cluster: Option<bool>,
    /// Mounts files of `spec.managedSecret.files` in the pods of the pool. The volume is optional as
    /// the entry is. If the template, or another binding, has something at the path, the pool stays as it
    /// is, and the reason is `PoolMountTaken`. Default: no mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<MountSpec>,
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

    /// Whether pods start without the Secret, by default true, and always if runs choose it.
    #[must_use]
    pub fn optional(&self) -> bool {
        self.optional.unwrap_or(true) || self.variable().is_some()
    }

    /// The variable by which runs choose the Secret. None if all runs get it.
    #[must_use]
    pub fn variable(&self) -> Option<&str> {
        match self.runs.unwrap_or_default() {
            Runs::All => None,
            Runs::Selected => Some(self.variable.as_deref().unwrap_or(DEFAULT_VARIABLE)),
        }
    }
}

/// Whether a text can name the variable of a pool.
#[must_use]
pub fn is_variable(text: &str) -> bool {
    let mut characters = text.chars();
    let first = characters.next();
    text.len() <= 63
        && first.is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|character| character.is_ascii_alphanumeric() || character == '_')
}

// The schema of an optional enum shows this description, and not that of the field.
/// `All`: each run of the pool gets the Secret. `Selected`: only runs that choose it in the variable
/// of the pool get it, such as a deployment with `job_variables: {doppler_config: my-secret}` or a
/// run with `-jv doppler_config=my-secret`. It wins over the Secrets that all runs get. Default:
/// `All`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Runs {
    /// Each run of the pool gets the Secret.
    #[default]
    All,
    /// A run gets the Secret if its deployment, or the run itself, chooses it.
    Selected,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_variable_of_selected_runs_only() {
        let pool = |runs, variable: Option<&str>| WorkPoolSpec {
            runs,
            variable: variable.map(str::to_owned),
            optional: Some(false),
            ..WorkPoolSpec::default()
        };
        assert_eq!(pool(None, Some("x")).variable(), None);
        assert_eq!(pool(Some(Runs::All), None).variable(), None);
        let default = pool(Some(Runs::Selected), None);
        assert_eq!(default.variable(), Some("doppler_config"));
        assert!(
            default.optional(),
            "a run that chooses nothing has to start"
        );
        assert_eq!(pool(Some(Runs::Selected), Some("x")).variable(), Some("x"));
    }

    #[test]
    fn a_variable_is_an_identifier() {
        for (text, expected) in [
            ("doppler_config", true),
            ("_X9", true),
            ("9x", false),
            ("a-b", false),
            ("a.b", false),
            ("ä", false),
            ("", false),
        ] {
            assert_eq!(is_variable(text), expected, "{text}");
        }
        assert!(is_variable(&"x".repeat(63)) && !is_variable(&"x".repeat(64)));
    }
}

//! A work pool, and where its deployments send their jobs.
//!
//! Input: the answers of a Prefect server.
//! Output: the template as the server wrote it, and the namespaces of deployments that override the
//! namespace of the pool.
//! Invariants: a template may contain secrets, so [`WorkPool`] has no `Debug`. The number of
//! namespaces and names is bounded.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// Namespaces that are listed: more than the status shows.
const MAX_NAMESPACES: usize = 64;
/// Deployments that are named for each namespace.
pub(super) const MAX_NAMES: usize = 20;

/// A work pool.
#[derive(Clone, Deserialize)]
pub struct WorkPool {
    /// Its type, such as `kubernetes`.
    #[serde(rename = "type")]
    pub pool_type: String,
    /// Its template, as the server wrote it.
    pub base_job_template: Box<RawValue>,
}

/// The namespaces of deployments that override the namespace of their work pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentNamespaces {
    /// Each such namespace, with the names of some of these deployments.
    pub namespaces: BTreeMap<String, Vec<String>>,
    /// The pool has more deployments than this number, and only the first by name were read.
    pub truncated_at: Option<usize>,
}

/// The parts of a deployment that are used.
#[derive(Deserialize)]
pub(super) struct Deployment {
    #[serde(default)]
    name: String,
    #[serde(default)]
    job_variables: Option<JobVariables>,
}

#[derive(Deserialize)]
struct JobVariables {
    #[serde(default)]
    namespace: Value,
}

impl DeploymentNamespaces {
    /// Adds the namespace of a deployment, if it overrides that of the pool.
    pub(super) fn add(&mut self, deployment: Deployment) {
        let variables = deployment.job_variables;
        let Some(Value::String(namespace)) = variables.map(|variables| variables.namespace) else {
            return;
        };
        let is_full = self.namespaces.len() >= MAX_NAMESPACES;
        if namespace.is_empty() || (is_full && !self.namespaces.contains_key(&namespace)) {
            return;
        }
        let names = self.namespaces.entry(namespace).or_default();
        if names.len() < MAX_NAMES {
            names.push(deployment.name);
        }
    }
}

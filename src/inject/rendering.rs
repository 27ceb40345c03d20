//! A base job template as Prefect's worker renders it for a flow run.
//!
//! Input: the template, and the job variables of a deployment.
//! Output: parts of `job_configuration` with the placeholders replaced by the values of variables,
//! and the names of the variables that decide these parts.
//! Invariants: pure. The rules are those of `BaseJobConfiguration.from_template_and_values` of
//! prefect 3.8 and of `KubernetesWorkerJobConfiguration`: tests compare the two.

mod node;
mod placeholder;
mod python_text;
mod variables;

use std::collections::BTreeSet;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use self::placeholder::{Kind, placeholders, whole_placeholder};

pub(super) use self::node::{Node, Text};
pub(super) use self::variables::Variables;

/// The path from `job_configuration` to the spec of the pod.
const POD: [&str; 4] = ["job_manifest", "spec", "template", "spec"];

/// A parsed base job template.
pub(super) struct JobTemplate {
    configuration: Value,
    /// The defaults of variables, without those that are null.
    defaults: Map<String, Value>,
}

/// The parts of a template that the operator reads, for one set of values.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    template: &'a JobTemplate,
    variables: &'a Variables<'a>,
}

impl JobTemplate {
    /// Parses a template. A part that it does not have is missing.
    pub(super) fn parse(template: &RawValue) -> Self {
        let mut parsed: Value = serde_json::from_str(template.get()).unwrap_or_default();
        let mut part = |key: &str| parsed.get_mut(key).map(Value::take).unwrap_or_default();
        let configuration = part("job_configuration");
        let mut variables = part("variables");
        let properties = match variables.get_mut("properties").map(Value::take) {
            Some(Value::Object(properties)) => properties,
            _ => Map::new(),
        };
        let default = |(name, mut attributes): (String, Value)| {
            let default = attributes.get_mut("default")?.take();
            (!default.is_null()).then_some((name, default))
        };
        Self {
            configuration,
            defaults: properties.into_iter().filter_map(default).collect(),
        }
    }

    /// The variables as runs without overrides have them.
    pub(super) fn defaults(&self) -> Variables<'_> {
        Variables::new(&self.defaults)
    }

    /// The variables of a deployment. None if the worker cannot use its job variables.
    pub(super) fn overridden(&self, job_variables: &Map<String, Value>) -> Option<Variables<'_>> {
        Variables::overridden(&self.defaults, job_variables)
    }

    /// The job for these variables.
    pub(super) const fn job<'a>(&'a self, variables: &'a Variables<'a>) -> Job<'a> {
        Job {
            template: self,
            variables,
        }
    }

    /// The variables that decide where a job runs and which sources its environment has.
    pub(super) fn destination_variables(&self) -> BTreeSet<String> {
        let mut names = self.source_variables();
        for key in ["namespace", "cluster_config"] {
            collect_variables(&self.configuration[key], &mut names);
        }
        names
    }

    /// The variables that decide which sources the environment of a job has.
    fn source_variables(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut part = &self.configuration;
        for key in POD.into_iter().chain(["containers"]) {
            part = &part[key];
            if part.is_string() {
                collect_variables(part, &mut names);
                return names;
            }
        }
        for container in part.as_array().into_iter().flatten() {
            // The worker drops a placeholder without a value, and the next one becomes the first.
            if container.is_string() {
                collect_variables(container, &mut names);
                continue;
            }
            collect_variables(&container["envFrom"], &mut names);
            break;
        }
        names
    }
}

impl<'a> Job<'a> {
    /// A member of `job_configuration`.
    pub(super) fn get(self, key: &str) -> Node<'a> {
        let configuration = &self.template.configuration;
        Node::template(configuration, self.variables).get(key)
    }

    /// The spec of the pod.
    pub(super) fn pod(self) -> Node<'a> {
        let configuration = Node::template(&self.template.configuration, self.variables);
        POD.iter().fold(configuration, |part, key| part.get(key))
    }

    /// The first container of the pod.
    pub(super) fn container(self) -> Node<'a> {
        let containers = self.pod().get("containers");
        containers.elements().next().unwrap_or(Node::Missing)
    }

    /// `job_configuration.env`, in the parts of which the later wins. The worker merges the default
    /// of the variable `env` into it, whether the template names that variable or not.
    pub(super) fn env(self) -> Vec<Node<'a>> {
        let base = self.template.configuration.get("env");
        let default = self.variables.default_of("env").filter(|env| is_true(env));
        let parts = match (base, default) {
            (Some(base @ Value::Object(_)), default) => [Some(base), default],
            (_, Some(default)) => [Some(default), None],
            (base, None) => [base, None],
        };
        let is_merged = matches!(parts[0], Some(Value::Object(_)));
        // The value of a deployment wins over both, if they are merged.
        let override_ = self.variables.get("env").filter(|_| is_merged);
        let parts = parts.into_iter().chain([override_]).flatten();
        parts
            .map(|part| Node::template(part, self.variables))
            .collect()
    }
}

/// The variable of a text that is a single placeholder, without a path into its value.
pub(super) fn variable_of_placeholder(text: &str) -> Option<&str> {
    let found = whole_placeholder(text).filter(|found| found.kind == Kind::Variable)?;
    (variables::root(found.name) == found.name).then_some(found.name)
}

/// Python's truth of a value.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// Adds the variables that the placeholders in a value name.
fn collect_variables(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => names.extend(
            placeholders(text)
                .filter(|found| found.kind == Kind::Variable)
                .map(|found| variables::root(found.name)),
        ),
        Value::Array(items) => items.iter().for_each(|item| collect_variables(item, names)),
        Value::Object(members) => members
            .values()
            .for_each(|member| collect_variables(member, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;

//! Applies the schema of the CRD to a binding, as the API server does.
//!
//! Input: a binding as it was written.
//! Output: the binding as the API server would store it, and what the API server would refuse.
//! Invariants: pure. Messages name fields, never their values, which may be inline keys.

use std::{collections::BTreeSet, sync::LazyLock};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::rules;
use crate::crd::{ClusterPrefectServer, DopplerPrefectBinding};

/// The API version and the kind of a binding.
pub(super) const API_VERSION: &str = "doppler-prefect.dev/v1alpha1";
/// Problems that are reported for one binding.
const MAX_PROBLEMS: usize = 20;
/// The fields of `metadata`.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The schema of a whole binding. A file may have many bindings, so that it is computed once.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| schema(&DopplerPrefectBinding::crd()));
/// The schema of a whole `ClusterPrefectServer`.
static SERVER_SCHEMA: LazyLock<Value> = LazyLock::new(|| schema(&ClusterPrefectServer::crd()));

fn schema(crd: &CustomResourceDefinition) -> Value {
    let crd = serde_json::to_value(crd).unwrap_or_default();
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema");
    let mut schema = schema.cloned().unwrap_or_default();
    // The API server adds these fields itself.
    for (name, kind) in [
        ("apiVersion", "string"),
        ("kind", "string"),
        ("metadata", "object"),
    ] {
        schema["properties"][name] = json!({"type": kind});
    }
    schema
}

/// The binding as the API server would store it: a field without a value is absent, and defaults are
/// filled in. The status is dropped.
pub(super) fn stored(binding: &Value) -> Value {
    stored_as(binding, &SCHEMA)
}

/// The same for a `ClusterPrefectServer`.
pub(super) fn stored_server(server: &Value) -> Value {
    stored_as(server, &SERVER_SCHEMA)
}

fn stored_as(written: &Value, schema: &Value) -> Value {
    let mut stored = written.clone();
    if let Some(fields) = stored.as_object_mut() {
        fields.remove("status");
    }
    prune(&mut stored, schema, true);
    stored
}

/// The binding without the fields that have no value. A server-side apply would refuse them.
pub(super) fn without_empty_fields(binding: &Value) -> Value {
    let mut pruned = binding.clone();
    prune(&mut pruned, &SCHEMA, false);
    pruned
}

fn prune(value: &mut Value, schema: &Value, fill_defaults: bool) {
    match value {
        Value::Object(fields) => {
            let properties = schema["properties"].as_object();
            fields.retain(|name, value| {
                let field = properties.and_then(|properties| properties.get(name));
                let field = field.unwrap_or(&schema["additionalProperties"]);
                !(value.is_null() && field.is_object() && field["nullable"] != true)
            });
            for (name, field) in properties.into_iter().flatten() {
                if let Some(default) = field.get("default").filter(|_| fill_defaults)
                    && !fields.contains_key(name)
                    && name != "status"
                {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(value) = fields.get_mut(name) {
                    prune(value, field, fill_defaults);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                prune(item, &schema["items"], fill_defaults);
            }
        }
        _ => {}
    }
}

/// What the API server would refuse in a binding that it would store.
pub(super) fn problems(stored: &Value) -> Vec<String> {
    problems_with(stored, &SCHEMA)
}

/// The same for a `ClusterPrefectServer`.
pub(super) fn server_problems(stored: &Value) -> Vec<String> {
    problems_with(stored, &SERVER_SCHEMA)
}

fn problems_with(stored: &Value, schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    metadata(&stored["metadata"], &mut found);
    fields(stored, schema, "", &mut found);
    if found.is_empty() {
        // The API server evaluates rules only for values of the right form.
        check_rules(stored, schema, "", &mut found);
    }
    found.truncate(MAX_PROBLEMS);
    found
}

fn metadata(metadata: &Value, found: &mut Vec<String>) {
    let empty = Map::new();
    let metadata = metadata.as_object().unwrap_or(&empty);
    for name in metadata.keys() {
        if !METADATA.contains(&name.as_str()) {
            found.push(format!("metadata.{name}: unknown field"));
        }
    }
    for name in ["labels", "annotations"] {
        let map = metadata.get(name).and_then(Value::as_object);
        if map.is_some_and(|map| map.values().any(|value| !value.is_string())) {
            found.push(format!(
                "metadata.{name}: a value is not a string: quote it"
            ));
        }
    }
    let name = metadata.get("name").and_then(Value::as_str);
    if !name.is_some_and(is_subdomain) {
        found.push(
            "metadata.name: set at most 253 lower case letters, digits, `-` and `.`, with a letter or digit at both ends of each part".to_owned(),
        );
    }
}

fn is_subdomain(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn fields(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    let mut refuse = |problem: &str| found.push(format!("{}: {problem}", shown(path)));
    // A list of allowed values does not contain null, also where null is allowed otherwise.
    if value.is_null() && schema["nullable"] == true && schema["enum"].is_null() {
        return;
    }
    let expected = schema["type"].as_str().unwrap_or_default();
    if !has_type(value, expected) {
        return refuse(&format!("has to be of type {expected}"));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        refuse(&format!("has to be one of {}", allowed.join(", ")));
    }
    match value {
        Value::String(text) => string(text, schema, &mut refuse),
        Value::Array(items) => array(items, schema, path, found),
        Value::Object(members) => object(members, schema, path, found),
        _ => {}
    }
}

fn has_type(value: &Value, expected: &str) -> bool {
    match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    }
}

fn limit(schema: &Value, name: &str) -> Option<usize> {
    schema[name]
        .as_u64()
        .and_then(|limit| limit.try_into().ok())
}

fn string(text: &str, schema: &Value, refuse: &mut impl FnMut(&str)) {
    let length = text.chars().count();
    if let Some(max) = limit(schema, "maxLength").filter(|max| length > *max) {
        refuse(&format!("may have at most {max} characters"));
    }
    if let Some(min) = limit(schema, "minLength").filter(|min| length < *min) {
        refuse(&format!("has to have at least {min} characters"));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text))
    {
        refuse(&format!("has to match {pattern}"));
    }
}

fn array(items: &[Value], schema: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(max) = limit(schema, "maxItems").filter(|max| items.len() > *max) {
        found.push(format!("{}: may have at most {max} items", shown(path)));
    }
    if let Some(min) = limit(schema, "minItems").filter(|min| items.len() < *min) {
        found.push(format!("{}: has to have at least {min} items", shown(path)));
    }
    for (at, item) in items.iter().enumerate() {
        fields(item, &schema["items"], &format!("{path}[{at}]"), found);
    }
    if let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array() {
        let key = |item: &Value| -> Vec<String> {
            let parts = keys.iter().filter_map(Value::as_str);
            parts.map(|part| item[part].to_string()).collect()
        };
        let mut seen = BTreeSet::new();
        if items.iter().any(|item| !seen.insert(key(item))) {
            let names: Vec<&str> = keys.iter().filter_map(Value::as_str).collect();
            found.push(format!(
                "{}: two items have the same {}",
                shown(path),
                names.join(" and ")
            ));
        }
    }
}

fn object(members: &Map<String, Value>, schema: &Value, path: &str, found: &mut Vec<String>) {
    let required = schema["required"].as_array().into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        if !members.contains_key(name) {
            found.push(
                format!("{path}.{name}: is required")
                    .trim_start_matches('.')
                    .to_owned(),
            );
        }
    }
    if let Some(max) = limit(schema, "maxProperties").filter(|max| members.len() > *max) {
        found.push(format!("{}: may have at most {max} fields", shown(path)));
    }
    if let Some(min) = limit(schema, "minProperties").filter(|min| members.len() < *min) {
        found.push(format!(
            "{}: has to have at least {min} fields",
            shown(path)
        ));
    }
    // The schema of `metadata` has no fields: `metadata` checks them.
    let is_open =
        schema.get("properties").is_none() && schema.get("additionalProperties").is_none();
    for (name, value) in members {
        let path = format!("{path}.{name}");
        let field = schema["properties"].get(name);
        match field.or(schema.get("additionalProperties")) {
            Some(field) => fields(value, field, &path, found),
            None if is_open => {}
            None => found.push(format!("{}: unknown field", shown(&path))),
        }
    }
}

fn check_rules(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let validations = schema["x-kubernetes-validations"].as_array();
    for validation in validations.into_iter().flatten() {
        let rule = validation["rule"].as_str().unwrap_or_default();
        if rules::holds(rule, value) == Some(false) {
            let fixed = validation["message"].as_str().unwrap_or(rule);
            let message = rules::message(rule, value).unwrap_or_else(|| fixed.to_owned());
            found.push(format!("{}: {message}", shown(path)));
        }
    }
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let field = schema["properties"].get(name);
                if let Some(field) = field.or(schema.get("additionalProperties")) {
                    check_rules(value, field, &format!("{path}.{name}"), found);
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                check_rules(item, &schema["items"], &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

fn shown(path: &str) -> &str {
    match path.trim_start_matches('.') {
        "" => "resource",
        path => path,
    }
}

#[cfg(test)]
mod tests;

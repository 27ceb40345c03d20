//! The configuration of kube-state-metrics for bindings.
//!
//! Input: the file, and the CRD.
//! Output: it parses as kube-state-metrics reads it, and every path leads to a field of the CRD.
//! Invariants: an unknown key of the configuration is an error here, because kube-state-metrics ignores
//! it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::world::CRD;

const CONFIGURATION: &str = include_str!("../../../deploy/kube-state-metrics.yaml");

/// A path, each part of which is the name of a field.
type Field = Vec<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    kind: String,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Resource {
    group_version_kind: Resolved,
    metric_name_prefix: String,
    labels_from_path: BTreeMap<String, Field>,
    #[serde(rename = "errorLogV")]
    error_level: u8,
    metrics: Vec<Metric>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolved {
    group: String,
    version: String,
    kind: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metric {
    name: String,
    help: String,
    each: Each,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, tag = "type")]
enum Each {
    Gauge { gauge: Source },
    Info { info: Source },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Source {
    #[serde(default)]
    path: Field,
    #[serde(default)]
    labels_from_path: BTreeMap<String, Field>,
    #[serde(default)]
    value_from: Field,
    #[serde(default)]
    nil_is_zero: bool,
}

/// The schema at a path below another one. A list gives a metric for each item.
fn below<'a>(schema: &'a Value, path: &[String]) -> Option<&'a Value> {
    let item = |schema: &'a Value| {
        if schema["type"] == "array" {
            &schema["items"]
        } else {
            schema
        }
    };
    let mut at = item(schema);
    for part in path {
        at = item(at["properties"].get(part)?);
    }
    Some(at)
}

#[test]
fn configuration_reads_fields_of_the_crd() -> Result<()> {
    let configuration: Configuration = serde_saphyr::from_str(CONFIGURATION)?;
    ensure!(configuration.kind == "CustomResourceStateMetrics");
    let [resource] = configuration.spec.resources.as_slice() else {
        anyhow::bail!("not one resource");
    };
    ensure!(resource.error_level > 0 && !resource.metric_name_prefix.is_empty());
    let crd: Value = serde_saphyr::from_str(CRD)?;
    let kind = &resource.group_version_kind;
    ensure!(crd["spec"]["group"] == kind.group && crd["spec"]["names"]["kind"] == kind.kind);
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    let mut served = versions.filter(|version| version["name"] == kind.version);
    let version = served.next().expect("the version is served");
    let mut schema = version["schema"]["openAPIV3Schema"].clone();
    // The CRD leaves the metadata to the API server.
    for (field, kind) in [
        ("namespace", "string"),
        ("name", "string"),
        ("generation", "integer"),
    ] {
        schema["properties"]["metadata"]["properties"][field]["type"] = kind.into();
    }
    for (label, path) in &resource.labels_from_path {
        ensure!(below(&schema, path).is_some(), "{label}: {path:?}");
    }
    let mut names = BTreeSet::new();
    for metric in &resource.metrics {
        let name = &metric.name;
        ensure!(names.insert(name) && !metric.help.is_empty(), "{name}");
        let (source, is_gauge) = match &metric.each {
            Each::Gauge { gauge } => (gauge, true),
            Each::Info { info } => (info, false),
        };
        let at = below(&schema, &source.path);
        let at = at.unwrap_or_else(|| panic!("{name}: {:?}", source.path));
        for (label, path) in &source.labels_from_path {
            ensure!(below(at, path).is_some(), "{name}: {label}: {path:?}");
        }
        if is_gauge {
            let value = below(at, &source.value_from);
            let kind = value.and_then(|value| value["type"].as_str());
            // Text: True, False, or a time.
            let is_number = matches!(kind, Some("integer" | "boolean" | "string"));
            ensure!(is_number, "{name}: {:?} is {kind:?}", source.value_from);
            ensure!(!source.nil_is_zero || kind == Some("boolean"), "{name}");
        } else {
            ensure!(source.value_from.is_empty(), "{name}");
        }
    }
    Ok(())
}

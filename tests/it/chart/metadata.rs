//! What the chart says of itself to Artifact Hub and to Helm.
//!
//! Input: Chart.yaml.
//! Output: its versions and annotations, compared with the crate, the CRDs and the examples.

use kube::ResourceExt;
use serde_json::Value;
use testkit::kubernetes;

use super::CHART;
use crate::world::{CRD, SERVER_CRD};

const SMALLEST: &str = include_str!("../../../examples/smallest.yaml");

fn chart() -> Value {
    let text = std::fs::read_to_string(format!("{CHART}/Chart.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn annotation(name: &str) -> Value {
    let text = chart()["annotations"][format!("artifacthub.io/{name}")].take();
    serde_saphyr::from_str(text.as_str().unwrap()).unwrap()
}

#[test]
fn versions_of_crate_chart_and_operator_agree() {
    let chart = chart();
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
}

#[test]
fn annotation_lists_the_kinds_of_the_crds() {
    let crds = [CRD, SERVER_CRD].map(|crd| kubernetes::documents(crd).unwrap());
    let crds = crds.concat();
    let installed = crds.iter().map(|crd| {
        let spec = &crd.data["spec"];
        let version = spec["versions"][0]["name"].clone();
        (
            Value::from(crd.name_any()),
            spec["names"]["kind"].clone(),
            version,
        )
    });
    let annotation = annotation("crds");
    let listed = annotation.as_array().unwrap().iter().map(|crd| {
        (
            crd["name"].clone(),
            crd["kind"].clone(),
            crd["version"].clone(),
        )
    });
    assert_eq!(listed.collect::<Vec<_>>(), installed.collect::<Vec<_>>());
}

/// A test applies every file of examples/.
#[test]
fn annotation_shows_the_smallest_example() {
    let example: Value = serde_saphyr::from_str(SMALLEST).unwrap();
    assert_eq!(annotation("crdsExamples")[0], example);
}

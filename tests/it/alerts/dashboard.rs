//! The dashboard's file.
//!
//! Input: the JSON of the chart.
//! Output: its panels and their queries, with Grafana's variables replaced.
//! Invariants: every query names the release by the variables `namespace` and `job`.

use anyhow::Result;
use serde_json::Value;
use testkit::helm::helm_async;
use testkit::kubernetes;

use crate::world::chart;

/// The dashboard.
pub const DASHBOARD: &str =
    include_str!("../../../charts/doppler-prefect-operator/files/dashboard.json");

/// A panel.
#[derive(Clone, Debug)]
pub struct Panel {
    pub title: String,
    pub kind: String,
    pub unit: String,
    /// Column, row, columns and rows of Grafana's grid.
    pub place: (f64, f64, f64, f64),
    /// The expression and the legend of each query.
    pub queries: Vec<(String, String)>,
}

/// The panels, as they are for all releases and a scrape each second.
pub fn panels() -> Vec<Panel> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let panels = panels.map(|panel| {
        let targets = panel["targets"].as_array().unwrap().iter();
        let queries = targets.map(|target| {
            let expression = text(&target["expr"])
                .replace("$namespace", ".*")
                .replace("$job", ".*")
                .replace("$__rate_interval", "10s");
            (expression, text(&target["legendFormat"]))
        });
        let place = |field: &str| panel["gridPos"][field].as_f64().unwrap();
        Panel {
            title: text(&panel["title"]),
            kind: text(&panel["type"]),
            unit: text(&panel["fieldConfig"]["defaults"]["unit"]),
            place: (place("x"), place("y"), place("w"), place("h")),
            queries: queries.collect(),
        }
    });
    panels.collect()
}

#[test]
fn every_query_follows_the_variables_of_the_dashboard() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    let mut ids = std::collections::BTreeSet::new();
    for panel in panels {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let place = &panel["gridPos"];
        let (x, w) = (place["x"].as_u64().unwrap(), place["w"].as_u64().unwrap());
        assert!(x + w <= 24, "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let scoped = expression.contains(r#"{namespace=~"$namespace",job=~"$job""#)
                || expression.starts_with("ALERTS{");
            assert!(scoped, "{title}: {expression}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["datasource", "namespace", "job"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn chart_renders_the_dashboard_for_the_sidecar() -> Result<()> {
    let chart = chart::path();
    let values = "allNamespaces=true,image.repository=dpo,dashboard.enabled=true";
    let template = ["template", "op", &chart, "--set", values];
    let rendered = helm_async(&template, None).await?.success()?;
    let objects = kubernetes::documents(&rendered)?;
    let map = objects
        .iter()
        .find(|object| kubernetes::kind(object) == "ConfigMap")
        .unwrap();
    let labels = map.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["grafana_dashboard"], "1");
    let data = map.data["data"]["doppler-prefect-operator.json"]
        .as_str()
        .unwrap();
    let (rendered, own): (Value, Value) = (
        serde_json::from_str(data)?,
        serde_json::from_str(DASHBOARD)?,
    );
    assert_eq!(rendered, own);
    Ok(())
}

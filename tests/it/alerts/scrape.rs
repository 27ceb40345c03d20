//! Rules and dashboard on the series of a running release under load.
//!
//! Input: [`Load`], and a Prometheus that scrapes both replicas.
//! Output: every metric and label that a query names exists; every query has a result; alerts are
//! pending for what is wrong, and for nothing else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use regex::Regex;

use super::dashboard::panels;
use super::expression::{grouping, selectors, without_comparison};
use super::load::Load;
use super::rules::rules;
use super::server::{JOB, NAMESPACE, Prometheus};

/// Labels that Prometheus adds to each series of a target, and those of alerts.
const ADDED: [&str; 6] = [
    "job",
    "namespace",
    "instance",
    "exported_namespace",
    "alertname",
    "le",
];

/// The metrics of a page, each with the labels of its samples.
fn samples(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let sample = Regex::new(r"(?m)^([a-z_]+)(?:\{([^}]*)\})? ").unwrap();
    let label = Regex::new(r#"([a-z_]+)=""#).unwrap();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in sample.captures_iter(page) {
        let inside = line.get(2).map_or("", |inside| inside.as_str());
        let labels = label.captures_iter(inside).map(|one| one[1].to_owned());
        found.entry(line[1].to_owned()).or_default().extend(labels);
    }
    found
}

/// Fails if an expression names a metric or a label that no scrape has.
fn ensure_scraped(
    expression: &str,
    scraped: &BTreeMap<String, BTreeSet<String>>,
    recorded: &BTreeSet<String>,
) -> Result<()> {
    let mut labels: BTreeSet<String> = ADDED.map(ToOwned::to_owned).into();
    let selectors = selectors(expression);
    if selectors.is_empty() {
        // A query of the series of kube-state-metrics.
        return Ok(());
    }
    for selector in selectors {
        let metric = &selector.metric;
        if recorded.contains(metric) {
            continue;
        }
        let own = scraped.get(metric);
        ensure!(own.is_some(), "no scrape has {metric}: {expression}");
        labels.extend(own.into_iter().flatten().cloned());
        for (label, _, _) in &selector.matchers {
            ensure!(labels.contains(label), "{metric} has no label {label}");
        }
    }
    for label in grouping(expression) {
        ensure!(
            labels.contains(&label),
            "no series has {label}: {expression}"
        );
    }
    Ok(())
}

/// The queries of the pages, each on a line of a block.
fn documented() -> Vec<String> {
    let pages = [
        include_str!("../../../docs/monitoring.md"),
        include_str!("../../../docs/runbooks.md"),
        include_str!("../../../docs/operations.md"),
    ];
    let blocks = pages
        .iter()
        .flat_map(|page| page.split("```promql\n").skip(1))
        .filter_map(|block| block.split("```").next());
    let lines = blocks.flat_map(str::lines);
    lines
        .map(|line| line.split(" #").next().unwrap_or(line).trim().to_owned())
        .collect()
}

/// The alerts that [`Load`] must make pending.
const EXPECTED: [&str; 3] = [
    "DopplerPrefectBindingNotReady",
    "DopplerPrefectTokenRefused",
    "DopplerPrefectNamespaceUnavailable",
];
/// Alerts that may be pending for a moment while streams are closed and values change.
const PASSING: [&str; 3] = [
    "DopplerPrefectSubscriptionsDown",
    "DopplerPrefectReconcilesWaiting",
    "DopplerPrefectUpstreamLimited",
];

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_dashboard_have_results_under_load() -> Result<()> {
    let load = Load::start("alerts-scrape").await?;
    let leader = load.world.operator()?.metrics_address().to_owned();
    let targets = [leader.as_str(), load.standby.metrics_address()];
    let prometheus = Prometheus::start(&targets).await?;
    // An increase needs a sample before it.
    load.world
        .until("both replicas to be scraped", async || {
            let up = prometheus.query("sum(up)").await?;
            ensure!(up.len() == 1 && up[0].1 > 1.0, "{up:?}");
            Ok(())
        })
        .await?;
    for round in ["1", "2", "3"] {
        load.change(round).await?;
    }
    load.disturb_streams().await?;
    load.change("4").await?;

    let scraped = samples(&load.world.operator()?.metrics().await?);
    let rules = rules();
    let recorded: BTreeSet<String> = rules
        .iter()
        .filter_map(|rule| Some(rule["record"].as_str()?.to_owned()))
        .collect();
    for rule in &rules {
        ensure_scraped(
            rule["expr"].as_str().unwrap_or_default(),
            &scraped,
            &recorded,
        )?;
    }
    for panel in panels() {
        for (expression, _) in &panel.queries {
            ensure_scraped(expression, &scraped, &recorded)?;
        }
    }

    let documented = documented();
    ensure!(documented.len() > 10, "{documented:?}");
    for expression in documented {
        ensure_scraped(&expression, &scraped, &recorded)?;
        // Whether it has a result depends on what fails.
        prometheus.query(&expression).await?;
    }

    // Every query of the dashboard, every recorded rule, and what each alert compares.
    let mut queries: Vec<(String, String)> = Vec::new();
    for panel in panels() {
        for (expression, _) in panel.queries {
            queries.push((panel.title.clone(), expression));
        }
    }
    let any = Regex::new(r"\{(?:reason|outcome)[^}]*\}")?;
    for rule in &rules {
        let expression = rule["expr"].as_str().unwrap_or_default();
        if let Some(name) = rule["record"].as_str() {
            queries.push((name.to_owned(), name.to_owned()));
        }
        // Which reasons there are depends on what fails.
        let compared = any.replace_all(expression, "");
        if rule["alert"] != "DopplerPrefectNoLeader" {
            queries.push((rule.to_string(), without_comparison(&compared)));
        }
    }
    for (title, expression) in &queries {
        load.world
            .until(&format!("a result of {title}: {expression}"), async || {
                let found = prometheus.query(expression).await?;
                ensure!(!found.is_empty(), "there is none");
                Ok(())
            })
            .await?;
    }

    let states = load
        .world
        .until("the expected alerts to be pending", async || {
            let states = prometheus.rules().await?;
            for name in EXPECTED {
                let pending = states
                    .iter()
                    .any(|(rule, state, _)| rule == name && state == "pending");
                ensure!(pending, "{name}: {states:?}");
            }
            Ok(states)
        })
        .await?;
    for (name, state, error) in &states {
        ensure!(error.is_empty(), "{name}: {error}");
        let may = EXPECTED.iter().chain(&PASSING).any(|one| one == name);
        ensure!(
            may || state == "inactive" || state.is_empty(),
            "{name}: {state}"
        );
    }
    // One release has one leader, although two replicas are scraped.
    let leaders = prometheus
        .query("sum by (namespace, job) (doppler_prefect_leader)")
        .await?;
    ensure!(
        leaders.len() == 1 && (leaders[0].1 - 1.0).abs() < 1e-9,
        "{leaders:?}"
    );
    let (labels, _) = &leaders[0];
    ensure!(labels["job"] == JOB && labels["namespace"] == NAMESPACE);
    let refused = prometheus
        .query(r#"doppler_prefect_binding_ready{binding="refused"}"#)
        .await?;
    ensure!(refused.len() == 1 && refused[0].1 == 0.0, "{refused:?}");
    ensure!(refused[0].0["binding_namespace"] == load.world.name);
    let age = prometheus
        .query(r#"doppler_prefect_binding_age_seconds{binding="prd"}"#)
        .await?;
    ensure!(age.len() == 1 && age[0].1 < 10.0, "{age:?}");
    drop(prometheus);
    load.finish().await
}

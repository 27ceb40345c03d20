//! The rules, without a server.
//!
//! Input: the rule file, its unit tests, the pages, and the chart.
//! Output: failures that name the rule.
//! Invariants: every alert has a test that fires and one that does not, a runbook, and a row of the
//! table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use doppler_prefect_operator::reason::Reason;
use serde_json::Value;
use testkit::helm::helm_async;
use testkit::kubernetes;

use super::RULES;
use super::expression::selectors;
use super::programs::promtool;
use crate::world::chart;

const TESTS: &str = include_str!("../../prometheus/rules_test.yaml");
const RUNBOOKS: &str = include_str!("../../../docs/runbooks.md");
const MONITORING: &str = include_str!("../../../docs/monitoring.md");

/// The rules of all groups.
pub fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(RULES).unwrap();
    let groups = file["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap().clone());
    rules.collect()
}

fn alerts() -> BTreeMap<String, Value> {
    let alerts = rules().into_iter().filter_map(|rule| {
        let name = rule["alert"].as_str()?.to_owned();
        Some((name, rule))
    });
    alerts.collect()
}

/// The anchors of the headings of a page, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_ascii_alphanumeric() || c == '-' => Some(c.to_ascii_lowercase()),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn rules_do_what_their_unit_tests_say() -> Result<()> {
    promtool(&[
        "check",
        "rules",
        "charts/doppler-prefect-operator/files/rules.yaml",
    ])?;
    promtool(&["test", "rules", "tests/prometheus/rules_test.yaml"])?;
    Ok(())
}

#[test]
fn every_rule_is_tested_firing_and_not_firing() {
    let file: Value = serde_saphyr::from_str(TESTS).unwrap();
    let groups = file["tests"].as_array().unwrap();
    let (mut firing, mut silent) = (BTreeSet::new(), BTreeSet::new());
    let mut recorded = String::new();
    for group in groups {
        for test in group["alert_rule_test"].as_array().into_iter().flatten() {
            let name = test["alertname"].as_str().unwrap().to_owned();
            let expected = test["exp_alerts"].as_array();
            if expected.is_some_and(|alerts| !alerts.is_empty()) {
                firing.insert(name);
            } else {
                silent.insert(name);
            }
        }
        recorded.push_str(&group["promql_expr_test"].to_string());
    }
    let alerts: BTreeSet<_> = alerts().into_keys().collect();
    assert_eq!(firing, alerts);
    // The one without labels ends with the first scrape, which the test of the other two covers.
    assert_eq!(silent, alerts);
    for rule in rules() {
        if let Some(name) = rule["record"].as_str() {
            assert!(recorded.contains(name), "{name} has no test");
        }
    }
}

#[test]
fn every_alert_links_to_an_existing_section() {
    for (name, rule) in alerts() {
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        let (page, anchor) = url.split_once('#').unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        let text = std::fs::read_to_string(path).unwrap();
        let found = anchors(&text);
        let template = "{{ $labels.reason | toLower }}";
        if anchor == template {
            for reason in Reason::ALL {
                let anchor = reason.as_str().to_lowercase();
                assert!(found.contains(&anchor), "{name}: {page}#{anchor}");
            }
        } else {
            assert!(found.contains(anchor), "{name}: {url}");
        }
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].is_string(), "{name}");
        }
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["warning", "critical"].contains(&severity), "{name}");

        let heading = format!("\n## {name}\n");
        let (_, section) = RUNBOOKS.split_once(&heading).unwrap_or_else(|| {
            panic!("docs/runbooks.md has no section {name}");
        });
        let section = section.split("\n## ").next().unwrap();
        for part in ["Meaning", "Impact", "Look at", "Fix"] {
            assert!(section.contains(&format!("**{part}.**")), "{name}: {part}");
        }
        let row = format!("| `{name}` | {severity} | ");
        assert!(MONITORING.contains(&row), "docs/monitoring.md lacks {row}");
    }
    let sections = RUNBOOKS.matches("\n## ").count();
    assert_eq!(sections, alerts().len(), "a runbook without an alert");
}

/// The labels whose values are reasons, and the other outcomes of reads.
#[test]
fn reasons_in_the_rules_exist() {
    let known: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let mut named = BTreeSet::new();
    for rule in rules() {
        for selector in selectors(rule["expr"].as_str().unwrap()) {
            for (label, _, value) in selector.matchers {
                if label == "reason" || label == "outcome" {
                    named.extend(value.split('|').map(ToOwned::to_owned));
                }
            }
        }
    }
    let unknown: Vec<_> = named
        .iter()
        .filter(|one| !known.contains(one.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(named.contains("PoolContested"));
}

/// A refused credential is no further alert of bindings that are not Ready.
#[test]
fn each_reason_has_at_most_one_alert_of_bindings() {
    let alerts = alerts();
    let reasons = |name: &str| -> BTreeSet<String> {
        let found = selectors(alerts[name]["expr"].as_str().unwrap());
        let matcher = &found.first().unwrap().matchers[0];
        matcher.2.split('|').map(ToOwned::to_owned).collect()
    };
    let mut expected = reasons("DopplerPrefectTokenRefused");
    expected.extend(reasons("DopplerPrefectPoolContested"));
    let settled = ["Ready", "Suspended", "Deleting", "Detached"];
    expected.extend(settled.map(ToOwned::to_owned));
    assert_eq!(reasons("DopplerPrefectBindingNotReady"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn chart_renders_the_rules_with_links() -> Result<()> {
    let chart = chart::path();
    let url = "https://git.example.com/dpo/blob/main/";
    let values = format!(
        "allNamespaces=true,image.repository=dpo,prometheusRule.enabled=true,prometheusRule.labels.release=kps,\
         prometheusRule.documentationUrl={url}"
    );
    let template = ["template", "op", &chart, "--set", &values];
    let rendered = helm_async(&template, None).await?.success()?;
    let objects = kubernetes::documents(&rendered)?;
    let rule = objects
        .iter()
        .find(|object| kubernetes::kind(object) == "PrometheusRule")
        .unwrap();
    let labels = rule.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["release"], "kps");
    let own: Value = serde_saphyr::from_str(RULES)?;
    let linked = own.to_string().replace("\"docs/", &format!("\"{url}docs/"));
    assert_eq!(rule.data["spec"], serde_json::from_str::<Value>(&linked)?);
    Ok(())
}

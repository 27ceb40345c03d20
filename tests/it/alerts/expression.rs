//! What an expression of Prometheus names.
//!
//! Input: an expression.
//! Output: its metrics, each with its label matchers.
//! Invariants: the operator's metrics, `process_*`, and the recorded rules; functions and keywords are
//! not metrics.

use std::collections::BTreeSet;

use regex::Regex;

/// A metric that an expression selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    pub metric: String,
    /// Label, operator and value of each matcher.
    pub matchers: Vec<(String, String, String)>,
}

/// The selectors of an expression.
pub fn selectors(expression: &str) -> BTreeSet<Selector> {
    let selector =
        Regex::new(r"((?:doppler_prefect|process)[A-Za-z0-9_:]*)(?:[ \n]*\{([^}]*)\})?").unwrap();
    let matcher = Regex::new(r#"([a-z_]+)[ ]*(=~|!~|!=|=)[ ]*"([^"]*)""#).unwrap();
    let found = selector.captures_iter(expression).map(|found| {
        let inside = found.get(2).map_or("", |inside| inside.as_str());
        let matchers = matcher.captures_iter(inside).map(|matcher| {
            let part = |number: usize| matcher[number].to_owned();
            (part(1), part(2), part(3))
        });
        Selector {
            metric: found[1].to_owned(),
            matchers: matchers.collect(),
        }
    });
    found.collect()
}

/// The labels by which an expression groups or joins.
pub fn grouping(expression: &str) -> BTreeSet<String> {
    let clause = Regex::new(r"(?:by|on|without|ignoring)[ ]*\(([^)]*)\)").unwrap();
    let lists = clause.captures_iter(expression);
    let labels = lists.flat_map(|list| {
        let labels = list[1].split(',').map(|label| label.trim().to_owned());
        labels.collect::<Vec<_>>()
    });
    labels.collect()
}

/// The expression without the comparison at its end, which decides whether an alert fires.
pub fn without_comparison(expression: &str) -> String {
    let comparison = Regex::new(r"[ \n]*(?:>|<|==|!=)[ ]*[0-9.]+[ \n]*$").unwrap();
    comparison.replace(expression, "").into_owned()
}

#[test]
fn finds_metrics_matchers_and_groups() {
    let expression = r#"sum by (job, reason) (last_over_time(doppler_prefect_bindings{reason!~"A|B", job="x"}[5m])) / on (job) process_threads > 0.5"#;
    let found: Vec<_> = selectors(expression).into_iter().collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].metric, "doppler_prefect_bindings");
    let matcher = |label: &str, operator: &str, value: &str| {
        (label.to_owned(), operator.to_owned(), value.to_owned())
    };
    assert_eq!(
        found[0].matchers,
        [matcher("reason", "!~", "A|B"), matcher("job", "=", "x")]
    );
    assert_eq!(found[1].metric, "process_threads");
    let labels: Vec<_> = grouping(expression).into_iter().collect();
    assert_eq!(labels, ["job", "reason"]);
    assert!(without_comparison(expression).ends_with("process_threads"));
}

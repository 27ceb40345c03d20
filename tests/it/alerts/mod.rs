//! Alerts, objectives, dashboard and per-binding series.
//!
//! Input: the files of the chart, `promtool`, and a Prometheus that scrapes running operators.
//! Output: each rule fires and ends as its unit test says (`rules`); every metric, label and reason
//! that a query names exists, and every query has a result (`scrape`); no alert flaps in a rolling
//! update (`rolling_update`). On request, the picture of the dashboard (`picture`).
//! Invariants: nothing is installed. Without Prometheus' programs, the tests fail and name the package.

mod dashboard;
mod expression;
mod kube_state_metrics;
mod load;
mod picture;
mod plot;
mod programs;
mod recording;
mod rolling_update;
mod rules;
mod scrape;
mod server;

/// The alerts and objectives.
const RULES: &str = include_str!("../../../charts/doppler-prefect-operator/files/rules.yaml");

//! The picture of the dashboard in docs/monitoring.md.
//!
//! Input: [`Load`] for about a minute, scraped by a real Prometheus.
//! Output: docs/images/dashboard-light.svg and docs/images/dashboard-dark.svg.
//! Invariants: every line is the answer of Prometheus to the query of the panel. It runs on request
//! only: `cargo test --test it -- --ignored alerts::picture`.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::dashboard::panels;
use super::load::Load;
use super::plot::{Drawn, PALETTES, svg};
use super::server::{Labels, Prometheus};

/// How long the load lasts.
const TIME: Duration = Duration::from_secs(75);
/// The legend of queries without one: the labels that say what the line is.
const SHOWN: [&str; 5] = ["alertname", "reason", "binding", "upstream", "alertstate"];

fn seconds() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// The legend as Grafana writes it.
fn legend(format: &str, labels: &Labels) -> String {
    if format.is_empty() {
        let shown = SHOWN.iter().filter_map(|name| labels.get(*name).cloned());
        return shown.collect::<Vec<_>>().join(" ");
    }
    let mut text = format.to_owned();
    for (name, value) in labels {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes docs/images"]
async fn draws_the_dashboard() -> Result<()> {
    let load = Load::start("alerts-picture").await?;
    let leader = load.world.operator()?.metrics_address().to_owned();
    let targets = [leader.as_str(), load.standby.metrics_address()];
    let prometheus = Prometheus::start(&targets).await?;
    let (start, began) = (seconds()?, Instant::now());
    let mut round = 0;
    while began.elapsed() < TIME {
        round += 1;
        load.change(&round.to_string()).await?;
        if round == 20 {
            load.disturb_streams().await?;
        }
    }
    let end = seconds()?;
    let mut drawn = Vec::new();
    for panel in panels() {
        let mut lines = Vec::new();
        for (expression, format) in &panel.queries {
            if panel.kind == "timeseries" {
                for (labels, points) in prometheus.range(expression, (start, end)).await? {
                    lines.push((legend(format, &labels), points));
                }
            } else {
                for (labels, value) in prometheus.query(expression).await? {
                    lines.push((legend(format, &labels), vec![(end, value)]));
                }
            }
        }
        drawn.push(Drawn { panel, lines });
    }
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    let description =
        "The dashboard of an operator with eight bindings under load, of which two fail";
    for palette in &PALETTES {
        let file = images.join(format!("dashboard-{}.svg", palette.name));
        std::fs::write(file, svg(&drawn, description, palette))?;
    }
    drop(prometheus);
    load.finish().await
}

//! Cold sync beside the floor: on one config, and on as many configs as bindings; what it asks of the API server and upstream.

use anyhow::{Context, Result};

use super::sync::{self, Cold};
use crate::bench::Bench;
use crate::bench::floor::Floor;
use crate::bench::observe::ledger::Requests;
use crate::bench::result::{Chart, Findings, Goal, Row, number};
use crate::bench::scene::{Plan, Scene};
use crate::bench::subject::{How, Subject};

const RATIO: Goal = Goal::AtMost(1.5);

/// The small run.
pub async fn small(bench: &Bench<'_>) -> Result<Findings> {
    measure(bench, "cold", bench.sizes.small).await
}

/// The large run.
pub async fn large(bench: &Bench<'_>) -> Result<Findings> {
    measure(bench, "cold-large", bench.sizes.large).await
}

/// The small run with the real Prefect server.
pub async fn real(bench: &Bench<'_>) -> Result<Findings> {
    let plan = Plan {
        real_prefect: true,
        ..bench.plan()
    };
    let runs = Runs::new(bench, "cold-real").await?;
    let before = runs.floor("a", plan).await?;
    let cold = runs.subject("one", plan).await?.0;
    let floor = before.min_time(runs.floor("b", plan).await?);
    let what = format!(
        "cold sync, {} bindings on one config, real Prefect server: time ÷ floor",
        number(as_f64(plan.bindings))
    );
    Ok(Findings {
        rows: vec![ratio(what, &cold, &floor)],
        charts: Vec::new(),
    })
}

async fn measure(bench: &Bench<'_>, figure: &str, bindings: usize) -> Result<Findings> {
    let one = Plan {
        bindings,
        ..bench.plan()
    };
    let each = Plan {
        configs: bindings,
        ..one
    };
    let count = number(as_f64(bindings));
    if bench.short {
        let runs = Runs::counts_only(bench, figure);
        let (cold, upstream) = runs.subject("one", one).await?;
        return Ok(Findings {
            rows: counts(&count, one, &cold.requests, upstream),
            charts: Vec::new(),
        });
    }
    let runs = Runs::new(bench, figure).await?;
    // The floor before, between and after: what the API server has learnt or gathered meanwhile favours nobody. The fastest counts.
    let mut floor = runs.floor("a", one).await?;
    let (on_one, upstream) = runs.subject("one", one).await?;
    floor = floor.min_time(runs.floor("b", one).await?);
    let (on_each, _) = runs.subject("each", each).await?;
    floor = floor.min_time(runs.floor("c", one).await?);

    let mut rows = vec![
        ratio(
            format!("cold sync, {count} bindings on one config: time ÷ floor"),
            &on_one,
            &floor,
        ),
        ratio(
            format!("cold sync, {count} bindings on {count} configs: time ÷ floor"),
            &on_each,
            &floor,
        ),
    ];
    rows.extend(counts(&count, one, &on_one.requests, upstream));
    let chart = Chart {
        file: figure.to_owned(),
        title: format!("Cold sync of {count} bindings"),
        description: "Bindings that were seen done, over the time since the operator was started; the floor is a plain client that writes the same".to_owned(),
        x: "seconds".to_owned(),
        y: "bindings".to_owned(),
        lines: vec![
            floor.line("floor"),
            on_one.line("one config"),
            on_each.line(&format!("{count} configs")),
        ],
        marks: vec![("goal".to_owned(), 1.5 * floor.whole.as_secs_f64())],
    };
    Ok(Findings {
        rows,
        charts: vec![chart],
    })
}

/// Requests upstream: for blocks and for configs.
type Upstream = (u64, u64);

struct Runs<'r, 'a> {
    bench: &'r Bench<'a>,
    figure: &'r str,
    floor: Option<Floor<'r>>,
}

impl<'r, 'a> Runs<'r, 'a> {
    async fn new(bench: &'r Bench<'a>, figure: &'r str) -> Result<Self> {
        let floor = Some(Floor::new(bench.subject, bench.floor().await?));
        Ok(Self {
            bench,
            figure,
            floor,
        })
    }

    fn counts_only(bench: &'r Bench<'a>, figure: &'r str) -> Self {
        Self {
            bench,
            figure,
            floor: None,
        }
    }

    async fn run(&self, subject: &dyn Subject, name: &str, plan: Plan) -> Result<(Cold, Upstream)> {
        let name = format!("{}-{name}", self.figure);
        let how = How::without_polls();
        let synced = sync::cold(self.bench, subject, &name, plan, &how).await?;
        let upstream = upstream(&synced.scene);
        synced.running.stop().await?;
        Ok((synced.cold, upstream))
    }

    async fn subject(&self, name: &str, plan: Plan) -> Result<(Cold, Upstream)> {
        self.run(self.bench.subject, name, plan).await
    }

    async fn floor(&self, name: &str, plan: Plan) -> Result<Cold> {
        let floor = self.floor.as_ref().context("no floor was asked for")?;
        // It asks no upstream.
        let plan = Plan {
            real_prefect: false,
            ..plan
        };
        Ok(self.run(floor, &format!("floor-{name}"), plan).await?.0)
    }
}

impl Cold {
    fn min_time(self, other: Self) -> Self {
        if other.whole < self.whole {
            other
        } else {
            self
        }
    }
}

fn upstream(scene: &Scene<'_>) -> Upstream {
    (
        scene.block_reads().unwrap_or_default(),
        scene.doppler.counts().downloads,
    )
}

fn ratio(what: String, cold: &Cold, floor: &Cold) -> Row {
    let ratio = cold.whole.as_secs_f64() / floor.whole.as_secs_f64();
    let note = format!(
        "{:.2} s from the start, {:.2} s from ready; floor {:.2} s. {}; floor's {}",
        cold.whole.as_secs_f64(),
        cold.after_ready().as_secs_f64(),
        floor.whole.as_secs_f64(),
        cold.profile(),
        floor.profile(),
    );
    Row::new(what, ratio, "", RATIO).note(note)
}

fn counts(count: &str, plan: Plan, requests: &Requests, (blocks, configs): Upstream) -> Vec<Row> {
    let about = |what: &str| format!("{what}, {count} bindings on one config, cold");
    vec![
        writes(
            about("API server writes for each binding"),
            plan.bindings,
            requests,
            2.0,
        ),
        Row::count(
            about("requests for blocks"),
            as_f64(blocks),
            Goal::Exactly(1.0),
        ),
        Row::count(
            about("requests for configs"),
            as_f64(configs),
            Goal::Exactly(1.0),
        ),
    ]
}

/// The row of writes for each binding.
pub(super) fn writes(what: String, bindings: usize, requests: &Requests, most: f64) -> Row {
    let each = requests.secrets + requests.statuses + requests.resources;
    let note = format!(
        "{}; {} reads, {} watches",
        requests.in_words(),
        requests.reads,
        requests.watches
    );
    Row::count(what, as_f64(each) / as_f64(bindings), Goal::AtMost(most)).note(note)
}

/// A count as a number.
#[allow(clippy::cast_precision_loss)] // Counts are far below the limit of exactness.
pub(super) fn as_f64<N: TryInto<u64>>(count: N) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

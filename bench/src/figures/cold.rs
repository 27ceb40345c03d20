//! Cold sync beside the floor: on one config, and on as many configs as bindings; what it asks of the API server and upstream.

use std::time::Duration;

use anyhow::{Context, Result};

use super::sync::{self, Cold};
use super::times::median;
use crate::Bench;
use crate::floor::Floor;
use crate::observe::ledger::Requests;
use crate::result::{Chart, Findings, Goal, Row, number};
use crate::scene::{Plan, Scene};
use crate::subject::{How, Subject};

const RATIO: Goal = Goal::AtMost(1.5);

/// The small run.
pub async fn small(bench: &Bench<'_>) -> Result<Findings> {
    measure(bench, "cold", bench.sizes.small, 6).await
}

/// The large run.
pub async fn large(bench: &Bench<'_>) -> Result<Findings> {
    measure(bench, "cold-large", bench.sizes.large, 3).await
}

/// The small run with the real Prefect server.
pub async fn real(bench: &Bench<'_>) -> Result<Findings> {
    let plan = Plan {
        real_prefect: true,
        ..bench.plan()
    };
    let runs = Runs::new(bench, "cold-real").await?;
    let mut floor = Fastest::default();
    let mut cold = Fastest::default();
    for round in 0..6 {
        for turn in turns(round, 2) {
            match turn {
                0 => floor.take(runs.floor(round, plan).await?),
                _ => cold.take(runs.subject("one", round, plan).await?.0),
            }
        }
    }
    let what = format!(
        "cold sync, {} bindings on one config, real Prefect server: time ÷ floor",
        number(as_f64(plan.bindings))
    );
    Ok(Findings {
        rows: vec![ratio(what, &cold, &floor)?],
        charts: Vec::new(),
    })
}

/// Who comes when in a round. Each is the first as often: what earlier runs left behind costs later ones time.
fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| (round + at) % count)
}

/// Machines are noisy, and noise only ever takes time: of as many runs of each, in turn, the fastest counts.
async fn measure(
    bench: &Bench<'_>,
    figure: &str,
    bindings: usize,
    rounds: usize,
) -> Result<Findings> {
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
        let (cold, upstream) = runs.subject("one", 0, one).await?;
        return Ok(Findings {
            rows: counts(&count, one, &cold.requests, upstream),
            charts: Vec::new(),
        });
    }
    let runs = Runs::new(bench, figure).await?;
    let (mut floor, mut on_one, mut on_each) = <(Fastest, Fastest, Fastest)>::default();
    let mut counted = Vec::new();
    for round in 0..rounds {
        for turn in turns(round, 3) {
            match turn {
                0 => floor.take(runs.floor(round, one).await?),
                1 => {
                    let (cold, upstream) = runs.subject("one", round, one).await?;
                    if counted.is_empty() {
                        counted = counts(&count, one, &cold.requests, upstream);
                    }
                    on_one.take(cold);
                }
                _ => on_each.take(runs.subject("each", round, each).await?.0),
            }
        }
    }

    let mut rows = vec![
        ratio(
            format!("cold sync, {count} bindings on one config: time ÷ floor"),
            &on_one,
            &floor,
        )?,
        ratio(
            format!("cold sync, {count} bindings on {count} configs: time ÷ floor"),
            &on_each,
            &floor,
        )?,
    ];
    rows.extend(counted);
    let (floor, on_one, on_each) = (floor.run()?, on_one.run()?, on_each.run()?);
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

    async fn subject(&self, name: &str, round: usize, plan: Plan) -> Result<(Cold, Upstream)> {
        let name = format!("{name}-{round}");
        self.run(self.bench.subject, &name, plan).await
    }

    async fn floor(&self, round: usize, plan: Plan) -> Result<Cold> {
        let floor = self.floor.as_ref().context("no floor was asked for")?;
        // It asks no upstream.
        let plan = Plan {
            real_prefect: false,
            ..plan
        };
        Ok(self.run(floor, &format!("floor-{round}"), plan).await?.0)
    }
}

/// The fastest of some runs, and how long each took.
#[derive(Default)]
struct Fastest {
    run: Option<Cold>,
    took: Vec<Duration>,
}

impl Fastest {
    fn take(&mut self, run: Cold) {
        self.took.push(run.whole);
        if self.run.as_ref().is_none_or(|best| run.whole < best.whole) {
            self.run = Some(run);
        }
    }

    fn run(&self) -> Result<&Cold> {
        self.run.as_ref().context("no run")
    }

    /// All of them, in seconds and in their order.
    fn all(&self) -> String {
        let took = self.took.iter();
        let took: Vec<_> = took
            .map(|took| format!("{:.2}", took.as_secs_f64()))
            .collect();
        took.join(", ")
    }
}

fn upstream(scene: &Scene<'_>) -> Upstream {
    (
        scene.block_reads().unwrap_or_default(),
        scene.doppler.counts().downloads,
    )
}

fn ratio(what: String, runs: &Fastest, floors: &Fastest) -> Result<Row> {
    let (cold, floor) = (runs.run()?, floors.run()?);
    let ratio = cold.whole.as_secs_f64() / floor.whole.as_secs_f64();
    let note = format!(
        "the fastest of {} runs each, in turn: {:.2} s from the start, {:.2} s from ready; floor {:.2} s. Medians {:.2} s and {:.2} s. All: {} s; floor {} s. {}; floor's {}",
        runs.took.len(),
        cold.whole.as_secs_f64(),
        cold.after_ready().as_secs_f64(),
        floor.whole.as_secs_f64(),
        median(&runs.took).as_secs_f64(),
        median(&floors.took).as_secs_f64(),
        runs.all(),
        floors.all(),
        cold.profile(),
        floor.profile(),
    );
    Ok(Row::new(what, ratio, "", RATIO).note(note))
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

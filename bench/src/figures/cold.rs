//! Cold sync compared with the floor: on one config, and on as many configs as bindings.
//!
//! Input: the number of bindings and rounds. Output: ratios, counts of requests, and a chart.
//! Invariants: all kinds of runs take turns on the same control plane. The fastest run of each kind
//! counts, because other load on the machine only makes a run slower.

use anyhow::{Context, Result};

use super::cold_counts;
use super::cold_runs::{ColdRuns, Fastest};
use super::context::FigureContext;
use super::statistics::median;
use crate::chart::Chart;
use crate::number::{as_f64, number};
use crate::result::{Findings, Goal, Row};
use crate::workload::Workload;

const RATIO: f64 = 1.5;
const SMALL_ROUNDS: usize = 6;
const LARGE_ROUNDS: usize = 3;

/// The small run.
pub async fn small(context: &FigureContext<'_>) -> Result<Findings> {
    measure(context, "cold", context.sizes.small, SMALL_ROUNDS).await
}

/// The large run.
pub async fn large(context: &FigureContext<'_>) -> Result<Findings> {
    measure(context, "cold-large", context.sizes.large, LARGE_ROUNDS).await
}

/// The small run with the real Prefect server.
pub async fn real(context: &FigureContext<'_>) -> Result<Findings> {
    let workload = Workload {
        real_prefect: true,
        ..context.small()
    };
    let runs = ColdRuns::compared(context, "cold-real").await?;
    let mut floor = Fastest::default();
    let mut cold = Fastest::default();
    for round in 0..SMALL_ROUNDS {
        for turn in turns(round, 2) {
            match turn {
                0 => floor.add(runs.floor(round, workload).await?),
                _ => cold.add(runs.subject("one", round, workload).await?.0),
            }
        }
    }
    let what = format!(
        "cold sync, {} bindings on one config, real Prefect server: time ÷ floor",
        number(as_f64(workload.bindings))
    );
    Ok(Findings::rows(vec![ratio(what, &cold, &floor)?]))
}

/// The order of a round. Each kind is first equally often, because earlier runs slow later ones
/// down.
fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| (round + at) % count)
}

async fn measure(
    context: &FigureContext<'_>,
    figure: &str,
    bindings: usize,
    rounds: usize,
) -> Result<Findings> {
    let one = Workload {
        bindings,
        ..context.small()
    };
    let each = Workload {
        configs: bindings,
        ..one
    };
    if context.counts_only {
        let runs = ColdRuns::subject_only(context, figure);
        let (cold, reads) = runs.subject("one", 0, one).await?;
        return Ok(Findings::rows(cold_counts::rows(
            one,
            &cold.requests,
            reads,
        )));
    }
    let runs = ColdRuns::compared(context, figure).await?;
    let (mut floor, mut on_one, mut on_each) = <(Fastest, Fastest, Fastest)>::default();
    let mut counts = Vec::new();
    for round in 0..rounds {
        for turn in turns(round, 3) {
            match turn {
                0 => floor.add(runs.floor(round, one).await?),
                1 => {
                    let (cold, reads) = runs.subject("one", round, one).await?;
                    if counts.is_empty() {
                        counts = cold_counts::rows(one, &cold.requests, reads);
                    }
                    on_one.add(cold);
                }
                _ => on_each.add(runs.subject("each", round, each).await?.0),
            }
        }
    }
    let count = number(as_f64(bindings));
    let about = |configs: &str| format!("cold sync, {count} bindings on {configs}: time ÷ floor");
    let many = format!("{count} configs");
    let mut rows = vec![
        ratio(about("one config"), &on_one, &floor)?,
        ratio(about(&many), &on_each, &floor)?,
    ];
    rows.extend(counts);
    let charts = vec![chart(
        figure,
        &count,
        [
            ("floor", &floor),
            ("one config", &on_one),
            (&many, &on_each),
        ],
    )?];
    Ok(Findings { rows, charts })
}

/// The progress of the fastest runs. The first one is the floor, which sets the goal.
fn chart(file: &str, count: &str, runs: [(&str, &Fastest); 3]) -> Result<Chart> {
    let goal = RATIO * runs[0].1.run()?.total.as_secs_f64();
    let lines = runs
        .iter()
        .map(|(name, fastest)| Ok(fastest.run()?.line(name)));
    Ok(Chart {
        file: file.to_owned(),
        title: format!("Cold sync of {count} bindings"),
        description: "Ready bindings over the time since the start; the floor is a minimal client that makes the same writes".to_owned(),
        x: "seconds".to_owned(),
        y: "bindings".to_owned(),
        lines: lines.collect::<Result<_>>()?,
        marks: vec![("goal".to_owned(), goal)],
    })
}

fn ratio(what: String, runs: &Fastest, floors: &Fastest) -> Result<Row> {
    let (cold, floor) = (runs.run()?, floors.run()?);
    let seconds = |times: &[std::time::Duration]| median(times).as_secs_f64();
    let ratio = cold.total.as_secs_f64() / floor.total.as_secs_f64();
    let note = format!(
        "fastest of {} runs each, in turn: {:.2} s from the start, {:.2} s from ready; floor {:.2} s. Medians {:.2} s and {:.2} s. All: {} s; floor {} s. {}; floor's {}",
        runs.times.len(),
        cold.total.as_secs_f64(),
        cold.after_ready().as_secs_f64(),
        floor.total.as_secs_f64(),
        seconds(&runs.times),
        seconds(&floors.times),
        runs.all_times(),
        floors.all_times(),
        cold.cpu_text(),
        floor.cpu_text(),
    );
    let finite = ratio.is_finite().then_some(ratio);
    let ratio = finite.context("the floor took no time")?;
    Ok(Row::new(what, ratio, "", Goal::AtMost(RATIO)).note(note))
}

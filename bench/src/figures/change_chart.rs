//! The rows and the chart of a figure that measures changes with one binding.
//!
//! Input: the time of each change. Output: `Findings`, and the workload and the change that
//! produced them.
//! Invariants: the line of the chart is cumulative.

use std::time::{Duration, Instant};

use super::context::FigureContext;
use super::statistics::{median, milliseconds, worst};
use crate::chart::{Chart, Line};
use crate::number::{as_f64, number};
use crate::result::{Findings, Goal, Row};
use crate::testbed::Testbed;
use crate::workload::{PROJECT, Workload, config};

const MEDIAN_GOAL: f64 = 50.0;
const WORST_GOAL: f64 = 250.0;

/// The workload of one binding.
#[must_use]
pub fn one_binding(context: &FigureContext<'_>) -> Workload {
    Workload {
        bindings: 1,
        ..context.small()
    }
}

/// Changes one value of the config in Doppler; returns the time right before the change.
#[must_use]
pub fn change_config(testbed: &Testbed<'_>, number: usize) -> Instant {
    let started_at = Instant::now();
    let value = format!("{number:032}");
    testbed.doppler.set(PROJECT, &config(0), "KEY_00", &value);
    started_at
}

/// The rows and the chart of changes in Doppler. `by` names the notification.
#[must_use]
pub fn doppler_findings(file: &str, by: &str, times: &[Duration]) -> Findings {
    let count = number(as_f64(times.len()));
    let about = format!("change in Doppler → Secret written, {by}, 1 binding");
    let row = |what: &str, time: Duration, goal: f64| {
        Row::new(
            format!("{about}: {what} of {count}"),
            milliseconds(time),
            "ms",
            Goal::Below(goal),
        )
    };
    let title = format!("Change in Doppler → Secret written, by {by}");
    Findings {
        rows: vec![
            row("median", median(times), MEDIAN_GOAL),
            row("worst", worst(times), WORST_GOAL),
        ],
        charts: vec![chart(file, &title, times, MEDIAN_GOAL)],
    }
}

/// The share of changes that were written, over the time. The mark is the goal of the median.
#[must_use]
pub fn chart(file: &str, title: &str, times: &[Duration], goal: f64) -> Chart {
    let mut sorted: Vec<_> = times.iter().map(|time| milliseconds(*time)).collect();
    sorted.sort_by(f64::total_cmp);
    Chart {
        file: file.to_owned(),
        title: title.to_owned(),
        description:
            "Share of the changes that were written to the Secret, over the time since the change; the mark is the goal of the median"
                .to_owned(),
        x: "milliseconds".to_owned(),
        y: "% of changes".to_owned(),
        lines: vec![Line::cumulative("changes", &sorted, 100.0)],
        marks: vec![("goal".to_owned(), goal)],
    }
}

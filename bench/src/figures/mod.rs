//! The figures: what is measured, one file for each kind.
//!
//! Input: `FigureContext`. Output: rows of the table, and charts.
//! Invariants: a figure prepares its own testbeds, and leaves no process running.

mod at_rest;
mod block_change;
mod change_chart;
mod change_many;
mod change_times;
mod cold;
mod cold_counts;
mod cold_runs;
mod context;
mod jobs;
mod memory;
mod rate_limit;
mod restart;
mod run_load;
mod run_start;
mod statistics;
mod stream;
mod template;
mod webhook;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use crate::result::Findings;
pub use context::FigureContext;

/// How a figure is measured.
type Measure = for<'f> fn(&'f FigureContext<'_>) -> LocalBoxFuture<'f, Result<Findings>>;

/// A figure.
pub struct Figure {
    /// The name on the command line.
    pub name: &'static str,
    /// The subject of the figure, as text.
    pub about: &'static str,
    /// True if the figure has counts, which the short form checks.
    pub counts: bool,
    /// Measures the figure.
    pub measure: Measure,
}

/// All figures, in the order in which they are measured.
pub const ALL: [Figure; 14] = [
    figure("cold", "cold sync, the small run", true, |context| {
        cold::small(context).boxed_local()
    }),
    figure("cold-large", "cold sync, the large run", false, |context| {
        cold::large(context).boxed_local()
    }),
    figure(
        "cold-real",
        "cold sync with the real Prefect server",
        false,
        |context| cold::real(context).boxed_local(),
    ),
    figure(
        "template",
        "one template for many bindings",
        true,
        |context| template::measure(context).boxed_local(),
    ),
    figure(
        "limit",
        "many configs of one token under a rate limit",
        true,
        |context| rate_limit::measure(context).boxed_local(),
    ),
    figure(
        "stream",
        "a change in Doppler, by watch stream",
        false,
        |context| stream::measure(context).boxed_local(),
    ),
    figure(
        "webhook",
        "a change in Doppler, by webhook",
        false,
        |context| webhook::measure(context).boxed_local(),
    ),
    figure(
        "change-many",
        "a change in Doppler with many bindings",
        false,
        |context| change_many::measure(context).boxed_local(),
    ),
    figure(
        "block",
        "a change of the Prefect block, by event socket",
        false,
        |context| block_change::measure(context).boxed_local(),
    ),
    figure(
        "jobs",
        "the creation of a Job under the admission policy",
        false,
        |context| jobs::measure(context).boxed_local(),
    ),
    figure(
        "run",
        "a flow run right after a change in Doppler, without a push",
        false,
        |context| run_start::measure(context).boxed_local(),
    ),
    figure("rest", "an operator at rest", true, |context| {
        at_rest::measure(context).boxed_local()
    }),
    figure("restart", "a restart in sync", true, |context| {
        restart::measure(context).boxed_local()
    }),
    figure("memory", "resident memory", false, |context| {
        memory::measure(context).boxed_local()
    }),
];

const fn figure(name: &'static str, about: &'static str, counts: bool, measure: Measure) -> Figure {
    Figure {
        name,
        about,
        counts,
        measure,
    }
}

/// The names of all figures, for the command line.
#[must_use]
pub fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(ALL.iter().map(|figure| figure.name))
}

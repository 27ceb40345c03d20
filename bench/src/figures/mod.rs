//! The figures: what is measured, one file for each kind.
//!
//! In: a bench. Out: rows of the table, and charts. A figure sets its own scenes and leaves nothing running.

mod change;
mod change_many;
mod cold;
mod limit;
mod memory;
mod rest;
mod restart;
pub(super) mod sync;
mod template;
mod times;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::Bench;
use super::result::Findings;

/// What a figure does.
type Measure = for<'f> fn(&'f Bench<'_>) -> LocalBoxFuture<'f, Result<Findings>>;

/// A figure.
pub struct Figure {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Whether it has counts, which the short form judges.
    pub counts: bool,
    /// Measures it.
    pub measure: Measure,
}

/// All figures, in the order in which they are measured.
pub const ALL: [Figure; 12] = [
    figure("cold", "cold sync, the small run", true, |bench| {
        cold::small(bench).boxed_local()
    }),
    figure("cold-large", "cold sync, the large run", false, |bench| {
        cold::large(bench).boxed_local()
    }),
    figure(
        "cold-real",
        "cold sync with the real Prefect server",
        false,
        |bench| cold::real(bench).boxed_local(),
    ),
    figure(
        "template",
        "one template for many bindings",
        true,
        |bench| template::measure(bench).boxed_local(),
    ),
    figure(
        "limit",
        "many configs of one token under a limit",
        true,
        |bench| limit::measure(bench).boxed_local(),
    ),
    figure(
        "stream",
        "a change in Doppler, by watch stream",
        false,
        |bench| change::stream(bench).boxed_local(),
    ),
    figure("hook", "a change in Doppler, by hook", false, |bench| {
        change::hook(bench).boxed_local()
    }),
    figure(
        "change-many",
        "a change in Doppler with many bindings",
        false,
        |bench| change_many::measure(bench).boxed_local(),
    ),
    figure(
        "block",
        "a change of the Prefect block, by socket",
        false,
        |bench| change::block(bench).boxed_local(),
    ),
    figure("rest", "an operator at rest", true, |bench| {
        rest::measure(bench).boxed_local()
    }),
    figure("restart", "a restart in sync", true, |bench| {
        restart::measure(bench).boxed_local()
    }),
    figure("memory", "resident memory", false, |bench| {
        memory::measure(bench).boxed_local()
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

/// The names, for the command line.
#[must_use]
pub fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(ALL.iter().map(|figure| figure.name))
}

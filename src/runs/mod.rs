//! The flow runs that bindings serve: whose values a run is about to read, and which values it got.
//!
//! Input: the runs that bindings serve, and the runs that a Prefect server reports.
//! Output: the bindings that a run concerns ([`RunRegistry`]), and for each run that started the
//! content hash that was in force ([`reporter`]).
//! Invariants: a run of another server, or one that was reported to other credentials, concerns no
//! binding. Without runs, nothing is read or sent.

mod choices;
mod injected_event;
mod job_labels;
mod registry;
pub mod reporter;
mod run_counter;
mod selector;

pub use registry::{Content, RunRegistry, Served, Serving};
pub use reporter::{RunReporter, StartedRuns, started_runs};
pub use selector::{RunSelector, selectors};

#[cfg(test)]
mod tests;

//! The benchmark: compares the operator with the floor, a minimal client that makes the same
//! writes.
//!
//! Input: `Options`. Output: a table on standard output, and the results as JSON, charts and a
//! page.
//! Invariants: every published number was measured in the published run.
//!
//! Reading order: `options` and `sizes` say what is measured. `workload`, `upstreams` and `testbed`
//! are the environment of one run. `subject` is the interface of what is measured; `operator` and
//! `floor` implement it. `request_counter`, `process_usage`, `write_watch` and `idle` observe a
//! run. `cold_sync` is the run that all `figures` start with. `measure` measures figures into a
//! `result`, and `run` shows it by `table` and `page`.

mod chart;
mod cold_sync;
mod figures;
mod floor;
mod idle;
mod json;
mod machine;
mod measure;
mod number;
mod operator;
mod options;
mod page;
mod process_usage;
mod request_counter;
mod resources;
mod result;
mod run;
mod sizes;
mod subject;
mod svg;
pub mod table;
mod testbed;
mod upstreams;
mod workload;
mod write_watch;

pub use chart::{Chart, Line};
pub use measure::measure;
pub use options::Options;
pub use result::{Findings, Goal, Results, Row};
pub use run::run;
pub use sizes::Sizes;

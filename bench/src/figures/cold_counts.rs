//! The requests and writes of a cold sync, as rows.
//!
//! Input: the counts of the API server and of the upstreams. Output: rows.
//! Invariants: the counts do not depend on the machine.

use crate::number::{as_f64, number};
use crate::request_counter::Requests;
use crate::result::{Goal, Row};
use crate::testbed::Testbed;
use crate::workload::Workload;

/// The requests upstream.
#[derive(Clone, Copy)]
pub struct UpstreamReads {
    /// Requests for blocks.
    pub blocks: u64,
    /// Requests for configs.
    pub configs: u64,
}

impl UpstreamReads {
    /// The requests so far.
    #[must_use]
    pub fn of(testbed: &Testbed<'_>) -> Self {
        Self {
            blocks: testbed.block_reads().unwrap_or_default(),
            configs: testbed.doppler.counts().downloads,
        }
    }
}

/// The rows of a cold sync on one config.
#[must_use]
pub fn rows(workload: Workload, requests: &Requests, reads: UpstreamReads) -> Vec<Row> {
    let count = number(as_f64(workload.bindings));
    let about = |what: &str| format!("{what}, {count} bindings on one config, cold");
    vec![
        writes(
            about("API server writes for each binding"),
            workload.bindings,
            requests,
            2.0,
        ),
        Row::count(
            about("requests for blocks"),
            as_f64(reads.blocks),
            Goal::Exactly(1.0),
        ),
        Row::count(
            about("requests for configs"),
            as_f64(reads.configs),
            Goal::Exactly(1.0),
        ),
    ]
}

/// The row of the writes for each binding.
#[must_use]
pub fn writes(what: String, bindings: usize, requests: &Requests, most: f64) -> Row {
    let each = requests.secrets + requests.statuses + requests.resources;
    let note = format!(
        "{}; {} reads, {} watches",
        requests.writes_by_kind(),
        requests.reads,
        requests.watches
    );
    Row::count(what, as_f64(each) / as_f64(bindings), Goal::AtMost(most)).note(note)
}

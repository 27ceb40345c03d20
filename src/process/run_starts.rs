//! Follows the flow runs that Prefect servers report.
//!
//! Input: runs that are about to start, and runs that started.
//! Output: one demand of each config whose values a run is about to read; for each run that started, the
//! bindings that serve it.
//! Invariants: it waits for nothing, and neither does the run: if a read fails or comes too late, the
//! run starts with the last good values. Without runs, nothing is demanded or reported.

use std::sync::Arc;

use crate::{
    doppler::Configs,
    prefect::{Connection, FlowRun},
    runs::{RunRegistry, StartedRuns},
};

/// Follows flow runs.
pub(super) struct RunStarts {
    pub(super) runs: Arc<RunRegistry>,
    pub(super) configs: Configs,
    pub(super) started: StartedRuns,
}

impl RunStarts {
    /// A worker took a run, and is about to create its Job.
    pub(super) fn on_pending(&self, server: &Arc<Connection>, run: &FlowRun) {
        self.configs.demand(&self.runs.refreshed_by(server, run));
    }

    /// The flow of a run begins.
    pub(super) fn on_started(&self, server: &Arc<Connection>, run: FlowRun) {
        let serving = self.runs.serving(server, &run);
        self.started.add(server, run, serving);
    }
}

//! Demands the configs of a flow run that is about to start.
//!
//! Input: the runs that Prefect servers report.
//! Output: one demand of each config whose values the run is about to read.
//! Invariants: it waits for nothing, and neither does the run: if a read fails or comes too late, the
//! run starts with the last good values. Without runs, nothing is demanded.

use std::sync::Arc;

use crate::{
    doppler::Configs,
    prefect::{Connection, PendingRun},
    runs::RunRegistry,
};

/// Demands configs when runs start.
pub(super) struct RunStarts {
    pub(super) runs: Arc<RunRegistry>,
    pub(super) configs: Configs,
}

impl RunStarts {
    /// Follows the start of a run.
    pub(super) fn on_run(&self, server: &Arc<Connection>, run: &PendingRun) {
        self.configs.demand(&self.runs.concerned(server, run));
    }
}

//! The real Prefect server and Kubernetes worker from a virtual environment, a client for tests,
//! and a stand-in for benchmarks.
//!
//! Input: the options of a server, or the work pool of a worker.
//! Output: running processes that end with their values, and responses of the server's API.
//! Invariants: no telemetry, and no files in the user's home.

mod api;
mod blocks;
mod command;
mod pools;
mod runs;
mod selection;
mod server;
mod stand_in;
mod worker;

pub use api::PrefectApi;
pub use blocks::Block;
pub(crate) use command::virtual_environment;
pub use pools::{env_from, kubernetes_template};
pub use runs::{Deployment, RunState};
pub use selection::{DATABASE_VARIABLE, Database, PrefectVersion, VERSION_VARIABLE};
pub use server::{PrefectOptions, PrefectServer};
pub use stand_in::{StandIn, StandInCounts};
pub use worker::{PrefectWorker, WorkerOptions};

use std::path::{Path, PathBuf};

/// The folder of the flows that tests and demo run: `flow.py` and `article.py`.
#[must_use]
pub fn flows() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("flows")
}

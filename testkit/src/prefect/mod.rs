//! The real Prefect: server and Kubernetes worker from the virtual environment, and a client for tests. Beside it a stand-in, for benchmarks only.
//!
//! In: which server is wanted, which pool is worked on. Out: running processes that end with their values, and what
//! the server's API answers. Never: telemetry, and nothing in the home folder of whoever runs the tests.

mod api;
mod blocks;
mod command;
mod pools;
mod runs;
mod server;
mod stand_in;
mod worker;

pub use api::PrefectApi;
pub use blocks::Block;
pub(crate) use command::virtual_environment;
pub use pools::{env_from, kubernetes_template};
pub use runs::{Deployment, RunState};
pub use server::{PrefectOptions, PrefectServer};
pub use stand_in::{StandIn, StandInCounts};
pub use worker::{PrefectWorker, WorkerOptions};

use std::path::{Path, PathBuf};

/// The folder of the flows that tests and demo run: `flow.py` and `article.py`.
#[must_use]
pub fn flows() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("flows")
}

//! Prefect's worker for the pool of a world.
//!
//! Input: a world.
//! Output: a worker of the pool that has the world's name.
//! Invariants: one worker runs at a time. The shared Prefect server keeps its data in `SQLite`, and
//! with several workers and their runs beside the other tests it answers 503; a worker reports a run
//! as crashed then.

use anyhow::Result;
use testkit::prefect::{PrefectWorker, WorkerOptions};
use tokio::sync::{Mutex, MutexGuard};

use crate::world::World;

static TURN: Mutex<()> = Mutex::const_new(());

/// A worker that runs until it is dropped.
pub struct Worker {
    // Dropped first, so that it has ended when the next one starts.
    _worker: PrefectWorker,
    _turn: MutexGuard<'static, ()>,
}

/// Starts a worker for the pool of the world, as soon as no other test has one.
pub async fn start_worker(world: &World) -> Result<Worker> {
    let turn = TURN.lock().await;
    let options = WorkerOptions {
        pool: world.name.clone(),
        name: format!("worker-of-{}", world.name),
        kubeconfig: world.plane.admin_kubeconfig_path(),
        env: Vec::new(),
    };
    Ok(Worker {
        _worker: PrefectWorker::start(world.prefect, &options).await?,
        _turn: turn,
    })
}

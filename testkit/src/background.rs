//! A server with its own thread and runtime.
//!
//! Input: a future that serves until it is stopped.
//! Output: a handle whose drop stops the server.
//! Invariants: the server does not use the runtime of a test, which ends with the test.

use std::future::Future;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

/// A running thread. Dropping it stops the server and every task that it spawned.
pub(crate) struct BackgroundServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundServer {
    /// Runs the future that `make` returns on a new thread. `make` runs inside the runtime, so it
    /// may spawn tasks and adopt sockets.
    pub(crate) fn start<F, S>(name: &str, make: F) -> Result<Self>
    where
        F: FnOnce() -> S + Send + 'static,
        S: Future<Output = ()>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("a runtime for the server")?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = make() => {}
                        _ = stopped => {}
                    }
                });
                // Dropping the runtime ends tasks in the middle of an await: requests that hang
                // must not block the thread.
                runtime.shutdown_background();
            })
            .context("a thread for the server")?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for BackgroundServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread has already printed its panic; a second one here would abort the test run.
            let _ = thread.join();
        }
    }
}

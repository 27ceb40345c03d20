//! A server on a thread and runtime of its own. In: a future that serves until it is told to stop. Out: a handle whose
//! drop stops it. It never shares the runtime of a test, since each test has its own and takes its tasks along.

use std::future::Future;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

/// The running thread. Dropping it ends the server and everything that it spawned.
pub(crate) struct BackgroundServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundServer {
    /// Runs what `make` gives on a new thread. `make` is called inside the runtime, so it may spawn and adopt sockets.
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
                // What still runs is dropped here, mid-await: requests that are never to be answered must not hold the thread.
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
            // A panic over there has already been printed; a second one here would abort the test run.
            let _ = thread.join();
        }
    }
}

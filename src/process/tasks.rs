//! The tasks of the process: each has a name, and all end together.
//!
//! Input: futures.
//! Output: the end of the process, on a signal or when a task ends or panics.
//! Invariants: every task is awaited. The message of a panic is not logged, because it may contain
//! anything.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// How long the tasks may take to end after the shutdown.
const GRACE: Duration = Duration::from_secs(20);

/// A task ended before the shutdown.
#[derive(Debug, thiserror::Error)]
#[error("the task {name:?} ended: {cause}")]
pub struct TaskEnded {
    name: &'static str,
    cause: &'static str,
}

/// The tasks of the process.
#[derive(Debug)]
pub struct Tasks {
    running: JoinSet<&'static str>,
    shutdown: CancellationToken,
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
}

impl Default for Tasks {
    fn default() -> Self {
        // A signal that arrives before the first wait is not lost.
        Self {
            running: JoinSet::new(),
            shutdown: CancellationToken::new(),
            terminate: signal(SignalKind::terminate()).ok(),
            interrupt: signal(SignalKind::interrupt()).ok(),
        }
    }
}

impl Tasks {
    /// No tasks yet. From now on SIGTERM and SIGINT are handled. Must be called within a runtime.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the process shuts down.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Runs `task` under `name` until the process ends. A task that ends earlier ends the process.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits for `first`, which more tasks depend on. `None` if a signal ends the process before that.
    ///
    /// # Errors
    /// If a task ended by itself.
    pub async fn until_ready<T>(
        &mut self,
        first: impl Future<Output = T>,
    ) -> Result<Option<T>, TaskEnded> {
        tokio::select! {
            first = first => Ok(Some(first)),
            ended = self.signal_or_ended() => ended.map_or(Ok(None), Err),
        }
    }

    /// Waits for SIGTERM, SIGINT or the end of a task, and then ends all tasks.
    ///
    /// # Errors
    /// If a task ended by itself.
    pub async fn run_to_end(mut self) -> Result<(), TaskEnded> {
        let ended = self.signal_or_ended().await;
        self.stop().await;
        ended.map_or(Ok(()), Err)
    }

    /// Ends all tasks.
    pub async fn stop(mut self) {
        info!("shutting down");
        self.shutdown.cancel();
        if timeout(GRACE, async {
            while self.running.join_next().await.is_some() {}
        })
        .await
        .is_err()
        {
            error!("some tasks did not end within {} s", GRACE.as_secs());
        }
    }

    /// Waits for a signal, or for the end of a task, which it returns.
    async fn signal_or_ended(&mut self) -> Option<TaskEnded> {
        tokio::select! {
            () = received(self.terminate.as_mut()) => None,
            () = received(self.interrupt.as_mut()) => None,
            Some(ended) = self.running.join_next() => Some(match ended {
                Ok(name) => TaskEnded { name, cause: "it should run until the shutdown" },
                // The message of a panic may contain anything.
                Err(_) => TaskEnded { name: "unknown", cause: "it panicked" },
            }),
        }
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_ends_all_other_tasks() {
        let mut tasks = Tasks::new();
        let shutdown = tasks.shutdown();
        let (ended, received_end) = tokio::sync::oneshot::channel();
        tasks.spawn("long", async move {
            shutdown.cancelled().await;
            let _ = ended.send(());
        });
        tasks.spawn("short", async {});
        let error = tasks.run_to_end().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the task \"short\" ended: it should run until the shutdown"
        );
        received_end.await.unwrap();
    }

    #[tokio::test]
    async fn until_ready_waits_unless_a_task_ends() {
        let mut tasks = Tasks::new();
        assert_eq!(tasks.until_ready(async { 7 }).await.unwrap(), Some(7));
        tasks.spawn("short", async {});
        let error = tasks
            .until_ready(std::future::pending::<()>())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("short"), "{error}");
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_the_process() {
        let mut tasks = Tasks::new();
        tasks.spawn("broken", async { panic!("never shown") });
        assert!(
            tasks
                .run_to_end()
                .await
                .unwrap_err()
                .to_string()
                .contains("it panicked")
        );
    }
}

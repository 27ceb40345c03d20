//! Tasks: spawned under a name, ended together.
//!
//! In: futures. Out: an end: by signal, by a task that ended although it should not have, or by a panic. Nothing is spawned and forgotten.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(20);

/// A task ended although the process was not told to end.
#[derive(Debug, thiserror::Error)]
#[error("the task {name:?} ended: {why}")]
pub struct TaskEnded {
    name: &'static str,
    why: &'static str,
}

/// The tasks of the process.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<&'static str>,
    shutdown: CancellationToken,
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the process is to end.
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

    /// Waits for SIGTERM, SIGINT, or the end of a task; then ends all tasks.
    ///
    /// # Errors
    /// If a task ended by itself.
    pub async fn until_end(mut self) -> Result<(), TaskEnded> {
        let ended = tokio::select! {
            () = told_to_end() => None,
            ended = self.running.join_next() => match ended {
                Some(Ok(name)) => Some(TaskEnded { name, why: "it should run for ever" }),
                // The panic's own message may hold anything: it is not shown.
                Some(Err(_)) => Some(TaskEnded { name: "unknown", why: "it panicked" }),
                None => None,
            },
        };
        info!("ending");
        self.shutdown.cancel();
        if timeout(GRACE, async {
            while self.running.join_next().await.is_some() {}
        })
        .await
        .is_err()
        {
            error!("some tasks did not end within {} s", GRACE.as_secs());
        }
        ended.map_or(Ok(()), Err)
    }
}

async fn told_to_end() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_ends_the_process_and_all_other_tasks() {
        let mut tasks = Tasks::new();
        let shutdown = tasks.shutdown();
        let (told, hears) = tokio::sync::oneshot::channel();
        tasks.spawn("long", async move {
            shutdown.cancelled().await;
            let _ = told.send(());
        });
        tasks.spawn("short", async {});
        let error = tasks.until_end().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the task \"short\" ended: it should run for ever"
        );
        hears.await.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_the_process() {
        let mut tasks = Tasks::new();
        tasks.spawn("broken", async { panic!("never shown") });
        assert!(
            tasks
                .until_end()
                .await
                .unwrap_err()
                .to_string()
                .contains("it panicked")
        );
    }
}

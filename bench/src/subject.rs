//! The interface of what is measured: a client that writes a Secret for each of its resources.
//!
//! Input: a testbed. Output: resources, the names of their Secrets, and a running subject.
//! Invariants: figures know a subject only by this interface, so that the operator and the floor
//! are measured in the same way. A subject measures nothing itself.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use kube::core::ApiResource;
use serde_json::Value;

use crate::testbed::Testbed;

/// What is measured.
pub trait Subject: Send + Sync {
    /// The name in tables.
    fn name(&self) -> &str;

    /// The kind of the resources.
    fn resource_kind(&self) -> ApiResource;

    /// The manifest of resource `index`.
    fn resource(&self, testbed: &Testbed<'_>, index: usize) -> Value;

    /// The name of resource `index`.
    fn resource_name(&self, index: usize) -> String;

    /// The name of the Secret of resource `index`.
    fn secret_name(&self, index: usize) -> String;

    /// The condition that is True once a resource is in sync.
    fn ready_condition(&self) -> &'static str {
        "Ready"
    }

    /// Starts the subject for the namespace of the testbed, and does not wait until it is ready.
    fn start<'a>(
        &'a self,
        testbed: &'a Testbed<'_>,
        options: &'a RunOptions,
    ) -> LocalBoxFuture<'a, Result<Box<dyn RunningSubject>>>;
}

/// A running subject. It stops with its value at the latest.
pub trait RunningSubject: Send + Sync {
    /// The process ID, if the subject is a process.
    fn pid(&self) -> Option<u32>;

    /// Checks that the subject is running.
    ///
    /// # Errors
    /// When it exited: the end of its log.
    fn ensure_running(&self) -> Result<()>;

    /// Waits until the subject reports that it is ready.
    fn wait_until_ready(&self, limit: Duration) -> LocalBoxFuture<'_, Result<()>>;

    /// Stops the subject as Kubernetes does, and waits until it exited.
    fn stop(self: Box<Self>) -> LocalBoxFuture<'static, Result<()>>;
}

/// The options of a run of a subject.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The poll interval.
    pub refresh: Duration,
    /// The receiver of Doppler's webhooks, if it is enabled.
    pub webhook: Option<Webhook>,
}

impl RunOptions {
    /// Options with this poll interval.
    #[must_use]
    pub fn refresh(refresh: Duration) -> Self {
        Self {
            refresh,
            webhook: None,
        }
    }

    /// Options with a poll interval that is longer than any run, so that only notifications trigger
    /// reads.
    #[must_use]
    pub fn without_polls() -> Self {
        Self::refresh(Duration::from_hours(1))
    }
}

/// The receiver of webhooks.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// `host:port`.
    pub address: String,
    /// A folder with one file for each secret; the file `_all` applies to all projects.
    pub secrets: PathBuf,
}

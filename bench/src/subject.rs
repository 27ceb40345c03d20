//! What can be measured: an operator that makes a Secret for each of its resources.
//!
//! In: a scene. Out: resources of its kind, the names of their Secrets, and a process that runs. This is all that a figure knows of an operator,
//! so another one can be measured in the same run.
//!
//! Never: a measurement, or a wait for anything but the start and the end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use kube::core::ApiResource;
use serde_json::Value;

use super::scene::Scene;

/// An operator.
pub trait Subject: Send + Sync {
    /// What it is called in tables.
    fn name(&self) -> &str;

    /// The kind of its resources.
    fn kind(&self) -> ApiResource;

    /// Its resource number `index`, as the API server is to get it.
    fn resource(&self, scene: &Scene<'_>, index: usize) -> Value;

    /// The name of the resource.
    fn resource_name(&self, index: usize) -> String;

    /// The name of the Secret that it makes for the resource.
    fn target(&self, index: usize) -> String;

    /// The condition of a resource that is True once all is done.
    fn done(&self) -> &'static str {
        "Ready"
    }

    /// Starts it for the scene's namespace, and does not wait for it.
    fn start<'a>(
        &'a self,
        scene: &'a Scene<'_>,
        how: &'a How,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Running>>>;
}

/// One that runs. It ends with its value at the latest.
pub trait Running: Send + Sync {
    /// Its process, if it is one.
    fn pid(&self) -> Option<u32>;

    /// Looks whether it still runs.
    ///
    /// # Errors
    /// When it has ended: its last words.
    fn still_runs(&self) -> Result<()>;

    /// Waits until it says that it is ready.
    fn ready(&self, limit: Duration) -> LocalBoxFuture<'_, Result<()>>;

    /// Ends it as Kubernetes would, and waits for its end.
    fn stop(self: Box<Self>) -> LocalBoxFuture<'static, Result<()>>;
}

/// How it is to run.
#[derive(Clone, Debug)]
pub struct How {
    /// The interval between its polls.
    pub refresh: Duration,
    /// Where signed hooks of Doppler are taken, if they are.
    pub hooks: Option<Hooks>,
}

impl How {
    /// With that interval.
    #[must_use]
    pub fn refresh(refresh: Duration) -> Self {
        Self {
            refresh,
            hooks: None,
        }
    }

    /// With an interval that does not come round: what happens was caused by an event.
    #[must_use]
    pub fn without_polls() -> Self {
        Self::refresh(Duration::from_hours(1))
    }
}

/// The receiver of hooks.
#[derive(Clone, Debug)]
pub struct Hooks {
    /// `host:port`.
    pub address: String,
    /// A folder with one secret a file; that of `_all` speaks for all projects.
    pub secrets: PathBuf,
}

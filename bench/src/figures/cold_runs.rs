//! The runs of a cold sync figure: those of the subject, and those of the floor.
//!
//! Input: workloads. Output: `ColdSync` of each run, and the fastest of several.
//! Invariants: each run has its own namespace; the subject has stopped when a run returns.

use std::time::Duration;

use anyhow::{Context, Result};

use super::cold_counts::UpstreamReads;
use super::context::FigureContext;
use crate::cold_sync::{self, ColdSync};
use crate::floor::Floor;
use crate::subject::{RunOptions, Subject};
use crate::workload::Workload;

/// The runs of one figure.
pub struct ColdRuns<'r, 'a> {
    context: &'r FigureContext<'a>,
    figure: &'r str,
    floor: Option<Floor<'r>>,
}

impl<'r, 'a> ColdRuns<'r, 'a> {
    /// Runs of the subject and of the floor.
    ///
    /// # Errors
    /// When the calibration of the floor fails.
    pub async fn compared(context: &'r FigureContext<'a>, figure: &'r str) -> Result<Self> {
        let calibration = context.calibration().await?;
        Ok(Self {
            context,
            figure,
            floor: Some(calibration.floor(context.subject)),
        })
    }

    /// Runs of the subject only.
    #[must_use]
    pub fn subject_only(context: &'r FigureContext<'a>, figure: &'r str) -> Self {
        Self {
            context,
            figure,
            floor: None,
        }
    }

    /// One run of the subject.
    ///
    /// # Errors
    /// When the subject is not in sync in time.
    pub async fn subject(
        &self,
        name: &str,
        round: usize,
        workload: Workload,
    ) -> Result<(ColdSync, UpstreamReads)> {
        let name = format!("{name}-{round}");
        self.run(self.context.subject, &name, workload).await
    }

    /// One run of the floor.
    ///
    /// # Errors
    /// When the API server rejects a write.
    pub async fn floor(&self, round: usize, workload: Workload) -> Result<ColdSync> {
        let floor = self.floor.as_ref().context("these runs have no floor")?;
        // The floor sends no request upstream, so that it needs no real server.
        let workload = Workload {
            real_prefect: false,
            ..workload
        };
        let name = format!("floor-{round}");
        Ok(self.run(floor, &name, workload).await?.0)
    }

    async fn run(
        &self,
        subject: &dyn Subject,
        name: &str,
        workload: Workload,
    ) -> Result<(ColdSync, UpstreamReads)> {
        let name = format!("{}-{name}", self.figure);
        let options = RunOptions::without_polls();
        let plane = self.context.plane;
        let synced = cold_sync::run(plane, subject, &name, workload, &options).await?;
        let reads = UpstreamReads::of(&synced.testbed);
        synced.running.stop().await?;
        Ok((synced.cold, reads))
    }
}

/// The fastest of several runs, and the times of all.
#[derive(Default)]
pub struct Fastest {
    run: Option<ColdSync>,
    /// The total time of each run, in order.
    pub times: Vec<Duration>,
}

impl Fastest {
    /// Adds a run.
    pub fn add(&mut self, run: ColdSync) {
        self.times.push(run.total);
        if self.run.as_ref().is_none_or(|best| run.total < best.total) {
            self.run = Some(run);
        }
    }

    /// The fastest run.
    ///
    /// # Errors
    /// When no run was added.
    pub fn run(&self) -> Result<&ColdSync> {
        self.run.as_ref().context("the figure has no run")
    }

    /// The times of all runs in seconds, as text.
    #[must_use]
    pub fn all_times(&self) -> String {
        let times = self
            .times
            .iter()
            .map(|time| format!("{:.2}", time.as_secs_f64()));
        times.collect::<Vec<_>>().join(", ")
    }
}

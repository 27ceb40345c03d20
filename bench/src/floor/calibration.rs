//! The calibration of the floor: at which concurrency the minimal client is fastest on this
//! machine.
//!
//! Input: a control plane, the subject and the sizes. Output: `Calibration`.
//! Invariants: all concurrencies are tried with the same number of resources in the same namespace.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use testkit::control_plane::ControlPlane;

use super::client::Floor;
use super::recorded::RecordedWrites;
use crate::cold_sync::{self, LIMIT};
use crate::number::as_f64;
use crate::resources;
use crate::sizes::Sizes;
use crate::subject::{RunOptions, Subject};
use crate::workload::Workload;
use crate::write_watch::WriteWatch;

/// What a floor needs before a figure is measured.
#[derive(Clone, Debug)]
pub struct Calibration {
    recorded: Arc<RecordedWrites>,
    /// The concurrency at which the floor is fastest.
    pub concurrency: usize,
    /// For each concurrency: the number of resources a second.
    pub rates: Vec<(usize, f64)>,
}

impl Calibration {
    /// The floor of that subject.
    #[must_use]
    pub fn floor<'a>(&self, subject: &'a dyn Subject) -> Floor<'a> {
        Floor::new(subject, Arc::clone(&self.recorded), self.concurrency)
    }
}

/// Records the writes of the subject for one resource, and finds the fastest concurrency.
///
/// # Errors
/// When the subject is not in sync in time, or the API server rejects a write.
pub async fn calibrate(
    plane: &ControlPlane,
    subject: &dyn Subject,
    sizes: &Sizes,
) -> Result<Calibration> {
    let workload = Workload {
        bindings: 1,
        ..Workload::small(sizes)
    };
    let options = RunOptions::without_polls();
    let synced = cold_sync::run(plane, subject, "floor-recorded", workload, &options).await?;
    let recorded = Arc::new(RecordedWrites::read(&synced.testbed, subject).await?);
    synced.stop().await?;

    let workload = Workload {
        bindings: sizes.calibration * sizes.concurrencies.len(),
        ..Workload::small(sizes)
    };
    let testbed = resources::prepare(plane, subject, "floor-calibration", workload).await?;
    let watch = WriteWatch::start(&testbed, subject).await?;
    let mut rates = Vec::new();
    for (at, &concurrency) in sizes.concurrencies.iter().enumerate() {
        let floor = Floor::new(subject, Arc::clone(&recorded), concurrency);
        let range = at * sizes.calibration..(at + 1) * sizes.calibration;
        let started_at = Instant::now();
        floor.create(&testbed, range).await?;
        let written = (at + 1) * sizes.calibration;
        watch.until_synced(LIMIT, written).await?;
        let rate = as_f64(sizes.calibration) / started_at.elapsed().as_secs_f64();
        rates.push((concurrency, rate));
    }
    let fastest = rates.iter().max_by(|one, other| one.1.total_cmp(&other.1));
    let concurrency = fastest.context("the sizes have no concurrency")?.0;
    Ok(Calibration {
        recorded,
        concurrency,
        rates,
    })
}

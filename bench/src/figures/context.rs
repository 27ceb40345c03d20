//! What a figure gets: a control plane, the subject, the sizes, and the calibrated floor.
//!
//! Input: the options of the run. Output: `FigureContext`.
//! Invariants: the floor is calibrated at most once in a run, when the first figure needs it.

use anyhow::Result;
use testkit::control_plane::ControlPlane;
use tokio::sync::OnceCell;

use crate::cold_sync::{self, Synced};
use crate::floor::{Calibration, calibrate};
use crate::sizes::Sizes;
use crate::subject::{RunOptions, Subject};
use crate::workload::Workload;

/// What a figure gets.
#[derive(Clone, Copy)]
pub struct FigureContext<'a> {
    /// The control plane.
    pub plane: &'a ControlPlane,
    /// The subject.
    pub subject: &'a dyn Subject,
    /// The sizes of the runs.
    pub sizes: Sizes,
    /// True: only counts are measured.
    pub counts_only: bool,
    /// The calibration of the floor, once a figure needed it.
    pub calibration: &'a OnceCell<Calibration>,
}

impl<'a> FigureContext<'a> {
    /// A small run on one config, without a work pool.
    #[must_use]
    pub fn small(&self) -> Workload {
        Workload::small(&self.sizes)
    }

    /// The calibration of the floor.
    ///
    /// # Errors
    /// When the calibration fails.
    pub async fn calibration(&self) -> Result<&Calibration> {
        self.calibration
            .get_or_try_init(|| calibrate(self.plane, self.subject, &self.sizes))
            .await
    }

    /// A cold sync of the subject.
    ///
    /// # Errors
    /// When the subject exits, or is not in sync in time.
    pub async fn cold_sync(
        &self,
        name: &str,
        workload: Workload,
        options: &RunOptions,
    ) -> Result<Synced<'a>> {
        cold_sync::run(self.plane, self.subject, name, workload, options).await
    }
}

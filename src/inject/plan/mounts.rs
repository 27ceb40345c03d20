//! The mounts of a pool's template, as far as claims name them.
//!
//! Input: the template, the claims, and the job as the worker renders it.
//! Output: how the template mounts the files of each claim.
//! Invariants: pure.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::crd::{MountSpec, files_secret_of};
use crate::inject::claim::{Claim, Want};
use crate::inject::job_volumes::JobVolumes;
use crate::inject::template::{EntryState, NotEditable, StandingMount, standing_mount};

/// The mounts of a template, as far as claims name them.
#[derive(Default)]
pub(super) struct PoolMounts {
    /// By the Secret of the claim.
    pub(super) standing: BTreeMap<String, StandingMount>,
    /// Why the template cannot take a mount.
    error: Option<NotEditable>,
    /// As the worker renders them.
    pub(super) rendered: JobVolumes,
}

impl PoolMounts {
    /// Reads the mounts of these claims. `render` renders the job.
    pub(super) fn of<'a>(
        template: &RawValue,
        claims: impl Iterator<Item = &'a Claim>,
        render: impl FnOnce() -> JobVolumes,
    ) -> Self {
        let mut mounts = Self::default();
        for claim in claims.filter(|claim| claim.mount.is_some()) {
            match standing_mount(template, &claim.secret) {
                Ok(standing) => {
                    mounts.standing.insert(claim.secret.clone(), standing);
                }
                Err(error) => mounts.error = Some(error),
            }
        }
        if !mounts.standing.is_empty() || mounts.error.is_some() {
            mounts.rendered = render();
        }
        mounts
    }

    /// Why the template cannot take a mount.
    pub(super) const fn error(&self) -> Option<&NotEditable> {
        self.error.as_ref()
    }

    /// How the template mounts the files of a claim. A mount that a user wrote has another shape.
    pub(super) fn state(&self, claim: &Claim) -> EntryState {
        let Some(mount) = &claim.mount else {
            return EntryState::Absent;
        };
        let standing = self.standing.get(&claim.secret);
        let state = standing.map_or(EntryState::Absent, |standing| standing.state);
        match state {
            EntryState::Exact { .. } => state,
            // A part that is left has to go.
            EntryState::Incomplete if claim.want == Want::Absent => EntryState::Incomplete,
            _ if self.is_by_others(claim, mount) => EntryState::OtherShape,
            _ => state,
        }
    }

    fn is_by_others(&self, claim: &Claim, mount: &MountSpec) -> bool {
        let files = files_secret_of(&claim.secret);
        claim.want != Want::Absent && self.rendered.mounts_secret(&files, &mount.path)
    }
}

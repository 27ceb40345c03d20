//! The mounts of a pool's template, and why a claim cannot have its mount.
//!
//! Input: the pool, the claims that it can serve, and what this process wrote.
//! Output: for each claim of a mount, its state, a [`Rejection`], or that it waits for an earlier one of
//! its own binding.
//! Invariants: pure. A path has one mount: the one that stands there, or else the first recorded one by
//! the name of the Secret. Others are rejected until the path is free. A claim that is not recorded, whose
//! binding may never own its Secret, keeps no path from another one.

use std::collections::{BTreeMap, BTreeSet};

use super::eligibility::Rejection;
use super::view::{History, PoolView};
use crate::crd::{InjectMode, MountSpec, WorkPoolState as State, files_secret_of};
use crate::inject::claim::{Claim, Want};
use crate::inject::job_volumes::JobVolumes;
use crate::inject::template::{
    EntryState, NotEditable, StandingMount, standing_mount, volume_name,
};
use crate::reason::Reason;

/// The mounts of a template, as far as claims name them.
#[derive(Default)]
pub(super) struct PoolMounts {
    /// By the Secret of the claim.
    standing: BTreeMap<String, StandingMount>,
    /// Why the template cannot take a mount.
    error: Option<NotEditable>,
    /// As the worker renders them.
    rendered: JobVolumes,
}

/// Whether a claim can have its mount.
pub(super) enum Admittance {
    Admitted,
    /// The path still has the mount of an earlier Secret of the binding, which goes with the next edit.
    Waits,
    Rejected(Rejection),
}

impl PoolMounts {
    /// Reads the mounts of these claims. `render` renders the job.
    pub(super) fn of<'a>(
        view: &PoolView<'_>,
        claims: impl Iterator<Item = &'a Claim>,
        render: impl FnOnce() -> JobVolumes,
    ) -> Self {
        let mut mounts = Self::default();
        for claim in claims.filter(|claim| claim.mount.is_some()) {
            match standing_mount(view.template, &claim.secret) {
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

    /// Whether the claim can have its mount. `served` are all claims that the pool can serve, and
    /// `leaving` the volumes whose mounts go with the next edit.
    pub(super) fn admit(
        &self,
        view: &PoolView<'_>,
        claim: &Claim,
        served: &[&Claim],
        leaving: &BTreeSet<String>,
    ) -> Admittance {
        let writes = claim.mode == InjectMode::Patch && view.owner.is_none();
        let Some(mount) = claim
            .mount
            .as_ref()
            .filter(|_| writes && claim.want != Want::Absent)
        else {
            return Admittance::Admitted;
        };
        if self.state(claim) == EntryState::OtherShape {
            return Admittance::Admitted;
        }
        let volume = volume_name(&claim.secret);
        let standing = self.standing.get(&claim.secret);
        let stands = standing.is_some_and(|standing| standing.state != EntryState::Absent);
        if self.rendered.has_volume(&volume) && !stands {
            return Admittance::Rejected(taken(
                view,
                &format!("has a volume {volume}, which is the name of the operator's"),
                "remove it from the template, or set managedSecret.name",
            ));
        }
        let holder = served
            .iter()
            .copied()
            .filter(|other| competes(other, mount));
        let holder = holder.min_by_key(|other| self.rank(other, mount));
        match holder.filter(|holder| holder.secret != claim.secret) {
            Some(holder) if is_same_binding(holder, claim) => return Admittance::Waits,
            Some(holder) => {
                return Admittance::Rejected(taken(
                    view,
                    &format!(
                        "has the files of Secret {} at {}",
                        files_secret_of(&holder.secret),
                        mount.path
                    ),
                    "use another path in mount",
                ));
            }
            None => {}
        }
        let mut others = self.rendered.at(&mount.path);
        match others.find(|other| other.volume != volume && !leaving.contains(&other.volume)) {
            Some(other) => Admittance::Rejected(taken(
                view,
                &format!("mounts its volume {} at {}", other.volume, mount.path),
                "use another path in mount",
            )),
            None => Admittance::Admitted,
        }
    }

    /// Which of several claims has the path: the lowest.
    fn rank<'a>(&self, claim: &'a Claim, mount: &MountSpec) -> (bool, &'a str) {
        let standing = self.standing.get(&claim.secret);
        let path = standing.and_then(|standing| standing.path.as_ref());
        (path != Some(&mount.path), &claim.secret)
    }
}

/// The volumes whose mounts these claims remove, and no other claim keeps.
pub(super) fn leaving_volumes(claims: &[&Claim], history: &History) -> BTreeSet<String> {
    let volumes = |leaves: bool| {
        let claims = claims
            .iter()
            .filter(move |claim| claim.mount.is_some() && (claim.want == Want::Absent) == leaves);
        claims.filter(move |claim| !leaves || history.is_ours(claim))
    };
    let kept: BTreeSet<String> = volumes(false)
        .map(|claim| volume_name(&claim.secret))
        .collect();
    let left = volumes(true).map(|claim| volume_name(&claim.secret));
    left.filter(|volume| !kept.contains(volume)).collect()
}

/// Whether a claim writes a mount at the same path.
fn competes(claim: &Claim, mount: &MountSpec) -> bool {
    let same_path = claim
        .mount
        .as_ref()
        .is_some_and(|other| other.path == mount.path);
    let writes = claim.mode == InjectMode::Patch && claim.recorded;
    same_path && claim.want != Want::Absent && writes
}

fn is_same_binding(one: &Claim, other: &Claim) -> bool {
    one.namespace == other.namespace && one.binding == other.binding
}

fn taken(view: &PoolView<'_>, what: &str, advice: &str) -> Rejection {
    let pool = view.pool;
    Rejection::new(
        State::NotEditable,
        Reason::PoolMountTaken,
        format!("work pool {pool} {what}: {advice}"),
    )
}

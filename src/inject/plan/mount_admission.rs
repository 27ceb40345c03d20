//! Which claims can have their mount in a pool.
//!
//! Input: the pool with its mounts, the claims that it can serve, and what this process wrote.
//! Output: for each claim of a mount, that it is admitted, a [`Rejection`], or that it waits for an earlier
//! one of its own binding.
//! Invariants: pure. A path has one mount: the one that stands there, or else the first recorded one by
//! the name of the Secret. Others are rejected until the path is free. A claim that is not recorded, whose
//! binding may never own its Secret, keeps no path from another one.

use std::collections::BTreeSet;

use super::eligibility::Rejection;
use super::mounts::PoolMounts;
use super::view::{History, PoolView};
use crate::crd::{InjectMode, MountSpec, WorkPoolState as State, files_secret_of};
use crate::inject::claim::{Claim, Want};
use crate::inject::template::{EntryState, volume_name};
use crate::reason::Reason;

/// Whether a claim can have its mount.
pub(super) enum Admittance {
    Admitted,
    /// The path still has the mount of an earlier Secret of the binding, which goes with the next edit.
    Waits,
    Rejected(Rejection),
}

/// Whether the claim can have its mount. `served` are all claims that the pool can serve, and
/// `leaving` the volumes whose mounts go with the next edit.
pub(super) fn admit(
    mounts: &PoolMounts,
    (view, served): (&PoolView<'_>, &[&Claim]),
    claim: &Claim,
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
    if mounts.state(claim) == EntryState::OtherShape {
        return Admittance::Admitted;
    }
    let volume = volume_name(&claim.secret);
    let standing = mounts.standing.get(&claim.secret);
    let stands = standing.is_some_and(|standing| standing.state != EntryState::Absent);
    if mounts.rendered.has_volume(&volume) && !stands {
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
    let holder = holder.min_by_key(|other| rank(mounts, other, mount));
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
    let mut others = mounts.rendered.at(&mount.path);
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
fn rank<'a>(mounts: &PoolMounts, claim: &'a Claim, mount: &MountSpec) -> (bool, &'a str) {
    let standing = mounts.standing.get(&claim.secret);
    let path = standing.and_then(|standing| standing.path.as_ref());
    (path != Some(&mount.path), &claim.secret)
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

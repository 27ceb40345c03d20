//! Pure: what to write to a pool, and what to report for each claim.
//!
//! Input: the pool as the server sent it, all claims on it, its owner, and what this process wrote.
//! Output: at most one new template, and an observation for each claim.
//! Invariants: sends nothing and reads no clock.
//!
//! Decisions that no other place shows:
//! - A pool whose jobs moved to another namespace or cluster after we wrote our entry loses the
//!   entry. With `optional: true` it would have no effect there; with `optional: false` it would
//!   block every run.
//! - The operator never writes an owned pool, not even to remove an entry: the owner writes the
//!   whole template again. Entries in it count as the owner's.
//! - In mode `Observe` an entry counts as the user's, even if we wrote it before the mode changed.
//! - An entry that a placeholder brings counts as the user's, because no edit can take it away.
//! - If two bindings claim one Secret, its entry stays while one of them wants it, over whichever
//!   connection. If they differ, `optional: true` wins.
//! - A name that a variable offers stays while deployments choose it, unless its claim says
//!   otherwise: without it, Prefect refuses every new run of theirs.
//! - All bindings of a pool use one variable. A variable that a binding gives up stays beside the
//!   next one until its names are out.
//! - The path of a mount belongs to the binding that has it. A mount whose new path is taken stays at
//!   its old one.
//! - A claim that the pool cannot serve, as from another namespace, or that may never own the
//!   Secret, keeps no entry in the pool: else it could stop the removal of another tenant's entry.

mod deployments;
mod eligibility;
mod mount_admission;
mod mounts;
mod observe;
mod usage;
mod variables;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use self::deployments::Unserved;
use self::eligibility::{Rejection, find_rejection};
use self::mount_admission::{Admittance, admit, leaving_volumes};
use self::observe::{Observed, add_shadows, observe_claim};
use self::usage::Usage;
use self::variables::PoolVariables;
use self::view::{KUBERNETES, ParsedTemplate};
use super::claim::{Adoption, Claim, Observation, UsedName, Want};
use super::template::{Edit, Entry, EntryKey, EntryState, edit};
use crate::crd::InjectMode;

pub use self::view::{History, PoolView, destination_variables};

/// What to write and what to report.
pub struct Plan {
    /// The template to write.
    pub edit: Option<Box<RawValue>>,
    /// For each claim, in their order, what the template as it was read means for it.
    pub observations: Vec<Observation>,
    /// Entries that are in the template.
    pub present: BTreeSet<EntryKey>,
    /// Entries that have to stay in the template.
    pub required: BTreeSet<EntryKey>,
}

/// What the claims together ask of the template.
#[derive(Default)]
struct Demand {
    /// Entries that have to be in the template.
    entries: Vec<Entry>,
    /// Entries that the operator may add, change or remove.
    editable: BTreeSet<EntryKey>,
    /// Entries that have to stay in the template.
    required: BTreeSet<EntryKey>,
    /// Entries that stay as they are, because a claim relies on them.
    protected: BTreeSet<EntryKey>,
    /// Names that stay, because deployments choose them, and who does.
    used: BTreeMap<EntryKey, Usage>,
}

/// Plans one write of a pool for all claims.
#[must_use]
pub fn plan(view: &PoolView<'_>, claims: &[&Claim], history: &History) -> Plan {
    let parsed = ParsedTemplate::parse(view, claims, &history.elsewhere);
    let mut rejections: Vec<_> = claims
        .iter()
        .map(|claim| find_rejection(view, &parsed, claim))
        .collect();
    let elsewhere: Vec<_> = history
        .elsewhere
        .iter()
        .map(|claim| (claim, find_rejection(view, &parsed, claim)))
        .collect();
    let served = claims.iter().copied().zip(&rejections);
    let served = served.chain(
        elsewhere
            .iter()
            .map(|(claim, rejection)| (*claim, rejection)),
    );
    let served = served.filter(|(_, rejection)| rejection.is_none());
    let served: Vec<&Claim> = served.map(|(claim, _)| claim).collect();
    let variables = PoolVariables::of(served.iter().copied(), history);
    let leaving = leaving_volumes(claims, history);
    let mut waiting = BTreeSet::new();
    for (claim, rejection) in claims.iter().zip(&mut rejections) {
        if rejection.is_none() {
            *rejection = variables.find_rejection(view, &parsed, claim);
        }
        if rejection.is_none() && claim.mount.is_some() {
            match admit(&parsed.mounts, (view, &served), claim, &leaving) {
                Admittance::Admitted => {}
                Admittance::Waits => drop(waiting.insert(claim.key())),
                Admittance::Rejected(taken) => *rejection = Some(taken),
            }
        }
    }
    let mut demand = Demand::of(claims, &rejections, history);
    demand
        .entries
        .retain(|entry| !waiting.contains(&entry.key()));
    for (claim, rejection) in &elsewhere {
        demand.protect(claim, rejection.as_ref());
    }
    demand.release_others(&parsed, claims);
    demand.hold_used(view, &parsed, claims);
    let edit = demand.edit(view);
    let present = claims
        .iter()
        .filter(|claim| {
            let state = parsed.claim_state(claim);
            !matches!(state, EntryState::Absent | EntryState::Incomplete)
        })
        .map(|claim| claim.key())
        .collect();
    let keys: BTreeMap<&str, &BTreeSet<String>> = claims
        .iter()
        .filter(|claim| claim.mount.is_none())
        .map(|claim| (claim.secret.as_str(), &*claim.keys))
        .collect();
    let observe = |(claim, rejection): (&&Claim, Option<Rejection>)| {
        let key = claim.key();
        let observed = Observed {
            claim,
            rejection,
            entry: parsed.claim_state(claim),
            kept: demand.keeps(&key),
            operators: history.is_operators(&key, claims) || is_adopted(&parsed, claim),
            used: demand.used.get(&key),
        };
        let mut observation = observe_claim(view, history, observed);
        observation.used_by = Usage::of(view, &parsed, &key).deployments;
        // A mount overrides nothing, and the deployments are those of the binding's entry.
        if claim.want != Want::Absent && claim.mount.is_none() {
            add_shadows(view, &parsed, claim, &keys, &mut observation);
        }
        observation
    };
    let observations = claims.iter().zip(rejections).map(observe).collect();
    Plan {
        edit,
        observations,
        present,
        required: demand.required,
    }
}

/// Whether a variable or a mount of exactly our shape is ours, because an older version recorded the
/// entry.
fn is_adopted(parsed: &ParsedTemplate<'_>, claim: &Claim) -> bool {
    if claim.mount.is_some() {
        let state = parsed.claim_state(claim);
        return claim.adoption == Adoption::OfOurShape && matches!(state, EntryState::Exact { .. });
    }
    let variable = claim
        .variable
        .as_ref()
        .filter(|_| claim.adoption == Adoption::OfOurShape);
    let declared = variable.and_then(|variable| parsed.declared(variable));
    declared.is_some_and(|declared| declared.has_our_description)
}

/// The deployments that send jobs to namespaces without the Secret of the claim, by namespace.
#[must_use]
pub fn unserved_deployments(view: &PoolView<'_>, claim: &Claim) -> BTreeMap<String, Vec<String>> {
    let parsed = ParsedTemplate::parse(view, &[claim], &[]);
    Unserved::of(&parsed.deployments, claim).elsewhere
}

impl Demand {
    fn of(claims: &[&Claim], rejections: &[Option<Rejection>], history: &History) -> Self {
        let mut demand = Self::default();
        for (claim, rejection) in claims.iter().zip(rejections) {
            let key = claim.key();
            let owned = history.is_ours(claim);
            let writes = claim.mode == InjectMode::Patch && claim.recorded;
            demand.protect(claim, rejection.as_ref());
            match claim.want {
                Want::Present if writes && rejection.is_none() => {
                    demand.entries.push(claim.entry());
                    demand.editable.insert(key.clone());
                    demand.required.insert(key);
                }
                // The variable is a user's.
                Want::Present if rejection.as_ref().is_some_and(Rejection::is_taken) => {}
                Want::Present | Want::Absent if owned && (writes || claim.want == Want::Absent) => {
                    demand.editable.insert(key);
                }
                Want::Present | Want::Absent | Want::Observe => {}
            }
        }
        demand
    }

    /// Protects the entry of a claim that relies on it and that the pool can serve.
    fn protect(&mut self, claim: &Claim, rejection: Option<&Rejection>) {
        let relies = claim.mode == InjectMode::Observe || claim.recorded;
        if claim.want != Want::Absent && relies && rejection.is_none() {
            self.protected.insert(claim.key());
        }
    }

    /// Leaves the entries to others that are theirs.
    fn release_others(&mut self, parsed: &ParsedTemplate<'_>, claims: &[&Claim]) {
        // An entry that a claim only observes stays as it is, unless another claim requires it.
        let (required, protected) = (&self.required, &self.protected);
        self.editable
            .retain(|key| required.contains(key) || !protected.contains(key));
        // A user's entry of another shape makes ours unnecessary.
        let theirs = claims.iter().filter(|claim| {
            claim.want != Want::Absent && parsed.claim_state(claim) == EntryState::OtherShape
        });
        let theirs: BTreeSet<EntryKey> = theirs.map(|claim| claim.key()).collect();
        self.entries.retain(|entry| !theirs.contains(&entry.key()));
    }

    /// Keeps the names that deployments choose, unless a claim gives them up.
    fn hold_used(&mut self, view: &PoolView<'_>, parsed: &ParsedTemplate<'_>, claims: &[&Claim]) {
        let given_up: BTreeSet<EntryKey> = claims
            .iter()
            .filter(|claim| claim.used_name == UsedName::Goes)
            .map(|claim| claim.key())
            .collect();
        let (required, used) = (&self.required, &mut self.used);
        self.editable.retain(|key| {
            if required.contains(key) || given_up.contains(key) {
                return true;
            }
            let usage = Usage::of(view, parsed, key);
            let is_used = usage.is_used();
            if is_used {
                used.insert(key.clone(), usage);
            }
            !is_used
        });
    }

    /// Whether an entry stays for a claim that relies on it.
    fn keeps(&self, key: &EntryKey) -> bool {
        self.required.contains(key) || self.protected.contains(key)
    }

    /// The template to write, if the template as it was read differs from it.
    fn edit(&self, view: &PoolView<'_>) -> Option<Box<RawValue>> {
        if view.owner.is_some() || self.editable.is_empty() || view.pool_type != KUBERNETES {
            return None;
        }
        match edit(view.template, &self.entries, &self.editable) {
            Ok(Edit::Changed(template)) => Some(template),
            Ok(Edit::Unchanged) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;

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
//! - A claim that the pool cannot serve, as from another namespace, or that may never own the
//!   Secret, keeps no entry in the pool: else it could stop the removal of another tenant's entry.

mod deployments;
mod eligibility;
mod observe;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use self::deployments::Unserved;
use self::eligibility::{Rejection, find_rejection};
use self::observe::{Observed, add_shadows, observe_claim};
use self::view::{KUBERNETES, ParsedTemplate};
use super::claim::{Claim, Observation, Want};
use super::template::{Edit, Entry, EntryState, edit};
use crate::crd::InjectMode;

pub use self::view::{History, PoolView, destination_variables};

/// What to write and what to report.
pub struct Plan {
    /// The template to write.
    pub edit: Option<Box<RawValue>>,
    /// For each claim, in their order, what the template as it was read means for it.
    pub observations: Vec<Observation>,
    /// Secrets whose entry is in the template.
    pub present: BTreeSet<String>,
    /// Secrets whose entry has to stay in the template.
    pub required: BTreeSet<String>,
}

/// What the claims together ask of the template.
#[derive(Default)]
struct Demand {
    /// Entries that have to be in the template.
    entries: Vec<Entry>,
    /// Secrets whose entry the operator may add, change or remove.
    editable: BTreeSet<String>,
    /// Secrets whose entry has to stay in the template.
    required: BTreeSet<String>,
    /// Secrets whose entry stays as it is, because a claim relies on it.
    protected: BTreeSet<String>,
}

/// Plans one write of a pool for all claims.
#[must_use]
pub fn plan(view: &PoolView<'_>, claims: &[&Claim], history: &History) -> Plan {
    let parsed = ParsedTemplate::parse(view, claims);
    let rejections: Vec<_> = claims
        .iter()
        .map(|claim| find_rejection(view, &parsed, claim))
        .collect();
    let mut demand = Demand::of(claims, &rejections, &parsed, history);
    for claim in &history.elsewhere {
        let rejection = find_rejection(view, &parsed, claim);
        demand.protect(claim, rejection.as_ref());
    }
    demand.release_others(&parsed);
    let edit = demand.edit(view);
    let present = claims
        .iter()
        .filter(|claim| parsed.state(&claim.secret) != EntryState::Absent)
        .map(|claim| claim.secret.clone())
        .collect();
    let keys: BTreeMap<&str, &BTreeSet<String>> = claims
        .iter()
        .map(|claim| (claim.secret.as_str(), &*claim.keys))
        .collect();
    let observe = |(claim, rejection): (&&Claim, Option<Rejection>)| {
        let observed = Observed {
            claim,
            rejection,
            entry: parsed.state(&claim.secret),
            kept: demand.keeps(&claim.secret),
            operators: history.is_operators(&claim.secret, claims),
        };
        let mut observation = observe_claim(view, history, observed);
        if claim.want != Want::Absent {
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

/// The deployments that send jobs to namespaces without the Secret of the claim, by namespace.
#[must_use]
pub fn unserved_deployments(view: &PoolView<'_>, claim: &Claim) -> BTreeMap<String, Vec<String>> {
    let parsed = ParsedTemplate::parse(view, &[claim]);
    Unserved::of(&parsed.deployments, claim).elsewhere
}

impl Demand {
    fn of(
        claims: &[&Claim],
        rejections: &[Option<Rejection>],
        parsed: &ParsedTemplate<'_>,
        history: &History,
    ) -> Self {
        let mut demand = Self::default();
        for (claim, rejection) in claims.iter().zip(rejections) {
            let secret = || claim.secret.clone();
            let owned = history.is_ours(claim);
            let writes = claim.mode == InjectMode::Patch && claim.recorded;
            demand.protect(claim, rejection.as_ref());
            match claim.want {
                Want::Present if writes && rejection.is_none() => {
                    if owned || parsed.state(&claim.secret) == EntryState::Absent {
                        demand.entries.push(Entry {
                            secret: secret(),
                            optional: claim.optional,
                        });
                        demand.editable.insert(secret());
                    }
                    demand.required.insert(secret());
                }
                Want::Present | Want::Absent if owned && (writes || claim.want == Want::Absent) => {
                    demand.editable.insert(secret());
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
            self.protected.insert(claim.secret.clone());
        }
    }

    /// Leaves the entries to others that are theirs.
    fn release_others(&mut self, parsed: &ParsedTemplate) {
        // An entry that a claim only observes stays as it is, unless another claim requires it.
        let (required, protected) = (&self.required, &self.protected);
        self.editable
            .retain(|secret| required.contains(secret) || !protected.contains(secret));
        // A user's entry of another shape makes ours unnecessary.
        self.entries
            .retain(|entry| parsed.state(&entry.secret) != EntryState::OtherShape);
    }

    /// Whether an entry stays for a claim that relies on it.
    fn keeps(&self, secret: &str) -> bool {
        self.required.contains(secret) || self.protected.contains(secret)
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

//! Which variable the runs of a pool choose by, and why a claim cannot use it.
//!
//! Input: the claims that the pool can serve, and what this process wrote.
//! Output: a [`Rejection`] for a claim whose variable is a user's, or is not that of the pool.
//! Invariants: pure. A variable is the operator's only if a record, or this process, says so.

use std::collections::BTreeSet;

use super::eligibility::Rejection;
use super::view::{History, ParsedTemplate, PoolView};
use crate::crd::{InjectMode, WorkPoolState as State};
use crate::inject::claim::{Adoption, Claim, Want};
use crate::inject::template::EntryState;
use crate::reason::Reason;

/// The variables of one pool.
#[derive(Default)]
pub(super) struct PoolVariables {
    /// Those that the operator wrote, for whichever binding.
    operators: BTreeSet<String>,
    /// The one that all bindings of the pool have to use.
    current: Option<String>,
}

impl PoolVariables {
    /// `served` are the claims that the pool can serve. The recorded ones decide, then the name.
    pub(super) fn of<'a>(served: impl Iterator<Item = &'a Claim>, history: &History) -> Self {
        let written = history.written.iter();
        let mut operators: BTreeSet<String> =
            written.filter_map(|key| key.variable.clone()).collect();
        let mut best: Option<(bool, &String)> = None;
        for claim in served {
            let Some(variable) = &claim.variable else {
                continue;
            };
            if claim.recorded {
                operators.insert(variable.clone());
            }
            let competes = claim.want != Want::Absent && claim.mode == InjectMode::Patch;
            let rank = (!claim.recorded, variable);
            if competes && best.is_none_or(|best| rank < best) {
                best = Some(rank);
            }
        }
        Self {
            operators,
            current: best.map(|(_, variable)| variable.clone()),
        }
    }

    /// Why a claim cannot use its variable.
    pub(super) fn find_rejection(
        &self,
        view: &PoolView<'_>,
        parsed: &ParsedTemplate<'_>,
        claim: &Claim,
    ) -> Option<Rejection> {
        let variable = claim.variable.as_ref()?;
        if claim.want == Want::Absent {
            return None;
        }
        let pool = view.pool;
        let writes = claim.mode == InjectMode::Patch && view.owner.is_none();
        if let Some(current) = self.current.as_ref().filter(|current| *current != variable)
            && writes
        {
            return Some(Rejection::taken(format!(
                "the bindings of work pool {pool} let runs choose by variable {current}, and this one names variable {variable}: set variable: {current}, or use another work pool"
            )));
        }
        let declared = parsed.declared(variable)?;
        let is_ours = if self.operators.contains(variable) {
            declared.is_plausible()
        } else {
            claim.adoption == Adoption::OfOurShape && declared.has_our_description
        };
        let is_offered = parsed.state(&claim.key()) != EntryState::Absent;
        // Another owner adds the name to a list of their own.
        let is_list = !writes && declared.names.is_some();
        if is_ours || is_offered || is_list {
            return None;
        }
        let secret = &claim.secret;
        Some(Rejection::taken(format!(
            "work pool {pool} has a variable {variable} that the operator did not write: set another name in variable, or let it offer {secret} in its enum, and an envFrom entry name it"
        )))
    }
}

impl Rejection {
    fn taken(message: String) -> Self {
        Self::new(State::NotEditable, Reason::PoolVariableTaken, message)
    }

    /// Whether the variable, or the path of a mount, is another's.
    pub(super) fn is_taken(&self) -> bool {
        matches!(
            self.failure.reason,
            Reason::PoolVariableTaken | Reason::PoolMountTaken
        )
    }
}

//! What the template of a pool means for one claim.
//!
//! Input: the pool, the claim, why the pool cannot serve it, and the state of its entry.
//! Output: the claim's [`Observation`].
//! Invariants: pure.

use std::collections::{BTreeMap, BTreeSet};

use super::deployments::Unserved;
use super::eligibility::Rejection;
use super::usage::Usage;
use super::view::{History, ParsedTemplate, PoolView};
use crate::crd::{InjectMode, NO_CONFIG, WorkPoolState as State};
use crate::failure::Failure;
use crate::inject::claim::{Claim, Observation, Phase, Want};
use crate::inject::manual_patch::operations_text;
use crate::inject::pool_owner;
use crate::inject::template::EntryState;
use crate::printable;
use crate::reason::Reason;

/// Deployments that a message names.
const MAX_NAMED: usize = 5;

/// What is known of one claim before it is observed.
pub(super) struct Observed<'a> {
    pub(super) claim: &'a Claim,
    /// Why the pool cannot serve the claim.
    pub(super) rejection: Option<Rejection>,
    pub(super) entry: EntryState,
    /// Whether the entry stays for another claim.
    pub(super) kept: bool,
    /// Whether the operator wrote the entry, for whichever binding.
    pub(super) operators: bool,
    /// Who chooses the Secret, if its name stays for them.
    pub(super) used: Option<&'a Usage>,
}

pub(super) fn observe_claim(
    view: &PoolView<'_>,
    history: &History,
    observed: Observed<'_>,
) -> Observation {
    let Observed {
        claim,
        rejection,
        entry,
        kept,
        operators,
        used,
    } = observed;
    let (pool, secret) = (view.pool, &claim.secret);
    let what = claim.key().description();
    let exact = matches!(entry, EntryState::Exact { .. });
    let owned = exact && history.is_ours(claim) && view.owner.is_none();
    if claim.want == Want::Absent {
        let is_left = entry == EntryState::Incomplete && view.owner.is_none();
        let owned = owned || (is_left && history.is_ours(claim));
        return if let (false, Some(used), Some(variable)) = (kept, used, &claim.variable) {
            let message = used.message(pool, variable, secret);
            Observation::new(Phase::InProgress, None, Reason::PoolConfigInUse, message)
        } else if owned && !kept {
            let message = format!("work pool {pool} still has {what}");
            Observation::new(Phase::InProgress, None, Reason::Pending, message)
        } else {
            let message = match claim.mount {
                None => {
                    format!("work pool {pool} has no entry of this operator for Secret {secret}")
                }
                Some(_) => format!("work pool {pool} does not have {what}"),
            };
            Observation::new(Phase::Removed, None, Reason::PoolReleased, message)
        };
    }
    if let Some(Rejection { state, failure }) = rejection {
        let Failure {
            reason, message, ..
        } = failure;
        return Observation::new(Phase::Skipped, Some(state), reason, message);
    }
    if matches!(entry, EntryState::Absent | EntryState::Incomplete) {
        return observe_missing_entry(view, history, claim);
    }
    let writes = claim.mode == InjectMode::Patch && view.owner.is_none();
    if writes && exact && operators && !claim.recorded {
        // Another binding, or an earlier one, has the same entry: from now on it is this one's too.
        let message = format!("work pool {pool} has {what}, which is to be recorded");
        return Observation::new(Phase::Injectable, None, Reason::Pending, message);
    }
    if owned && writes && history.contested {
        return contested(pool, &what, Phase::Injected);
    }
    let state = if owned && writes {
        State::Patched
    } else {
        State::AlreadyPresent
    };
    let message = format!("work pool {pool} has {what}");
    Observation::new(Phase::Injected, Some(state), Reason::Injected, message)
}

fn observe_missing_entry(view: &PoolView<'_>, history: &History, claim: &Claim) -> Observation {
    let pool = view.pool;
    let what = claim.key().description();
    let wanted = claim.entry();
    match view.owner {
        Some(owner) => Observation::new(
            Phase::Skipped,
            Some(State::Managed),
            Reason::PoolManaged,
            pool_owner::owner_message(owner, pool, &wanted, view.template),
        ),
        None if claim.mode == InjectMode::Observe => Observation::new(
            Phase::Skipped,
            Some(State::Absent),
            Reason::PoolEntryAbsent,
            format!(
                "work pool {pool} does not have {what}, and the operator never writes a pool in mode Observe: apply this JSON patch to the source of its base job template: {}",
                operations_text(&wanted, Some(view.template))
            ),
        ),
        None if history.contested => contested(pool, &what, Phase::InProgress),
        None if claim.want == Want::Present && claim.recorded => Observation::new(
            Phase::InProgress,
            None,
            Reason::Pending,
            format!("work pool {pool} does not have {what} yet"),
        ),
        None => Observation::new(
            Phase::Injectable,
            None,
            Reason::Pending,
            format!("work pool {pool} can take {what}"),
        ),
    }
}

fn contested(pool: &str, what: &str, phase: Phase) -> Observation {
    let message = format!(
        "another client keeps removing {what} from work pool {pool}: find the client that writes its base job template, add it there, and set mode: Observe"
    );
    Observation::new(
        phase,
        Some(State::Contested),
        Reason::PoolContested,
        message,
    )
}

/// Adds what overrides keys of the Secret, and which deployments run without it.
pub(super) fn add_shadows(
    view: &PoolView<'_>,
    parsed: &ParsedTemplate<'_>,
    claim: &Claim,
    keys: &BTreeMap<&str, &BTreeSet<String>>,
    observation: &mut Observation,
) {
    // A run that chooses nothing shows where the entry of the variable stands.
    let rendered = match &claim.variable {
        None => Some(&claim.secret),
        Some(variable) => parsed
            .declared(variable)
            .and_then(|declared| declared.default.as_ref()),
    };
    let rendered = rendered.map_or("", String::as_str);
    let mut shadows = parsed.environment.shadows(&claim.keys, rendered);
    let mut shadowed: BTreeSet<String> = shadows.keys.into_iter().collect();
    // The keys of our other Secrets are known, if those are in this namespace.
    shadows.later_sources.retain(|source| {
        let Some(name) = source.strip_prefix("Secret ") else {
            return true;
        };
        if let Some(theirs) = keys.get(name) {
            shadowed.extend(claim.keys.intersection(theirs).cloned());
            return false;
        }
        // What a run chooses wins by intention.
        name != NO_CONFIG
    });
    observation.shadowed_keys = shadowed.into_iter().collect();
    observation.later_sources = shadows.later_sources;
    let unserved = Unserved::of(&parsed.deployments, claim);
    let mut clauses = unserved.clauses(view.pool);
    clauses.extend(describe_unchecked(view));
    clauses.extend(describe_unlisted(view, parsed, claim));
    if parsed.has_cluster_config && !claim.same_cluster {
        clauses.push(format!(
            "work pool {} sends its jobs to the cluster of its cluster_config, and the Secret is in this cluster",
            view.pool
        ));
    }
    observation.unserved_namespaces = unserved.elsewhere.into_keys().collect();
    observation.unchecked_deployments = (!clauses.is_empty()).then(|| clauses.join("; "));
}

/// What is unknown about the pool's deployments, if anything.
fn describe_unchecked(view: &PoolView<'_>) -> Option<String> {
    let pool = view.pool;
    match view.deployments {
        None => Some(format!(
            "the operator does not know whether deployments of work pool {pool} send jobs to other namespaces, because the credentials have no permission to list them (\"View deployments\")"
        )),
        Some(deployments) => match deployments.truncated_at {
            Some(first) => Some(format!(
                "the operator listed only the first {first} deployments of work pool {pool}"
            )),
            None => deployments.more_groups.then(|| {
                format!("the operator compared only some of the many different deployments of work pool {pool}")
            }),
        },
    }
}

/// Which deployments choose what the variable does not offer. Prefect does not compare a deployment
/// that is changed with the list.
fn describe_unlisted(
    view: &PoolView<'_>,
    parsed: &ParsedTemplate<'_>,
    claim: &Claim,
) -> Option<String> {
    let variable = claim.variable.as_ref()?;
    let declared = parsed.declared(variable)?;
    let values = view.deployments?.by_text.get(variable)?;
    let unlisted = values.iter().filter(|(value, _)| !declared.offers(value));
    let names: BTreeSet<String> = unlisted
        .flat_map(|(_, names)| names)
        .map(|name| printable::name(name))
        .collect();
    let shown: Vec<&str> = names.iter().take(MAX_NAMED).map(String::as_str).collect();
    (!shown.is_empty()).then(|| {
        format!(
            "deployments {} of work pool {} set {variable} to a value that is not in its list",
            shown.join(", "),
            view.pool
        )
    })
}

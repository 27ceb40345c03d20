//! What a binding asks of work pools, and what it is told.
//!
//! In: the binding, its note, and whether its Secret is in place. Out: claims on pools, the note as it should be, and the part of the outcome that
//! speaks of pools. The order is kept here: first a look, then the note, then the Secret, then the entry; and back: first the entry, then the
//! wait, then the Secret and the note.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{context::Context, finalizer::InjectedEntry, work_queue::BindingRef};
use crate::{
    crd::{DopplerPrefectBinding, InjectMode, WorkPoolState, WorkPoolStatus},
    inject::claim::{Claim, Observation, Phase, Want},
    prefect::Connection,
    reason::{Class, Reason},
    status::{ConditionUpdate, MAX_LISTED},
};

/// What the pools that a binding names are known to be.
#[derive(Default)]
pub struct PoolClaims {
    /// For each named pool, in the order of the spec, what was found.
    pub observations: Vec<(String, Option<Observation>)>,
    /// Entries that are to be noted before they are written.
    pub to_record: BTreeSet<InjectedEntry>,
}

impl PoolClaims {
    /// Whether a pool was not looked at yet.
    #[must_use]
    pub fn awaits_first_read(&self) -> bool {
        self.observations
            .iter()
            .any(|(_, finding)| finding.is_none())
    }

    /// Whether an entry is about to be written: the outcome follows at once.
    #[must_use]
    pub fn in_progress(&self) -> bool {
        self.observations.iter().any(|(_, finding)| {
            finding.as_ref().is_some_and(|finding| {
                matches!(finding.phase, Phase::Injectable | Phase::InProgress)
                    && finding.failing_since.is_none()
                    && finding.reason == Reason::Pending
            })
        })
    }
}

/// Claims the pools that the spec names. An entry is claimed as present only if it is noted and the Secret is `in_place`.
#[must_use]
pub fn declare_claims(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    connection: Option<&Arc<Connection>>,
    noted: &BTreeSet<InjectedEntry>,
    in_place: bool,
    keys: &Arc<BTreeSet<String>>,
) -> PoolClaims {
    let mut looked = PoolClaims::default();
    let Some(connection) = connection else {
        looked.observations = binding
            .spec
            .inject
            .work_pools
            .iter()
            .map(|pool| (pool.name.clone(), None))
            .collect();
        return looked;
    };
    let before: BTreeMap<&str, WorkPoolState> = binding
        .status
        .iter()
        .flat_map(|status| &status.work_pools)
        .filter_map(|pool| Some((pool.name.as_str(), pool.state?)))
        .collect();
    let secret = binding.secret_name();
    for pool in &binding.spec.inject.work_pools {
        let entry = InjectedEntry {
            server: connection.api_url.to_string(),
            pool: pool.name.clone(),
            secret: secret.to_owned(),
        };
        let is_noted = noted.contains(&entry);
        let want = if pool.mode() == InjectMode::Patch && is_noted && in_place {
            Want::Present
        } else {
            Want::Observe
        };
        let claim = Claim {
            namespace: who.namespace().to_owned(),
            secret: secret.to_owned(),
            optional: pool.optional(),
            mode: pool.mode(),
            keys: Arc::clone(keys),
            want,
            recorded: is_noted,
            reported_state: before.get(pool.name.as_str()).copied(),
            interval: interval(context, binding),
        };
        let finding = context.pools.declare(who, connection, &pool.name, claim);
        if finding
            .as_ref()
            .is_some_and(|finding| finding.phase == Phase::Injectable)
            && pool.mode() == InjectMode::Patch
            && !is_noted
        {
            looked.to_record.insert(entry);
        }
        looked.observations.push((pool.name.clone(), finding));
    }
    looked
}

/// Entries that are noted although the spec does not ask for them any more: they are taken out.
#[must_use]
pub fn stale_entries(
    binding: &DopplerPrefectBinding,
    connection: Option<&Arc<Connection>>,
    noted: &BTreeSet<InjectedEntry>,
) -> BTreeSet<InjectedEntry> {
    let Some(connection) = connection else {
        // Without a connection nothing tells which server the spec means: only what no pool name or Secret name matches any more is obsolete.
        let names: BTreeSet<&str> = binding
            .spec
            .inject
            .work_pools
            .iter()
            .map(|pool| pool.name.as_str())
            .collect();
        let gone = |entry: &&InjectedEntry| {
            binding.spec.prefect.is_none()
                || !names.contains(entry.pool.as_str())
                || entry.secret != binding.secret_name()
        };
        return noted.iter().filter(gone).cloned().collect();
    };
    let server = connection.api_url.to_string();
    let asked = |entry: &InjectedEntry| {
        entry.server == server
            && entry.secret == binding.secret_name()
            && binding
                .spec
                .inject
                .work_pools
                .iter()
                .any(|pool| pool.name == entry.pool && pool.mode() == InjectMode::Patch)
    };
    noted
        .iter()
        .filter(|entry| !asked(entry))
        .cloned()
        .collect()
}

/// How far the way back of an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// It is out of its pool.
    Done,
    /// It is not yet, and why.
    Pending(String),
}

/// Has an entry taken out, with the credentials that its server was last reached with.
#[must_use]
pub fn withdraw(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    current: Option<&Arc<Connection>>,
    entry: &InjectedEntry,
) -> Withdrawal {
    let remembered = context
        .states
        .read(who, |remembered| remembered.connections.clone());
    let connection = current
        .filter(|connection| connection.api_url.as_str() == entry.server)
        .or_else(|| {
            let mut known = remembered.iter();
            known.find(|connection| connection.api_url.as_str() == entry.server)
        })
        .cloned()
        .or_else(|| anonymous(context, entry));
    let Some(connection) = connection else {
        return Withdrawal::Pending(format!(
            "the credentials for {} are not known any more",
            entry.server
        ));
    };
    let known = binding
        .status
        .iter()
        .flat_map(|status| &status.work_pools)
        .find(|pool| pool.name == entry.pool)
        .and_then(|pool| pool.state);
    let claim = Claim {
        namespace: who.namespace().to_owned(),
        secret: entry.secret.clone(),
        optional: true,
        mode: InjectMode::Patch,
        keys: Arc::default(),
        want: Want::Absent,
        recorded: true,
        reported_state: known,
        interval: interval(context, binding),
    };
    match context.pools.declare(who, &connection, &entry.pool, claim) {
        Some(finding) if finding.phase == Phase::Removed => Withdrawal::Done,
        Some(finding) => Withdrawal::Pending(finding.message),
        None => Withdrawal::Pending("the pool is being looked at".to_owned()),
    }
}

/// After a restart, a server that the spec no longer names is tried without credentials, which is how most self-hosted servers run. Credentials of
/// one server are never sent to another.
fn anonymous(context: &Context, entry: &InjectedEntry) -> Option<Arc<Connection>> {
    let api_url: url::Url = entry.server.parse().ok()?;
    let in_cluster = api_url.scheme() == "http"
        && api_url
            .host_str()
            .is_some_and(|host| host.rsplit('.').next() == Some("svc"));
    if !in_cluster && context.prefect_hosts.check(&api_url).is_err() {
        return None;
    }
    Some(Arc::new(Connection {
        api_url,
        auth: crate::prefect::connection::Auth::None,
        headers: Vec::new(),
        ca: None,
    }))
}

fn interval(context: &Context, binding: &DopplerPrefectBinding) -> Duration {
    binding
        .spec
        .interval()
        .unwrap_or(context.settings.refresh_interval)
}

/// The condition `Injected`, and the pools of the status. `patience` is for how long a pool that cannot be looked at stays as it was.
#[must_use]
pub fn injected_condition(
    looked: &PoolClaims,
    before: &[WorkPoolStatus],
    was_true: bool,
    patience: Duration,
) -> (Option<ConditionUpdate>, Vec<WorkPoolStatus>) {
    if looked.observations.is_empty() {
        return (None, Vec::new());
    }
    let now = std::time::Instant::now();
    let mut failed: Option<(Reason, String)> = None;
    let mut unknown = false;
    let mut overlooked: Vec<&str> = Vec::new();
    let mut pools = Vec::with_capacity(looked.observations.len());
    for (name, finding) in &looked.observations {
        let old = before.iter().find(|pool| pool.name == *name);
        let Some(finding) = finding else {
            unknown = true;
            pools.push(old.cloned().unwrap_or_else(|| WorkPoolStatus {
                name: name.clone(),
                state: None,
                shadowed_keys: vec![],
                unserved_namespaces: vec![],
            }));
            continue;
        };
        overlooked.extend(finding.unchecked_deployments.as_deref());
        let failing_for = finding
            .failing_since
            .map(|since| now.saturating_duration_since(since));
        let passing = failing_for.is_some_and(|span| span < patience)
            && finding.reason.class() != Class::WaitForChange;
        let state = finding.state.or_else(|| old.and_then(|old| old.state));
        pools.push(WorkPoolStatus {
            name: name.clone(),
            state,
            shadowed_keys: finding
                .shadowed_keys
                .iter()
                .take(MAX_LISTED)
                .cloned()
                .collect(),
            unserved_namespaces: finding
                .unserved_namespaces
                .iter()
                .take(MAX_LISTED)
                .cloned()
                .collect(),
        });
        if finding.phase == Phase::Injected
            && (failing_for.is_none() || passing)
            && finding.reason == Reason::Injected
        {
            continue;
        }
        if passing && was_true {
            continue;
        }
        if matches!(
            finding.phase,
            Phase::Unknown | Phase::Injectable | Phase::InProgress
        ) && finding.reason == Reason::Pending
        {
            unknown = true;
        } else if failing_for.is_some() || finding.reason.class() != Class::Settled {
            failed.get_or_insert((finding.reason, finding.message.clone()));
        } else if finding.phase != Phase::Injected {
            unknown = true;
        }
    }
    let step = match failed {
        Some((reason, message)) => ConditionUpdate::False(reason, message),
        None if unknown && was_true => ConditionUpdate::Unchanged,
        None if unknown => ConditionUpdate::Unknown(
            Reason::Pending,
            "the work pools are being looked at".to_owned(),
        ),
        None => ConditionUpdate::True(Reason::Injected, injected(&pools, &overlooked)),
    };
    (Some(step), pools)
}

fn injected(pools: &[WorkPoolStatus], overlooked: &[&str]) -> String {
    let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
    let elsewhere: BTreeSet<&str> = pools
        .iter()
        .flat_map(|pool| &pool.unserved_namespaces)
        .map(String::as_str)
        .collect();
    let mut message = format!("work pools {} carry the Secret", names.join(", "));
    if !elsewhere.is_empty() {
        let names: Vec<&str> = elsewhere.into_iter().take(10).collect();
        message
            .push_str("; deployments send jobs to namespaces without it (add a binding there): ");
        message.push_str(&names.join(", "));
    }
    for clause in overlooked {
        message.push_str("; ");
        message.push_str(clause);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_of_a_pools_deployments_is_told_where_all_is_well() {
        let finding = Observation {
            phase: Phase::Injected,
            state: Some(WorkPoolState::Patched),
            reason: Reason::Injected,
            message: "it is in".to_owned(),
            shadowed_keys: Vec::new(),
            later_sources: Vec::new(),
            unserved_namespaces: vec!["team".to_owned()],
            unchecked_deployments: Some("only the first 5000 were looked at".to_owned()),
            failing_since: None,
            event: None,
        };
        let looked = PoolClaims {
            observations: vec![("k8s".to_owned(), Some(finding))],
            to_record: BTreeSet::new(),
        };
        let (step, _) = injected_condition(&looked, &[], false, Duration::ZERO);
        let Some(ConditionUpdate::True(Reason::Injected, message)) = step else {
            panic!("{step:?}")
        };
        assert_eq!(
            message,
            "work pools k8s carry the Secret; deployments send jobs to namespaces without it (add a binding there): team; only the first 5000 were looked at"
        );
    }
}

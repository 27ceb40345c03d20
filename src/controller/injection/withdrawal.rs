//! Removes entries from work pools: stale ones of a binding that lives, and all of a binding that is
//! being deleted.
//!
//! Input: the recorded entries, and the connections of earlier passes.
//! Output: claims that an entry be absent, and whether it is removed.
//! Invariants: credentials of one server are never sent to another. An entry of an old Secret name
//! stays until the new one is injected, and required until workers have reloaded the template.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    pending_removal::PendingRemoval,
    pool_claims::{PoolClaims, asks_for, is_recorded},
};
use crate::{
    controller::{
        files_secret::files_secret_name, pass::Pass, recorded_entries::RecordedConnection,
    },
    crd::{InjectMode, InjectedEntry, MountSpec, WorkPoolSpec},
    failure::Failure,
    inject::{
        claim::{Adoption, Claim, Phase, UsedName, Want},
        template::EntryKey,
    },
    prefect::Connection,
    reason::Reason,
};

/// How long the last read of a template may take. Then its entry counts as removed without it.
const LAST_LOOK: Duration = Duration::from_mins(1);

/// How far the removal of entries is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// The pools have no entry of the binding.
    Done,
    /// A pool still has one.
    Pending(PendingRemoval),
}

/// Removes all entries of a binding that is being deleted. `at_once` also removes names that
/// deployments choose.
#[must_use]
pub fn withdraw_all(
    pass: &mut Pass<'_>,
    connection: Option<&Arc<Connection>>,
    at_once: bool,
) -> Withdrawal {
    let recorded = pass.entries.recorded.entries.clone();
    let mut first = Withdrawal::Done;
    for entry in &recorded {
        let Withdrawal::Pending(pending) = withdraw(pass, connection, entry, at_once) else {
            removed_since(pass, entry);
            continue;
        };
        report_in_use(pass, &pending);
        // An entry that only waits for deployments is not what the operator gives up.
        let is_better = match &first {
            Withdrawal::Done => true,
            Withdrawal::Pending(first) => first.used_by.is_some() && pending.used_by.is_none(),
        };
        if is_better {
            first = Withdrawal::Pending(pending);
        }
    }
    let pools = &pass.context.pools;
    pools.retain(pass.key, &|server, pool, entry| {
        is_recorded(&recorded, server, pool, entry)
    });
    first
}

/// How long the Secret must still outlive the entry that was removed last.
#[must_use]
pub fn remaining_wait(pass: &Pass<'_>) -> Duration {
    let removed = pass.read_state(|state| state.removed_since.clone());
    let recorded = pass.entries.recorded.entries.iter();
    let remaining = recorded
        .filter_map(|entry| removed.get(entry))
        .map(|since| {
            pass.context
                .settings
                .release_wait
                .saturating_sub(since.elapsed())
        });
    remaining.max().unwrap_or_default()
}

/// Reports that the pools have no entry of the binding any more.
pub fn report_removed(pass: &Pass<'_>) {
    for entry in &pass.entries.recorded.entries {
        let message = removed_message(&EntryKey::from(entry), &entry.pool);
        pass.emit(Reason::PoolReleased, &message);
    }
}

/// The message for a removed entry.
pub fn removed_message(entry: &EntryKey, pool: &str) -> String {
    match &entry.variable {
        None => format!(
            "the operator removed {} from the template of work pool {pool}",
            entry.description()
        ),
        Some(variable) => format!(
            "the operator removed Secret {} from variable {variable} of work pool {pool}",
            entry.secret
        ),
    }
}

/// Removes the recorded entries that the spec no longer asks for. An entry stops being required
/// once it is removed and, if its Secret goes as well, the workers have reloaded the template.
/// Returns what deployments still choose.
pub fn withdraw_stale_entries(
    pass: &mut Pass<'_>,
    connection: Option<&Arc<Connection>>,
    claims: &PoolClaims,
) -> Vec<PendingRemoval> {
    let stale = stale_entries(pass, connection);
    pass.update_state(|state| {
        // An entry that is wanted again starts anew when it is removed once more.
        let is_stale = |entry: &InjectedEntry| stale.contains(entry);
        state.withdrawing_since.retain(|entry, _| is_stale(entry));
        state.removed_since.retain(|entry, _| is_stale(entry));
    });
    let mut in_use = Vec::new();
    for entry in stale {
        let same_secret = entry.secret == pass.binding.secret_name();
        let pools = &pass.binding.spec.inject.work_pools;
        let named = pools.iter().find(|pool| pool.name == entry.pool);
        let same_way =
            named.is_none_or(|pool| asks_for(pool, entry.variable.as_deref(), entry.mount));
        let is_wanted = same_secret && same_way;
        if !is_wanted && !is_replaced(&entry, connection, claims) {
            continue;
        }
        if let Withdrawal::Pending(pending) = withdraw(pass, connection, &entry, false) {
            report_unreachable(pass, &pending);
            report_in_use(pass, &pending);
            if pending.used_by.is_some() {
                in_use.push(pending);
            }
            continue;
        }
        let since = removed_since(pass, &entry);
        let settings = &pass.context.settings;
        let wait = settings.release_wait.saturating_sub(since.elapsed());
        let files = entry.files_secret();
        let keeps_secret = same_secret && (files.is_none() || files == files_secret_name(pass));
        if keeps_secret || wait.is_zero() {
            pass.entries.required.remove(&entry);
        } else {
            pass.requeue.after(wait);
        }
    }
    in_use
}

/// Reports which deployments choose a Secret that the binding no longer offers, once for each list
/// of them.
fn report_in_use(pass: &Pass<'_>, pending: &PendingRemoval) {
    if pending.used_by.is_some() && is_news(pass, pending) {
        pass.emit(Reason::PoolConfigInUse, &pending.in_use_message(pass));
    }
}

/// Reports once that the server of an entry cannot be reached as recorded.
fn report_unreachable(pass: &Pass<'_>, pending: &PendingRemoval) {
    if let Some(reason) = pending.unreachable
        && is_news(pass, pending)
    {
        pass.emit(reason, &pending.waiting_message());
    }
}

/// Whether it was not reported yet why the entry is still there. It counts as reported from now on.
fn is_news(pass: &Pass<'_>, pending: &PendingRemoval) -> bool {
    let why = pending.why.clone().unwrap_or_default();
    pass.update_state(|state| {
        let reported = &mut state.reported_removals;
        reported.insert(pending.entry.clone(), why.clone()) != Some(why)
    })
}

/// The recorded entries that the spec no longer asks for.
fn stale_entries(pass: &Pass<'_>, connection: Option<&Arc<Connection>>) -> BTreeSet<InjectedEntry> {
    let binding = pass.binding;
    let pools = &binding.spec.inject.work_pools;
    let is_stale = |entry: &&InjectedEntry| {
        let same_secret = entry.secret == binding.secret_name();
        let mut named = pools.iter().filter(|pool| pool.name == entry.pool);
        let Some(connection) = connection else {
            // Without a connection, the server of the spec is not known: compare the names only.
            return binding.spec.prefect.is_none() || !same_secret || named.next().is_none();
        };
        let same_server = entry.server == connection.api_url.as_str();
        let is_asked = |pool: &WorkPoolSpec| {
            pool.mode() == InjectMode::Patch
                && asks_for(pool, entry.variable.as_deref(), entry.mount)
        };
        !same_server || !same_secret || !named.any(is_asked)
    };
    let recorded = pass.entries.recorded.entries.iter();
    recorded.filter(is_stale).cloned().collect()
}

/// Whether the pool of an entry of an old Secret name has the entry of the new name, or cannot have
/// it. Only then may the old entry be removed.
fn is_replaced(
    entry: &InjectedEntry,
    connection: Option<&Arc<Connection>>,
    claims: &PoolClaims,
) -> bool {
    let server = connection.map(|connection| connection.api_url.as_str());
    if server != Some(entry.server.as_str()) {
        return true;
    }
    let mut claims = claims.observations.iter();
    let claim = claims.find(|claim| claim.pool == entry.pool && claim.is_mount == entry.mount);
    claim.is_none_or(|claim| {
        claim.observation.as_ref().is_some_and(|observation| {
            matches!(observation.phase, Phase::Injected | Phase::Skipped)
                // Both mounts have the same path, so that one edit replaces one by the other.
                || (entry.mount && observation.phase == Phase::InProgress)
        })
    })
}

/// Since when an entry is removed: since now, if no earlier pass saw it removed.
fn removed_since(pass: &Pass<'_>, entry: &InjectedEntry) -> Instant {
    pass.update_state(|state| {
        let since = state.removed_since.entry(entry.clone());
        *since.or_insert_with(Instant::now)
    })
}

/// Claims that an entry be absent, with the last credentials for its server.
fn withdraw(
    pass: &mut Pass<'_>,
    current: Option<&Arc<Connection>>,
    entry: &InjectedEntry,
    at_once: bool,
) -> Withdrawal {
    let since = pass.update_state(|state| {
        let since = state.withdrawing_since.entry(entry.clone());
        *since.or_insert_with(Instant::now)
    });
    let timeout = pass.context.settings.release_timeout;
    let remaining = timeout.saturating_sub(since.elapsed());
    let RecordedConnection {
        connection,
        failure,
    } = connection_for(pass, current, entry);
    // Without the credentials, only their absence explains what the server answers.
    let failed = failure.as_ref().map(|failure| failure.message.clone());
    let pending = |why: Option<String>, attempted: bool| {
        Withdrawal::Pending(PendingRemoval {
            entry: entry.clone(),
            why: failed.clone().or(why),
            unreachable: failure.as_ref().map(|failure| failure.reason),
            attempted,
            used_by: None,
        })
    };
    let Some(connection) = connection else {
        let why = "the operator does not know how to reach the server";
        return pending(Some(why.to_owned()), true);
    };
    if let Some(refused) = refused_entry(pass, &connection, entry) {
        return Withdrawal::Pending(PendingRemoval {
            entry: entry.clone(),
            why: Some(refused.message),
            unreachable: Some(refused.reason),
            attempted: true,
            used_by: None,
        });
    }
    let claim = Claim {
        namespace: pass.key.namespace().to_owned(),
        binding: pass.key.name().to_owned(),
        secret: entry.secret.clone(),
        variable: entry.variable.clone(),
        mount: entry.mount.then(MountSpec::default),
        optional: true,
        same_cluster: false,
        mode: InjectMode::Patch,
        keys: Arc::default(),
        want: Want::Absent,
        recorded: true,
        adoption: Adoption::None,
        used_name: if entry.variable.is_some() && (at_once || remaining.is_zero()) {
            UsedName::Goes
        } else {
            UsedName::Stays
        },
        interval: pass.interval(),
    };
    let pools = &pass.context.pools;
    match pools.declare(pass.key, &connection, &entry.pool, claim) {
        Some(observation) if observation.phase == Phase::Removed => {
            if at_once || remaining < LAST_LOOK || is_confirmed(pass, &connection, entry) {
                return Withdrawal::Done;
            }
            let why = "the operator reads the template once more before it forgets the entry";
            pending(Some(why.to_owned()), true)
        }
        Some(observation) if observation.reason == Reason::PoolConfigInUse => {
            pass.requeue.after(remaining);
            Withdrawal::Pending(PendingRemoval {
                entry: entry.clone(),
                why: Some(observation.message),
                unreachable: None,
                attempted: true,
                used_by: Some(observation.used_by),
            })
        }
        Some(observation) => {
            let failed = observation.reason != Reason::Pending;
            pending(failed.then_some(observation.message), true)
        }
        None => pending(None, false),
    }
}

/// Why no request may be sent for an entry with a shared connection: the `ClusterPrefectServer` is
/// gone, or does not list the namespace or the pool any more. A record does not replace its lists,
/// because a user of the namespace may be able to edit the Secret that carries it.
fn refused_entry(
    pass: &Pass<'_>,
    connection: &Connection,
    entry: &InjectedEntry,
) -> Option<Failure> {
    let name = connection.shared.as_deref()?;
    let context = pass.context;
    let servers = &context.cluster_servers;
    let checked = servers.check_entry(name, pass.key.namespace(), &entry.pool);
    let refused = Failure::from(checked.err()?);
    context.pools.retain(pass.key, &|server, pool, _| {
        server != entry.server || pool != entry.pool
    });
    Some(refused)
}

/// Whether a pool without the entry was read after the release wait. While the operator or the server
/// was not there, another client may have written an older copy of the template, with the entry.
fn is_confirmed(pass: &mut Pass<'_>, connection: &Arc<Connection>, entry: &InjectedEntry) -> bool {
    let Some(since) = pass.read_state(|state| state.removed_since.get(entry).copied()) else {
        return true;
    };
    let ends = since + pass.context.settings.release_wait;
    let since_end = ends.elapsed();
    if Instant::now() < ends || since_end > LAST_LOOK {
        return true;
    }
    pass.requeue.after(LAST_LOOK.saturating_sub(since_end));
    let pools = &pass.context.pools;
    pools.is_seen_since(pass.key, connection, &entry.pool, ends.into_std())
}

/// How to reach the server of an entry: as the spec says, as an earlier pass did, or as the record
/// says. Also why its credentials are missing, if they are.
fn connection_for(
    pass: &Pass<'_>,
    current: Option<&Arc<Connection>>,
    entry: &InjectedEntry,
) -> RecordedConnection {
    let earlier = pass.read_state(|state| state.connections.clone());
    let mut known = current.into_iter().chain(&earlier);
    let known = known.find(|connection| connection.api_url.as_str() == entry.server);
    if let Some(connection) = known {
        return RecordedConnection {
            connection: Some(Arc::clone(connection)),
            failure: None,
        };
    }
    let recorded = pass.recorded_connections.get(&entry.server);
    recorded.cloned().unwrap_or_default()
}

//! Removes entries from work pools: stale ones of a binding that lives, and all of a binding that is
//! being deleted.
//!
//! Input: the recorded entries, and the connections of earlier passes.
//! Output: claims that an entry be absent, and whether it is removed.
//! Invariants: credentials of one server are never sent to another. An entry of an old Secret name
//! stays until the new one is injected, and required until workers have reloaded the template.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::pool_claims::{PoolClaims, is_recorded};
use crate::{
    controller::pass::Pass,
    crd::{InjectMode, injected::InjectedEntry},
    inject::claim::{Claim, Phase, Want},
    prefect::{Connection, connection::Auth},
    reason::Reason,
};

/// How far the removal of entries is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// The pools have no entry of the binding.
    Done,
    /// A pool still has one.
    Pending(PendingRemoval),
}

/// An entry that a pool still has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRemoval {
    entry: InjectedEntry,
    why: String,
    /// Whether the operator tried to remove it and has a result.
    attempted: bool,
}

impl PendingRemoval {
    /// Whether the operator tried to remove the entry and has a result. Before that, nothing is
    /// known about the pool.
    #[must_use]
    pub const fn was_attempted(&self) -> bool {
        self.attempted
    }

    /// What to do about the entry if the operator gives up. With a terminating namespace, the Secret
    /// is deleted.
    #[must_use]
    pub fn abandoned_message(&self, terminating: bool) -> String {
        let InjectedEntry {
            pool,
            secret,
            server,
        } = &self.entry;
        let (fate, then) = if terminating {
            ("Kubernetes deletes Secret", "")
        } else {
            ("the operator keeps Secret", ", then delete the Secret")
        };
        format!(
            "the operator could not remove the entry {{\"secretRef\":{{\"name\":\"{secret}\"}}}} from work pool {pool} of {server} ({}); {fate} {secret}: run prefect work-pool inspect {pool} --output json, remove the entry from envFrom in its base_job_template, and run prefect work-pool update {pool} --base-job-template FILE{then}",
            self.why
        )
    }
}

/// Removes all entries of a binding that is being deleted.
#[must_use]
pub fn withdraw_all(pass: &Pass<'_>, connection: Option<&Arc<Connection>>) -> Withdrawal {
    let recorded = &pass.entries.recorded;
    let mut first = Withdrawal::Done;
    for entry in recorded {
        match withdraw(pass, connection, entry) {
            Withdrawal::Done => {
                removed_since(pass, entry);
            }
            pending if first == Withdrawal::Done => first = pending,
            Withdrawal::Pending(_) => {}
        }
    }
    let pools = &pass.context.pools;
    pools.retain(pass.key, &|server, pool, secret| {
        is_recorded(recorded, server, pool, secret)
    });
    first
}

/// How long the Secret must still outlive the entry that was removed last.
#[must_use]
pub fn remaining_wait(pass: &Pass<'_>) -> Duration {
    let removed = pass.read_state(|state| state.removed_since.clone());
    let recorded = pass.entries.recorded.iter();
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
    for entry in &pass.entries.recorded {
        let message = removed_message(&entry.secret, &entry.pool);
        pass.emit(Reason::PoolReleased, &message);
    }
}

/// The message for a removed entry.
pub fn removed_message(secret: &str, pool: &str) -> String {
    format!(
        "the operator removed the entry for Secret {secret} from the template of work pool {pool}"
    )
}

/// Removes the recorded entries that the spec no longer asks for. An entry stops being required
/// once it is removed and, if its Secret goes as well, the workers have reloaded the template.
pub fn withdraw_stale_entries(
    pass: &mut Pass<'_>,
    connection: Option<&Arc<Connection>>,
    claims: &PoolClaims,
) {
    for entry in stale_entries(pass, connection) {
        let same_secret = entry.secret == pass.binding.secret_name();
        if !same_secret && !is_replaced(&entry, connection, claims) {
            continue;
        }
        if withdraw(pass, connection, &entry) != Withdrawal::Done {
            continue;
        }
        let since = removed_since(pass, &entry);
        let settings = &pass.context.settings;
        let wait = settings.release_wait.saturating_sub(since.elapsed());
        if same_secret || wait.is_zero() {
            pass.entries.required.remove(&entry);
        } else {
            pass.requeue.after(wait);
        }
    }
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
        !same_server || !same_secret || !named.any(|pool| pool.mode() == InjectMode::Patch)
    };
    let recorded = pass.entries.recorded.iter();
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
    let claim = claims.find(|(pool, _)| *pool == entry.pool);
    claim.is_none_or(|(_, observation)| {
        observation.as_ref().is_some_and(|observation| {
            matches!(observation.phase, Phase::Injected | Phase::Skipped)
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
    pass: &Pass<'_>,
    current: Option<&Arc<Connection>>,
    entry: &InjectedEntry,
) -> Withdrawal {
    let pending = |why: String, attempted: bool| {
        Withdrawal::Pending(PendingRemoval {
            entry: entry.clone(),
            why,
            attempted,
        })
    };
    let Some(connection) = connection_for(pass, current, entry) else {
        let why = format!(
            "the operator no longer has the credentials for {}",
            entry.server
        );
        return pending(why, true);
    };
    let reported_state = pass
        .last_status()
        .iter()
        .flat_map(|status| &status.work_pools)
        .find(|pool| pool.name == entry.pool)
        .and_then(|pool| pool.state);
    let claim = Claim {
        namespace: pass.key.namespace().to_owned(),
        secret: entry.secret.clone(),
        optional: true,
        mode: InjectMode::Patch,
        keys: Arc::default(),
        want: Want::Absent,
        recorded: true,
        reported_state,
        interval: pass.interval(),
    };
    let pools = &pass.context.pools;
    match pools.declare(pass.key, &connection, &entry.pool, claim) {
        Some(observation) if observation.phase == Phase::Removed => Withdrawal::Done,
        Some(observation) => pending(observation.message, true),
        None => pending("the first read of the pool is pending".to_owned(), false),
    }
}

/// How to reach the server of an entry: as the spec says, as an earlier pass did, or anonymously.
fn connection_for(
    pass: &Pass<'_>,
    current: Option<&Arc<Connection>>,
    entry: &InjectedEntry,
) -> Option<Arc<Connection>> {
    let earlier = pass.read_state(|state| state.connections.clone());
    let mut known = current.into_iter().chain(&earlier);
    known
        .find(|connection| connection.api_url.as_str() == entry.server)
        .cloned()
        .or_else(|| anonymous(pass, entry))
}

/// After a restart, the operator connects without credentials to a server that the spec no longer
/// names. Most self-hosted servers accept that.
fn anonymous(pass: &Pass<'_>, entry: &InjectedEntry) -> Option<Arc<Connection>> {
    let api_url: url::Url = entry.server.parse().ok()?;
    let in_cluster = api_url.scheme() == "http"
        && api_url
            .host_str()
            .is_some_and(|host| host.rsplit('.').next() == Some("svc"));
    if !in_cluster && pass.context.prefect_hosts.check(&api_url).is_err() {
        return None;
    }
    Some(Arc::new(Connection {
        api_url,
        auth: Auth::None,
        headers: Vec::new(),
        ca: None,
    }))
}

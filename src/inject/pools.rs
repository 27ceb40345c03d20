//! One reconciler for each work pool that bindings name.
//!
//! In: what bindings ask of the pools of a server, and who owns pools. Out: pools that carry the entries, what was found for each binding, and a
//! wake for exactly those bindings for which something changed. Each pool is looked at by one task, which gathers the claims of all its bindings and
//! ends with the last of them. It decides nothing itself: `plan` says what to write, `drift` when, `outcome` what a failure means.

mod failure;
mod reconcile;
mod registry;
mod repair_backoff;
mod worker;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::claim::{Claim, Finding};
use super::pool_owner::{self, ManagedPool};
use crate::crd::BindingRef;
use crate::metrics::Metrics;
use crate::prefect::{Clients, Connection};
use crate::upstream::limiter::Poke;
use crate::upstream::subscription::Held;
use registry::{Key, Table};

/// A binding.
type Who = BindingRef;
/// Wakes a binding.
pub type Wake = Arc<dyn Fn(&Who) + Send + Sync>;
/// Has a pool's poke told of changes on its server, for as long as the answer is held.
pub type Hold = Box<dyn Fn(&Arc<Connection>, Poke) -> Held + Send + Sync>;

struct Shared {
    clients: Arc<Clients>,
    hold: Option<Hold>,
    /// Interval of looks at least, while changes are pushed.
    pushed_interval: Duration,
    wake: Wake,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    table: Mutex<Table>,
}

/// All pools that bindings name.
#[derive(Clone)]
pub struct Pools(Arc<Shared>);

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").finish_non_exhaustive()
    }
}

impl Pools {
    /// No pools yet. Bindings are woken with `wake`, until `shutdown`. Changes are told by what `hold` gives, and while they are, pools are looked at
    /// no more often than every `pushed_interval`.
    #[must_use]
    pub fn new(
        clients: Arc<Clients>,
        hold: Option<Hold>,
        pushed_interval: Duration,
        wake: Wake,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            clients,
            hold,
            pushed_interval,
            wake,
            metrics,
            shutdown,
            tasks: TaskTracker::new(),
            table: Mutex::default(),
        }))
    }

    /// What `who` asks of a pool for a Secret, instead of what it asked before for that; gives what is known now. Waits for nothing: when there is
    /// more to know, `who` is woken.
    #[allow(clippy::must_use_candidate)] // the claim counts whether or not the answer is looked at
    pub fn declare(
        &self,
        who: &Who,
        connection: &Arc<Connection>,
        pool: &str,
        claim: Claim,
    ) -> Option<Finding> {
        let key = Key {
            connection: Arc::clone(connection),
            pool: pool.to_owned(),
        };
        let mut table = self.0.table();
        if let Some(record) = table.record(who, &key, &claim.secret)
            && record.claim.same(&claim)
        {
            return record.finding.clone();
        }
        let (finding, started) = table.replace(who, &key, claim);
        drop(table);
        if let Some(poke) = started {
            let shared = Arc::clone(&self.0);
            self.0.tasks.spawn(async move {
                tokio::select! {
                    () = shared.shutdown.cancelled() => {}
                    () = shared.keep(&key, poke) => {}
                }
            });
        }
        finding
    }

    /// Of what `who` asks, keeps only what `keep` says of server, pool and Secret.
    pub fn retain(&self, who: &Who, keep: &dyn Fn(&str, &str, &str) -> bool) {
        for (key, entry) in &mut self.0.table().pools {
            let server = key.connection.api_url.as_str();
            entry.retain(who, |secret| keep(server, &key.pool, secret));
        }
    }

    /// `who` asks nothing any more.
    pub fn forget(&self, who: &Who) {
        self.retain(who, &|_, _, _| false);
    }

    /// The `PrefectWorkPool` objects there are. Pools whose owner changes are looked at.
    pub fn set_managed(&self, managed: Vec<ManagedPool>) {
        let mut table = self.0.table();
        for (key, entry) in &table.pools {
            let url = &key.connection.api_url;
            let before = pool_owner::owner(&table.managed, url, &key.pool);
            if before != pool_owner::owner(&managed, url, &key.pool) {
                entry.poke.nudge();
            }
        }
        table.managed = managed;
    }

    /// Looks again now at the pools for which `which` says so of server and pool. True if there is one.
    #[allow(clippy::must_use_candidate)] // it is looked at again whether or not the answer is
    pub fn poke(&self, which: &dyn Fn(&str, &str) -> bool) -> bool {
        let mut concerns = false;
        for (key, entry) in &self.0.table().pools {
            if which(key.connection.api_url.as_str(), &key.pool) {
                entry.poke.nudge();
                concerns = true;
            }
        }
        concerns
    }

    /// How many pools are looked at.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.table().pools.len()
    }

    /// How long ago the pool that was read longest ago was read.
    #[must_use]
    pub fn oldest(&self) -> Duration {
        let table = self.0.table();
        let read = table.pools.values().filter_map(|entry| entry.read_at);
        read.min().map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Whether no pool is looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing is left half done under this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

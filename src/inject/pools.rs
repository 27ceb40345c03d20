//! One worker for each work pool that bindings claim.
//!
//! Input: the claims of bindings on pools, and the owners of pools.
//! Output: pools with the entries, an observation for each claim, and the affected bindings in the
//! work queue.
//! Invariants: one task reconciles a pool for all claims with the same credentials and ends with the
//! last of them. The tasks of one pool never write at the same time. It
//! decides nothing itself: `plan` says what to write, `repair_backoff` when, `failure` what an
//! error means.

mod deployment_listing;
mod failure;
mod outcome;
mod pool_client;
mod reconcile;
mod registry;
mod repair_backoff;
mod snapshot;
mod worker;
mod write_locks;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::registry::PoolKey;
use self::worker::PoolsInner;
use self::write_locks::WriteLocks;
use super::claim::{Claim, Observation};
use super::pool_owner::{self, ManagedPool};
use super::template::EntryKey;
use crate::crd::BindingRef;
use crate::metrics::Metrics;
use crate::prefect::{Connection, ConnectionInterner};
use crate::upstream::change_feed::ChangeFeed;
use crate::upstream::poller::Enqueue;

/// All pools that bindings claim.
#[derive(Clone)]
pub struct Pools(Arc<PoolsInner>);

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").finish_non_exhaustive()
    }
}

impl Pools {
    /// Starts without pools. Workers run until `shutdown`.
    ///
    /// `enqueue` receives each binding whose observation changed. Without a feed, pools are only
    /// polled.
    #[must_use]
    pub fn new(
        connections: Arc<ConnectionInterner>,
        feed: Option<ChangeFeed<Arc<Connection>>>,
        enqueue: Enqueue<BindingRef>,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(PoolsInner {
            connections,
            feed,
            enqueue,
            metrics,
            shutdown,
            tasks: TaskTracker::new(),
            registry: Mutex::default(),
            write_locks: WriteLocks::default(),
        }))
    }

    /// Declares a binding's claim for an entry. It replaces the binding's earlier claim for it.
    ///
    /// Returns the current observation without waiting. A later change enqueues the binding.
    #[allow(clippy::must_use_candidate)] // the call has an effect of its own
    pub fn declare(
        &self,
        key: &BindingRef,
        connection: &Arc<Connection>,
        pool: &str,
        claim: Claim,
    ) -> Option<Observation> {
        let pool_key = PoolKey {
            connection: Arc::clone(connection),
            pool: pool.to_owned(),
        };
        let mut registry = self.0.registry();
        if let Some(record) = registry.record(key, &pool_key, &claim.key())
            && record.claim.same_request(&claim)
        {
            return record.observation.clone();
        }
        let (observation, started) = registry.replace(key, &pool_key, claim);
        drop(registry);
        if let Some(trigger) = started {
            self.0.start_worker(pool_key, trigger);
        }
        observation
    }

    /// Drops the binding's claims for which `keep` of server, pool and entry is false.
    pub fn retain(&self, key: &BindingRef, keep: &dyn Fn(&str, &str, &EntryKey) -> bool) {
        for (pool_key, entry) in &mut self.0.registry().pools {
            let server = pool_key.connection.api_url.as_str();
            entry.retain(key, |wanted| keep(server, &pool_key.pool, wanted));
        }
    }

    /// Drops all claims of the binding.
    pub fn remove_binding(&self, key: &BindingRef) {
        self.retain(key, &|_, _, _| false);
    }

    /// Sets the existing `PrefectWorkPool` objects and triggers the pools whose owner changes.
    pub fn set_managed(&self, managed: Vec<ManagedPool>) {
        let mut registry = self.0.registry();
        for (pool_key, entry) in &registry.pools {
            let url = &pool_key.connection.api_url;
            let before = pool_owner::owner_of(&registry.managed, url, &pool_key.pool);
            if before != pool_owner::owner_of(&managed, url, &pool_key.pool) {
                entry.trigger.request_read();
            }
        }
        registry.managed = managed;
    }

    /// Triggers a reconcile of the pools for which `matches` of server and pool is true.
    ///
    /// Returns whether there is one.
    #[allow(clippy::must_use_candidate)] // the call has an effect of its own
    pub fn trigger(&self, matches: &dyn Fn(&str, &str) -> bool) -> bool {
        let mut any = false;
        for (pool_key, entry) in &self.0.registry().pools {
            if matches(pool_key.connection.api_url.as_str(), &pool_key.pool) {
                entry.trigger.request_read();
                any = true;
            }
        }
        any
    }

    /// Whether the server answered for the pool since `at`. If not, the pool is read now, and the answer
    /// enqueues the binding.
    #[must_use]
    pub fn is_seen_since(
        &self,
        key: &BindingRef,
        connection: &Arc<Connection>,
        pool: &str,
        at: Instant,
    ) -> bool {
        let pool_key = PoolKey {
            connection: Arc::clone(connection),
            pool: pool.to_owned(),
        };
        self.0.registry().is_seen_since(key, &pool_key, at)
    }

    /// The number of claimed pools.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.registry().pools.len()
    }

    /// The age of the stalest pool.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        let registry = self.0.registry();
        let read = registry.pools.values().filter_map(|entry| entry.read_at);
        read.min().map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// For how long the most overdue pool should have been read again.
    #[must_use]
    pub fn max_overdue(&self) -> Duration {
        let registry = self.0.registry();
        let due = registry.pools.values().filter_map(|entry| entry.due_at);
        due.min().map_or(Duration::ZERO, |at| {
            Instant::now().saturating_duration_since(at)
        })
    }

    /// Whether no pool is claimed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;

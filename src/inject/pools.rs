//! One reconciler for each work pool that bindings name.
//!
//! In: what bindings ask of the pools of a server, and who owns pools. Out: pools that carry the entries, what was found for each binding, and a
//! wake for exactly those bindings for which something changed. Each pool is looked at by one task, which gathers the claims of all its bindings and
//! ends with the last of them. It decides nothing itself: `plan` says what to write, `repair_backoff` when, `failure` what a failure means.

mod failure;
mod reconcile;
mod registry;
mod repair_backoff;
mod worker;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::claim::{Claim, Observation};
use super::pool_owner::{self, ManagedPool};
use crate::crd::BindingRef;
use crate::metrics::Metrics;
use crate::prefect::{Clients, Connection};
use crate::upstream::limiter::Trigger;
use crate::upstream::subscription::SubscriptionGuard;
use registry::{PoolKey, Registry};

/// Wakes a binding.
pub type Enqueue = Arc<dyn Fn(&BindingRef) + Send + Sync>;
/// Has a pool's poke told of changes on its server, for as long as the answer is held.
pub type SubscribeChanges =
    Box<dyn Fn(&Arc<Connection>, Trigger) -> SubscriptionGuard + Send + Sync>;

struct Shared {
    clients: Arc<Clients>,
    subscribe: Option<SubscribeChanges>,
    /// Interval of looks at least, while changes are pushed.
    subscribed_interval: Duration,
    enqueue: Enqueue,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    registry: Mutex<Registry>,
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
    /// No pools yet. Bindings are woken with `enqueue`, until `shutdown`. Changes are told by what `subscribe` gives, and while they are, pools are looked at
    /// no more often than every `pushed_interval`.
    #[must_use]
    pub fn new(
        clients: Arc<Clients>,
        subscribe: Option<SubscribeChanges>,
        pushed_interval: Duration,
        enqueue: Enqueue,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            clients,
            subscribe,
            subscribed_interval: pushed_interval,
            enqueue,
            metrics,
            shutdown,
            tasks: TaskTracker::new(),
            registry: Mutex::default(),
        }))
    }

    /// What `key` asks of a pool for a Secret, instead of what it asked before for that; gives what is known now. Waits for nothing: when there is
    /// more to know, `key` is woken.
    #[allow(clippy::must_use_candidate)] // the claim counts whether or not the answer is looked at
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
        if let Some(record) = registry.record(key, &pool_key, &claim.secret)
            && record.claim.same_request(&claim)
        {
            return record.observation.clone();
        }
        let (observation, started) = registry.replace(key, &pool_key, claim);
        drop(registry);
        if let Some(trigger) = started {
            let shared = Arc::clone(&self.0);
            self.0.tasks.spawn(async move {
                tokio::select! {
                    () = shared.shutdown.cancelled() => {}
                    () = shared.run_worker(&pool_key, trigger) => {}
                }
            });
        }
        observation
    }

    /// Of what `key` asks, keeps only what `keep` says of server, pool and Secret.
    pub fn retain(&self, key: &BindingRef, keep: &dyn Fn(&str, &str, &str) -> bool) {
        for (pool_key, entry) in &mut self.0.registry().pools {
            let server = pool_key.connection.api_url.as_str();
            entry.retain(key, |secret| keep(server, &pool_key.pool, secret));
        }
    }

    /// `key` asks nothing any more.
    pub fn remove_binding(&self, key: &BindingRef) {
        self.retain(key, &|_, _, _| false);
    }

    /// The `PrefectWorkPool` objects there are. Pools whose owner changes are looked at.
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

    /// Looks again now at the pools for which `which` says so of server and pool. True if there is one.
    #[allow(clippy::must_use_candidate)] // it is looked at again whether or not the answer is
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

    /// How many pools are looked at.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.registry().pools.len()
    }

    /// How long ago the pool that was read longest ago was read.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        let registry = self.0.registry();
        let read = registry.pools.values().filter_map(|entry| entry.read_at);
        read.min().map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Whether no pool is looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Nothing is left half done under this lock.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

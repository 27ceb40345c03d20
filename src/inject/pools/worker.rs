//! The worker of one pool.
//!
//! Input: triggers, and the pool's interval.
//! Output: reconciles of the pool, their observations, and the affected bindings in the work queue.
//! Invariants: ends when the pool has no claims any more, and never during a reconcile, because a
//! PATCH on its way would arrive after the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::{sleep, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::failure;
use super::outcome::PoolOutcome;
use super::pool_client::PoolClient;
use super::reconcile::{PoolState, ReconcileError, Reconciled};
use super::registry::{PoolKey, Registry};
use super::snapshot::PoolSnapshot;
use super::write_locks::WriteLocks;
use crate::crd::BindingRef;
use crate::metrics::Metrics;
use crate::prefect::{Connection, ConnectionInterner, PrefectError};
use crate::upstream::backoff::jittered;
use crate::upstream::change_feed::ChangeFeed;
use crate::upstream::limiter::Priority;
use crate::upstream::pace::{Pace, PaceLimit};
use crate::upstream::poller::Enqueue;
use crate::upstream::subscription::{FeedState, SubscriptionGuard};
use crate::upstream::supervisor::supervised;
use crate::upstream::trigger::Trigger;

/// The first reconcile waits this long for the subscription, so that it need not be repeated after
/// the subscription is connected.
const SUBSCRIPTION_WAIT: Duration = Duration::from_secs(2);
/// Claims that arrive within this time of each other share a reconcile.
pub(super) const DEBOUNCE: Duration = Duration::from_millis(75);
/// A reconcile waits no longer than this for further claims.
const DEBOUNCE_MAX: Duration = Duration::from_millis(500);
/// The limit while bindings with an injectable entry keep claiming it, so that one PATCH serves
/// all. A binding that has not claimed by then, such as a suspended one, is no longer expected.
const EXPECTED_CLAIMS_MAX: Duration = Duration::from_secs(20);
/// A binding that claims later than this after the one before does not delay the others.
const EXPECTED_CLAIM_GAP: Duration = Duration::from_secs(1);
/// Random part of the waits, so that reconciles of many pools do not coincide.
const JITTER: f64 = 0.1;
/// How often triggers may cause a reconcile.
const TRIGGERED_RECONCILES: PaceLimit = PaceLimit {
    burst: 60,
    period: Duration::from_secs(1),
};
/// A pool is polled no more often than this.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// What the workers of all pools share.
pub(super) struct PoolsInner {
    pub(super) connections: Arc<ConnectionInterner>,
    pub(super) feed: Option<ChangeFeed<Arc<Connection>>>,
    pub(super) enqueue: Enqueue<BindingRef>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) shutdown: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) registry: Mutex<Registry>,
    pub(super) write_locks: WriteLocks,
}

impl PoolsInner {
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock()
    }

    /// Starts the worker of a pool.
    pub(super) fn start_worker(self: &Arc<Self>, pool_key: PoolKey, trigger: Trigger) {
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = shared.shutdown.cancelled() => {}
                () = supervised("pool", &shared.metrics, || {
                    shared.run_worker(&pool_key, trigger.clone())
                }) => {}
            }
        });
    }

    async fn run_worker(&self, pool_key: &PoolKey, trigger: Trigger) {
        let feed = self.feed.as_ref();
        let Some(tenant) = self.registry().tenant(pool_key) else {
            return;
        };
        let subscription =
            feed.map(|feed| (feed.subscribe)(&pool_key.connection, &tenant, trigger.clone()));
        if let Some(subscription) = &subscription {
            subscription.settled(SUBSCRIPTION_WAIT).await;
        }
        let mut state = PoolState::default();
        let mut failures = 0;
        let mut priority = Priority::Initial;
        let mut pace = Pace::default();
        loop {
            self.debounce(pool_key, &trigger, priority != Priority::Poll)
                .await;
            let Some(snapshot) = self.registry().snapshot(pool_key) else {
                return;
            };
            let feed_interval = feed.map(|feed| feed.poll_interval).filter(|_| {
                let connected = |guard: &SubscriptionGuard| guard.state() == FeedState::Connected;
                subscription.as_ref().is_some_and(connected)
            });
            // The feed does not report deployments, so rare reconciles list them each time.
            let waits_for_deployments = snapshot.waits_for_deployments();
            let feed_interval = feed_interval.filter(|_| !waits_for_deployments);
            state.deployments.every_time = waits_for_deployments
                || feed_interval.is_some_and(|interval| interval > snapshot.interval);
            let result = self
                .reconcile_pool(pool_key, priority, &snapshot, &mut state)
                .await;
            let now = Instant::now();
            let interval = snapshot
                .interval
                .max(MIN_INTERVAL)
                .max(feed_interval.unwrap_or_default());
            let (wait, delay_triggers) = match &result {
                Ok(reconciled) => {
                    failures = 0;
                    let interval = jittered(interval, JITTER);
                    let repair = reconciled
                        .repair_at
                        .map(|at| at.saturating_duration_since(now));
                    (
                        repair.map_or(interval, |repair| repair.min(interval)),
                        false,
                    )
                }
                Err(failed) => {
                    failures += 1;
                    if matches!(failed.error, PrefectError::PoolMissing { .. }) {
                        state.reset();
                    }
                    let (wait, delay_triggers) =
                        failure::retry_delay(&failed.error, failures, interval);
                    // Never earlier than the server asked for.
                    let wait = wait.mul_f64(1.0 + JITTER);
                    (jittered(wait, JITTER / (1.0 + JITTER)), delay_triggers)
                }
            };
            let outcome = PoolOutcome::of(&snapshot, result, now, interval);
            self.publish(pool_key, &snapshot, outcome);
            drop(snapshot);
            let next = self.wait(pool_key, &trigger, wait, delay_triggers).await;
            let Some(next) = next else {
                return;
            };
            priority = next;
            while priority == Priority::Interactive
                && let Err(wait) = pace.take(TRIGGERED_RECONCILES, tokio::time::Instant::now())
            {
                // The reconcile that follows also answers the triggers that arrive meanwhile.
                sleep(wait).await;
            }
        }
    }

    async fn reconcile_pool(
        &self,
        pool_key: &PoolKey,
        priority: Priority,
        snapshot: &PoolSnapshot,
        state: &mut PoolState,
    ) -> Result<Reconciled, ReconcileError> {
        let client = PoolClient {
            client: self.connections.client(&pool_key.connection)?,
            pool: &pool_key.pool,
            priority,
            metrics: &self.metrics,
        };
        let lock = self.write_locks.of(pool_key);
        let _locked = lock.lock().await;
        state.reconcile(&client, snapshot).await
    }

    /// Waits for further claims, so that claims that arrive together share a reconcile.
    ///
    /// `claimed` is whether a claim has arrived already.
    async fn debounce(&self, pool_key: &PoolKey, trigger: &Trigger, claimed: bool) {
        let start = Instant::now();
        let mut last = claimed.then_some(start);
        loop {
            sleep(DEBOUNCE).await;
            // The reconcile that follows covers the triggers until here.
            let triggered = trigger.take_pending();
            if triggered {
                last = Some(Instant::now());
            }
            let expecting = self
                .registry()
                .expects_claims(pool_key, EXPECTED_CLAIMS_MAX);
            let (max, is_quiet) = match last {
                Some(last) if expecting => {
                    (EXPECTED_CLAIMS_MAX, last.elapsed() >= EXPECTED_CLAIM_GAP)
                }
                _ => (DEBOUNCE_MAX, !triggered),
            };
            if is_quiet || start.elapsed() >= max {
                return;
            }
        }
    }

    /// Stores the observations and enqueues the bindings that see a difference.
    fn publish(&self, pool_key: &PoolKey, snapshot: &PoolSnapshot, outcome: PoolOutcome) {
        let affected = self.registry().publish(pool_key, snapshot, outcome);
        for key in &affected {
            (self.enqueue)(key);
        }
    }

    /// Waits for the next reconcile and gives its priority; `None` if the pool has been removed.
    async fn wait(
        &self,
        pool_key: &PoolKey,
        trigger: &Trigger,
        wait: Duration,
        delay_triggers: bool,
    ) -> Option<Priority> {
        let due = tokio::time::Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(due) => return Some(Priority::Poll),
                () = trigger.triggered() => {
                    if !delay_triggers {
                        return Some(Priority::Interactive);
                    }
                    if self.registry().remove_if_unclaimed(pool_key) {
                        return None;
                    }
                }
            }
        }
    }
}

//! The task of one pool.
//!
//! In: pokes and the passing of time. Out: looks, what they found, and wakes for the bindings that see a difference. It ends itself when nobody asks
//! anything of the pool any more, and never in the middle of a look.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::reconcile::{
    ClaimSnapshot, PoolClient, PoolSnapshot, PoolState, ReconcileError, Reconciled, action_for,
};
use super::registry::{PoolKey, Registry};
use super::{Shared, failure};
use crate::inject::claim::{Observation, Phase};
use crate::prefect::PrefectError;
use crate::reason::Reason;
use crate::upstream::limiter::{Priority, Trigger};
use crate::upstream::subscription::FeedState;

/// How long the first look waits for the link that tells of changes, so that it need not be made again once that is up.
const SUBSCRIPTION_WAIT: Duration = Duration::from_secs(2);
/// Claims that come within this time of each other share a look.
pub(super) const DEBOUNCE: Duration = Duration::from_millis(75);
/// A look waits no longer than this for further claims.
const DEBOUNCE_MAX: Duration = Duration::from_millis(500);
/// Nor than this, while bindings that were told to bring their Secret keep coming back with it: so that a pool is written once for all of them. Who
/// has not come back by then, such as a binding that is suspended or has no values, is not expected any more.
const EXPECTED_CLAIMS_MAX: Duration = Duration::from_secs(20);
/// A binding that takes longer than this after the one before does not hold up the others.
const EXPECTED_CLAIM_GAP: Duration = Duration::from_secs(1);
/// A pool is not looked at more often than this by itself.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

impl Shared {
    /// Looks at a pool until nobody asks anything of it. No look is broken off by that: a PATCH on its way would come after all.
    pub(super) async fn run_worker(&self, pool_key: &PoolKey, trigger: Trigger) {
        let subscribe = self.subscribe.as_ref();
        let subscription =
            subscribe.map(|subscribe| subscribe(&pool_key.connection, trigger.clone()));
        if let Some(subscription) = &subscription {
            subscription.settled(SUBSCRIPTION_WAIT).await;
        }
        let mut state = PoolState::default();
        let mut failures = 0;
        let mut priority = Priority::Initial;
        loop {
            self.debounce(pool_key, &trigger, priority != Priority::Poll)
                .await;
            let Some(snapshot) = self.registry().snapshot(pool_key) else {
                return;
            };
            let subscribed = subscription
                .as_ref()
                .is_some_and(|subscription| subscription.state() == FeedState::Connected);
            // Nobody tells of deployments: rare looks list them each time.
            state.list_every_time = subscribed && self.subscribed_interval > snapshot.interval;
            let result = self
                .reconcile_pool(pool_key, priority, &snapshot, &mut state)
                .await;
            let now = Instant::now();
            let mut interval = snapshot.interval.max(MIN_INTERVAL);
            if subscribed {
                interval = interval.max(self.subscribed_interval);
            }
            let (wait, delay_triggers) = match &result {
                Ok(reconciled) => {
                    failures = 0;
                    let repair = reconciled
                        .repair_at
                        .map(|until| until.saturating_duration_since(now));
                    let interval = interval.mul_f64(jitter());
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
                    // Not earlier than the server asked for.
                    (wait.mul_f64(jitter() + 0.1), delay_triggers)
                }
            };
            self.publish(pool_key, &snapshot, result, now);
            drop(snapshot);
            let due = tokio::time::Instant::now() + wait;
            priority = Priority::Interactive;
            loop {
                tokio::select! {
                    () = sleep_until(due) => {
                        priority = Priority::Poll;
                        break;
                    }
                    () = trigger.triggered() => {
                        if !delay_triggers {
                            break;
                        }
                        if self.registry().remove_if_unclaimed(pool_key) {
                            return;
                        }
                    }
                }
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
            client: self.clients.get(&pool_key.connection)?,
            pool: &pool_key.pool,
            priority,
            metrics: &self.metrics,
        };
        state.reconcile(&client, snapshot).await
    }

    /// Waits until no claim has come for a while, so that those that come together share a look. `came` is whether one has come already.
    async fn debounce(&self, pool_key: &PoolKey, trigger: &Trigger, claimed: bool) {
        let start = Instant::now();
        let mut last = claimed.then_some(start);
        loop {
            sleep(DEBOUNCE).await;
            // What was poked for until here is in what the look will read.
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

    /// Notes what was found for the claims that still are what they were, and wakes whoever sees a difference.
    fn publish(
        &self,
        pool_key: &PoolKey,
        snapshot: &PoolSnapshot,
        result: Result<Reconciled, ReconcileError>,
        now: Instant,
    ) {
        let was_read = result.is_ok();
        let outcomes: Vec<(Observation, Option<Reason>)> = match result {
            Ok(Reconciled {
                observations,
                actions: action,
                ..
            }) => {
                let items = snapshot.claims.iter();
                let results = observations.into_iter().zip(items);
                results
                    .map(|(observation, item)| (observation, action_for(&item.claim, &action)))
                    .collect()
            }
            Err(ReconcileError { error, planned }) => {
                let planned = |at: usize| planned.as_ref().and_then(|planned| planned.get(at));
                let items = snapshot.claims.iter().enumerate();
                items
                    .map(
                        |(
                            at,
                            ClaimSnapshot {
                                claim,
                                last_observation: last,
                                ..
                            },
                        )| {
                            let last = last.as_ref();
                            (
                                failure::failed_observation(&error, claim, last, planned(at), now),
                                None,
                            )
                        },
                    )
                    .collect()
            }
        };
        let mut enqueued = HashSet::new();
        let mut registry = self.registry();
        let Registry {
            pools,
            last_number: number,
            ..
        } = &mut *registry;
        let Some(entry) = pools.get_mut(pool_key) else {
            return;
        };
        if was_read {
            entry.read_at = Some(now);
        }
        for (item, (mut observation, action)) in snapshot.claims.iter().zip(outcomes) {
            let claims = entry.claims.get_mut(&item.key);
            let record = claims.and_then(|claims| claims.get_mut(&item.claim.secret));
            let Some(record) = record.filter(|record| record.revision == item.revision) else {
                continue;
            };
            let last = record.observation.as_ref();
            observation.event = match action {
                Some(reason) => {
                    *number += 1;
                    Some((*number, reason))
                }
                None => last.and_then(|last| last.event),
            };
            if last.is_none_or(|last| failure::visibly_differs(last, &observation)) {
                enqueued.insert(item.key.clone());
            }
            record.injectable_since = match observation.phase {
                Phase::Injectable => record.injectable_since.or(Some(now)),
                _ => None,
            };
            record.observation = Some(observation);
        }
        drop(registry);
        for key in &enqueued {
            (self.enqueue)(key);
        }
    }
}

/// Around 1, by at most a tenth, so that looks do not march in step.
fn jitter() -> f64 {
    rand::random_range(0.9..=1.1)
}

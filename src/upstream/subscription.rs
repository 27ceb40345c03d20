//! One long-lived connection for all subscribers to the same changes.
//!
//! Input: subscribers with their triggers, and a feed that connects. Output: triggers ("read again
//! now"), and the state of the feed.
//! Invariants: there is one connection for each key, however many subscribers it has, and never
//! more than the maximum, which tenants share. A lost connection is opened again with backoff; then everything is read
//! once, because a change may have been missed. A rejected connection is tried again rarely, and a
//! host that rejects several is tried slowly. This
//! module does not interpret messages and reads nothing: a notification only triggers a re-read.

mod feed;
mod refusals;
mod slots;

use std::{collections::HashMap, fmt, hash::Hash, pin::Pin, sync::Arc, time::Duration};

use futures::StreamExt;
use parking_lot::Mutex;
use prometheus_client::metrics::{family::Family, gauge::Gauge};
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use refusals::Refusals;
use slots::Slots;
pub use slots::Tenant;

pub use feed::{Connect, Disconnect, FeedSpec, FeedState, Messages, OnMessage, Opened};

use super::{
    backoff::{Backoff, jittered},
    supervisor::supervised,
    trigger::Trigger,
};
use crate::metrics::{Metrics, NotificationLabels, UpstreamLabels};

/// Waits before a lost connection is opened again.
const RECONNECTS: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
/// Random part of these waits.
const JITTER: f64 = 0.2;
/// A connection that lasted this long was good: the backoff begins anew.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Wait before a rejected connection is tried again: a plan or a permission may have been granted.
/// Also the longest wait that an upstream can ask for.
const REJECTED_WAIT: Duration = Duration::from_hours(1);

struct Subscription {
    triggers: HashMap<u64, Trigger>,
    state: watch::Sender<FeedState>,
    stop: CancellationToken,
}

/// What is known of the attempts to connect a key.
#[derive(Default)]
struct Attempts {
    has_connected: bool,
    /// While the last attempt failed, or the connection was lost, and nothing rejected it.
    disconnected: Option<Counted>,
}

struct Active<K> {
    by_key: HashMap<K, Subscription>,
    last_id: u64,
}

struct SubscriptionsInner<K, T> {
    feed: FeedSpec<K, T>,
    slots: Arc<Slots>,
    refusals: Mutex<Refusals>,
    metrics: Arc<Metrics>,
    active: Mutex<Active<K>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// All subscriptions to one feed.
pub struct Subscriptions<K, T>(Arc<SubscriptionsInner<K, T>>);

impl<K, T> Clone for Subscriptions<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> fmt::Debug for Subscriptions<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriptions").finish_non_exhaustive()
    }
}

/// Keeps one subscriber subscribed until it is dropped. The last one of a key closes the
/// connection.
pub struct SubscriptionGuard {
    state: watch::Receiver<FeedState>,
    unsubscribe: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl fmt::Debug for SubscriptionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionGuard").finish_non_exhaustive()
    }
}

impl SubscriptionGuard {
    /// The state of the feed.
    #[must_use]
    pub fn state(&self) -> FeedState {
        self.state.borrow().clone()
    }

    /// Waits until the first connection is established or has failed, or for `limit`. A read after
    /// that misses no change.
    pub async fn settled(&self, limit: Duration) {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| *state != FeedState::Connecting);
        // The caller reads in any case.
        let _ = timeout(limit, settled).await;
    }
}

impl Drop for SubscriptionGuard {
    fn drop(&mut self) {
        if let Some(unsubscribe) = self.unsubscribe.take() {
            unsubscribe();
        }
    }
}

impl<K, T> Subscriptions<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Send + 'static,
{
    /// No subscriptions yet. All connections close with `shutdown`.
    #[must_use]
    pub fn new(feed: FeedSpec<K, T>, metrics: Arc<Metrics>, shutdown: CancellationToken) -> Self {
        Self(Arc::new(SubscriptionsInner {
            slots: Slots::new(feed.max_connections),
            refusals: Mutex::default(),
            feed,
            metrics,
            active: Mutex::new(Active {
                by_key: HashMap::new(),
                last_id: 0,
            }),
            tasks: TaskTracker::new(),
            shutdown,
        }))
    }

    /// Fires `trigger` at each change under `key`, until the guard is dropped. `tenant` is
    /// for whom; a connection counts for the tenant that subscribed to its key first.
    pub fn subscribe(&self, key: &K, tenant: &Tenant, trigger: Trigger) -> SubscriptionGuard {
        let mut active = self.0.active.lock();
        active.last_id += 1;
        let id = active.last_id;
        let mut started = None;
        let subscription = active.by_key.entry(key.clone()).or_insert_with(|| {
            let stop = self.0.shutdown.child_token();
            started = Some(stop.clone());
            Subscription {
                triggers: HashMap::new(),
                state: watch::Sender::new(FeedState::Connecting),
                stop,
            }
        });
        subscription.triggers.insert(id, trigger);
        let state = subscription.state.subscribe();
        drop(active);
        if let Some(stop) = started {
            let (shared, key) = (Arc::clone(&self.0), key.clone());
            let tenant = Tenant::clone(tenant);
            self.0.tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = supervised("subscription", &shared.metrics, || {
                        shared.keep_connected(&key, &tenant)
                    }) => {}
                }
            });
        }
        let (subscriptions, key) = (self.clone(), key.clone());
        SubscriptionGuard {
            state,
            unsubscribe: Some(Box::new(move || subscriptions.unsubscribe(&key, id))),
        }
    }

    /// How many keys have subscribers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.active.lock().by_key.len()
    }

    /// Whether there is no subscriber.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn unsubscribe(&self, key: &K, id: u64) {
        let mut active = self.0.active.lock();
        let Some(subscription) = active.by_key.get_mut(key) else {
            return;
        };
        subscription.triggers.remove(&id);
        if subscription.triggers.is_empty() {
            subscription.stop.cancel();
            active.by_key.remove(key);
        }
    }
}

impl<K: Clone + Eq + Hash, T> SubscriptionsInner<K, T> {
    fn set_state(&self, key: &K, state: FeedState) {
        if let Some(subscription) = self.active.lock().by_key.get(key) {
            subscription.state.send_replace(state);
        }
    }

    fn for_each_trigger(&self, key: &K, fire: impl Fn(&Trigger)) {
        if let Some(subscription) = self.active.lock().by_key.get(key) {
            subscription.triggers.values().for_each(fire);
        }
    }

    /// Keeps the connection of a key open until the task is cancelled.
    async fn keep_connected(&self, key: &K, tenant: &Tenant) {
        let host = (self.feed.host)(key);
        let mut failures = 0;
        let mut attempts = Attempts::default();
        loop {
            self.wait_for_attempt(key, &host, tenant).await;
            let wait = {
                let slot = match self.slots.acquire(tenant) {
                    Ok(slot) => Some(slot),
                    Err(slot) => {
                        attempts.disconnected = None;
                        let waiting = &self.metrics.subscriptions_waiting;
                        let _waiting = Counted::new(waiting, self.labels());
                        self.set_state(key, FeedState::OverLimit);
                        slot.await
                    }
                };
                // The slots live as long as this task.
                let Some(slot) = slot else { return };
                let opened = Instant::now();
                tokio::select! {
                    disconnect = self.connect(key, &host, tenant, &mut attempts) => {
                        if disconnect.rejected.is_some() {
                            self.refusals.lock().record_rejected(&host, tenant);
                        }
                        let lasted = opened.elapsed() >= STABLE_AFTER;
                        failures = if lasted { 1 } else { failures + 1 };
                        reconnect_wait(&disconnect, failures)
                    }
                    () = slot.revoked() => {
                        self.set_state(key, FeedState::OverLimit);
                        if self.feed.slows_polling {
                            self.for_each_trigger(key, Trigger::request_read);
                        }
                        Duration::ZERO
                    }
                }
            };
            sleep(jittered(wait, JITTER)).await;
        }
    }

    /// Waits while the host rejects connections of this tenant.
    async fn wait_for_attempt(&self, key: &K, host: &str, tenant: &Tenant) {
        loop {
            let wait = self.refusals.lock().wait(host, tenant, Instant::now());
            let Some(wait) = wait else { return };
            self.set_state(key, FeedState::Disconnected);
            sleep(jittered(wait, JITTER)).await;
        }
    }

    const fn labels(&self) -> UpstreamLabels {
        UpstreamLabels {
            upstream: self.feed.upstream,
        }
    }

    /// Opens a connection and receives its messages until it is closed. The first one that opens is
    /// no reconnect.
    async fn connect(
        &self,
        key: &K,
        host: &str,
        tenant: &Tenant,
        attempts: &mut Attempts,
    ) -> Disconnect {
        let labels = self.labels();
        let opened = (self.feed.connect)(key.clone()).await;
        let was_connected = opened.is_ok();
        let disconnect = match opened {
            Ok(opened) => {
                self.refusals.lock().record_accepted(host, tenant);
                attempts.disconnected = None;
                let is_reconnect = std::mem::replace(&mut attempts.has_connected, true);
                if is_reconnect {
                    self.metrics
                        .subscription_reconnects
                        .get_or_create(&labels)
                        .inc();
                }
                let reread_after = self.feed.reread_after.filter(|_| is_reconnect);
                self.receive(key, opened, reread_after, labels).await
            }
            Err(disconnect) => disconnect,
        };
        let state = match &disconnect.rejected {
            Some(reason) => FeedState::Rejected(reason.as_str().into()),
            None => FeedState::Disconnected,
        };
        if disconnect.rejected.is_some() {
            self.metrics
                .subscription_rejections
                .get_or_create(&labels)
                .inc();
        }
        // A rejection is an answer: a plan or a server without the feed is no outage.
        attempts.disconnected = match (&disconnect.rejected, attempts.disconnected.take()) {
            (Some(_), _) => None,
            (None, Some(counted)) => Some(counted),
            (None, None) => {
                let family = &self.metrics.subscriptions_disconnected;
                Some(Counted::new(family, labels))
            }
        };
        self.set_state(key, state);
        if self.feed.slows_polling && was_connected {
            self.for_each_trigger(key, Trigger::request_read);
        }
        disconnect
    }

    /// Receives messages until the connection is closed. Everything is read at once, and again
    /// after `reread_after`.
    async fn receive(
        &self,
        key: &K,
        opened: Opened<T>,
        reread_after: Option<Duration>,
        labels: UpstreamLabels,
    ) -> Disconnect {
        let _connected = Counted::new(&self.metrics.subscriptions_connected, labels);
        // The trigger fires before the state changes: a subscriber that waits for the state then
        // consumes the trigger with its first read.
        self.for_each_trigger(key, Trigger::request_read);
        let Opened {
            mut messages,
            mut is_proven,
        } = opened;
        self.set_state(
            key,
            if is_proven {
                FeedState::Connected
            } else {
                FeedState::Unproven
            },
        );
        let mut reread = reread_after.map(|wait| Box::pin(sleep(wait)));
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = due(&mut reread) => {
                    reread = None;
                    self.for_each_trigger(key, Trigger::request_read);
                    continue;
                }
            };
            match message {
                None => return Disconnect::transient(),
                Some(Ok(message)) => {
                    if !is_proven && (self.feed.proves)(&message) {
                        is_proven = true;
                        self.set_state(key, FeedState::Connected);
                    }
                    let labels = NotificationLabels {
                        source: (self.feed.source)(&message),
                    };
                    self.metrics
                        .change_notifications
                        .get_or_create(&labels)
                        .inc();
                    if let Some(on_message) = &self.feed.on_message {
                        on_message(key, message);
                    } else {
                        let now = Instant::now();
                        self.for_each_trigger(key, |trigger| trigger.notify(now));
                    }
                }
                Some(Err(disconnect)) => return disconnect,
            }
        }
    }
}

/// Waits for the timer, or for ever if there is none.
async fn due(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

/// Counts one in a gauge while it lives, however it ends.
struct Counted(Gauge);

impl Counted {
    fn new(family: &Family<UpstreamLabels, Gauge>, labels: UpstreamLabels) -> Self {
        let gauge = family.get_or_create(&labels).clone();
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn reconnect_wait(disconnect: &Disconnect, failures: u32) -> Duration {
    if disconnect.rejected.is_some() {
        return REJECTED_WAIT;
    }
    let wait = RECONNECTS.delay(failures);
    disconnect
        .retry_after
        .map_or(wait, |asked| asked.max(wait).min(REJECTED_WAIT))
}

#[cfg(test)]
mod tests;

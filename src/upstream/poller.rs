//! One polled value for all bindings that need the same one.
//!
//! Input: which binding needs which keys, a function that reads a key, and one that subscribes to
//! changes of it. Output: the last good value, the failure of the last read, and an enqueue of
//! exactly those bindings whose value or failure changed.
//! Invariants: there is at most one request for each key in flight. Polls have jitter, retries have
//! backoff. A value (a secret) is dropped with its last subscriber. A notification only triggers a
//! re-read, and many of them to reads at a bounded rate, of which the last follows the last
//! notification; polling continues as the fallback. Demands of a current value lead to at most one read
//! a second. The poller does not interpret values, and leaves it to the reader when a request may be
//! sent.

mod active;
mod demand;
mod requests;
mod schedule;
mod state;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    backoff::jittered,
    change_feed::ChangeFeed,
    limiter::{Priority, ReadRequest},
    pace::{Pace, PaceLimit},
    subscription::{FeedState, SubscriptionGuard, Tenant},
    supervisor::supervised,
    trigger::Trigger,
};
use crate::{
    failure::Failure,
    metrics::{Metrics, ReadLabels},
};
use active::{Active, Polled};
use demand::{DEMANDED_READS, Waiting};
use schedule::{next_wait, staleness};
use state::ReadResult;
pub use state::{Poll, PollState};

/// How long the first read waits for the feed, so that it need not be repeated once the feed is
/// connected.
const FEED_WAIT: Duration = Duration::from_secs(2);
/// After this wait for the first result, subscribers are enqueued so that their status can say so.
const FIRST_RESULT: Duration = Duration::from_secs(30);
/// How often triggers may cause a read. A change of a block causes up to three.
const TRIGGERED_READS: PaceLimit = PaceLimit {
    burst: 60,
    period: Duration::from_secs(1),
};
/// Random part of the waits between reads.
const JITTER: f64 = 0.1;

/// Reads a key once it has a permit. It is given the last good value.
pub type ReadFn<K, V> = Box<
    dyn Fn(K, Option<Arc<V>>, ReadRequest) -> BoxFuture<'static, Result<Poll<V>, Failure>>
        + Send
        + Sync,
>;
/// Enqueues a subscriber.
pub type Enqueue<S> = Arc<dyn Fn(&S) + Send + Sync>;

/// How the values of one kind are read.
pub struct PollerSpec<S, K, V> {
    /// The upstream's name in metrics: `doppler` or `prefect`.
    pub upstream: &'static str,
    /// Reads a key.
    pub read: ReadFn<K, V>,
    /// The tenant of a subscriber.
    pub tenant: fn(&S) -> &str,
    /// Reports changes. Without it, keys are only polled.
    pub feed: Option<ChangeFeed<K>>,
}

struct PollersInner<S, K, V> {
    active: Mutex<Active<S, K, V>>,
    spec: PollerSpec<S, K, V>,
    metrics: Arc<Metrics>,
    enqueue: Enqueue<S>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// The polled values of one kind: blocks, or configs. `S` identifies a subscriber, `K` is what is
/// read, `V` the value.
pub struct Pollers<S, K, V>(Arc<PollersInner<S, K, V>>);

impl<S, K, V> Clone for Pollers<S, K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S, K, V> fmt::Debug for Pollers<S, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pollers").finish_non_exhaustive()
    }
}

impl<S, K, V> Pollers<S, K, V>
where
    S: Clone + Eq + Hash + Send + Sync + 'static,
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Pollers that read as `spec` says and enqueue subscribers with `enqueue`, until `shutdown`.
    /// Each read is counted by its outcome.
    #[must_use]
    pub fn new(
        spec: PollerSpec<S, K, V>,
        metrics: Arc<Metrics>,
        enqueue: Enqueue<S>,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(PollersInner {
            active: Mutex::new(Active {
                by_key: HashMap::new(),
                keys_of: HashMap::new(),
            }),
            spec,
            metrics,
            enqueue,
            tasks: TaskTracker::new(),
            shutdown,
        }))
    }

    /// Subscribes to `key`, and to no other key, polled at least every `interval`. Returns what is
    /// known now, without waiting: the subscriber is enqueued when there is more.
    pub fn subscribe(&self, subscriber: &S, key: &K, interval: Duration) -> PollState<V> {
        let mut states = self.subscribe_all(subscriber, std::slice::from_ref(key), interval);
        states.pop().unwrap_or_default()
    }

    /// Like [`Self::subscribe`], to all these keys and to no other. Returns their states in the same
    /// order.
    pub fn subscribe_all(
        &self,
        subscriber: &S,
        keys: &[K],
        interval: Duration,
    ) -> Vec<PollState<V>> {
        let mut active = self.0.active.lock();
        let keys = active.assign(subscriber, keys);
        let states = keys.iter().map(|key| {
            if let Some(polled) = active.by_key.get_mut(key) {
                match polled.subscribers.get_mut(subscriber) {
                    Some(last) => *last = interval,
                    None => {
                        polled.subscribers.insert(subscriber.clone(), interval);
                    }
                }
                return polled.state.clone();
            }
            let polled = self.start(key, subscriber, interval);
            active.by_key.insert(Arc::clone(key), polled);
            PollState::default()
        });
        states.collect()
    }

    /// Starts to poll a key, once the lock is released.
    fn start(&self, key: &Arc<K>, subscriber: &S, interval: Duration) -> Polled<S, V> {
        let polled = Polled {
            state: PollState::default(),
            subscribers: HashMap::from([(subscriber.clone(), interval)]),
            waiting: Waiting::default(),
            trigger: Trigger::default(),
            due_at: None,
            stop: self.0.shutdown.child_token(),
        };
        let (trigger, stop) = (polled.trigger.clone(), polled.stop.clone());
        let (shared, key) = (Arc::clone(&self.0), Arc::clone(key));
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = supervised("poller", &shared.metrics, || {
                    shared.poll(&key, trigger.clone(), &stop)
                }) => {}
            }
        });
        polled
    }

    /// Ends the subscriptions of a subscriber. A key without subscribers is no longer polled, and its value is
    /// dropped.
    pub fn unsubscribe(&self, subscriber: &S) {
        self.0.active.lock().unsubscribe(subscriber);
    }

    /// The age of the stalest value.
    #[must_use]
    pub fn max_age(&self, now: Instant) -> Duration {
        let active = self.0.active.lock();
        let read_at = active
            .by_key
            .values()
            .filter_map(|polled| polled.state.read_at);
        read_at
            .min()
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// The age of the stalest value of each subscriber, if all of its keys have been read.
    #[must_use]
    pub fn ages(&self, subscribers: &[S], now: Instant) -> Vec<Option<Duration>> {
        let active = self.0.active.lock();
        let ages = subscribers.iter().map(|subscriber| {
            let at = active.oldest_read(subscriber)?;
            Some(now.saturating_duration_since(at))
        });
        ages.collect()
    }

    /// For how long the most overdue value should have been read again.
    #[must_use]
    pub fn max_overdue(&self, now: Instant) -> Duration {
        let active = self.0.active.lock();
        let due = active.by_key.values().filter_map(|polled| polled.due_at);
        due.min()
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// How many keys are polled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.active.lock().by_key.len()
    }

    /// Whether no key is polled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S: Clone + Eq + Hash, K: Clone + Eq + Hash, V> PollersInner<S, K, V> {
    /// Polls a key until it is stopped.
    async fn poll(&self, key: &Arc<K>, trigger: Trigger, stop: &CancellationToken) {
        let feed = self.spec.feed.as_ref();
        let Some(tenant) = self.tenant(key) else {
            return;
        };
        let feed = feed.map(|feed| (feed.subscribe)(key, &tenant, trigger.clone()));
        if let Some(feed) = &feed {
            feed.settled(FEED_WAIT).await;
            // The first read comes after the connection, and therefore misses no change.
            trigger.take_pending();
        }
        let mut failures = 0;
        let mut priority = Priority::Initial;
        let mut pace = TriggerPace::default();
        loop {
            let (last, interval) = match self.active.lock().by_key.get(key) {
                Some(polled) => (polled.state.value.clone(), polled.interval()),
                None => return,
            };
            let request = ReadRequest {
                priority,
                trigger: trigger.clone(),
                interval,
            };
            let began = Instant::now();
            let mut read = (self.spec.read)(K::clone(key), last, request);
            let result = if let Ok(result) = timeout(FIRST_RESULT, &mut read).await {
                result
            } else {
                self.enqueue_all(&self.mark_overdue(key));
                read.await
            };
            self.count(&result);
            let failure = result.as_ref().err().cloned();
            failures = if failure.is_some() { failures + 1 } else { 0 };
            // A reader without a rate limiter sends its request at once.
            let sent_at = trigger.sent_at().map_or(began, |at| at.max(began));
            let read = ReadResult {
                result,
                sent_at,
                feed_state: feed
                    .as_ref()
                    .map_or(FeedState::Disabled, SubscriptionGuard::state),
                staleness: staleness(began.elapsed()),
                notified_at: trigger.take_notified_at(),
            };
            let Some((interval, affected)) = self.apply(key, read, stop) else {
                return;
            };
            self.enqueue_all(&affected);
            let wait = jittered(next_wait(failure.as_ref(), failures, interval), JITTER);
            priority = tokio::select! {
                () = trigger.triggered() => Priority::Interactive,
                () = tokio::time::sleep(wait) => Priority::Poll,
            };
            if priority == Priority::Interactive {
                pace_triggered(&trigger, &mut pace).await;
            }
        }
    }

    /// The tenant of one subscriber to a key.
    fn tenant(&self, key: &K) -> Option<Tenant> {
        let active = self.active.lock();
        let subscriber = active.by_key.get(key)?.subscribers.keys().next()?;
        Some((self.spec.tenant)(subscriber).into())
    }

    fn count(&self, result: &Result<Poll<V>, Failure>) {
        let outcome = match result {
            Ok(Poll::Unchanged) => "unchanged",
            Ok(Poll::Changed(_)) => "changed",
            Err(failure) => failure.reason.as_str(),
        };
        let upstream = self.spec.upstream;
        let labels = ReadLabels { upstream, outcome };
        self.metrics.reads.get_or_create(&labels).inc();
    }

    fn enqueue_all(&self, subscribers: &HashSet<S>) {
        for subscriber in subscribers {
            (self.enqueue)(subscriber);
        }
    }

    /// The first result takes long. Returns the subscribers that have to report this.
    fn mark_overdue(&self, key: &K) -> HashSet<S> {
        let mut active = self.active.lock();
        match active.by_key.get_mut(key) {
            Some(polled) if polled.state.awaits_first_result() => {
                polled.state.overdue = true;
                polled.subscribers.keys().cloned().collect()
            }
            _ => HashSet::new(),
        }
    }

    /// Applies a result. Returns the poll interval and the subscribers that see a difference, or
    /// nothing if the key has been stopped.
    fn apply(
        &self,
        key: &K,
        read: ReadResult<V>,
        stop: &CancellationToken,
    ) -> Option<(Duration, HashSet<S>)> {
        let mut active = self.active.lock();
        let polled = active.by_key.get_mut(key)?;
        if stop.is_cancelled() {
            return None;
        }
        let is_connected = read.feed_state == FeedState::Connected;
        let now = Instant::now();
        let differs = polled.state.apply(read, now);
        let answered = match polled.state.sent_at {
            Some(sent_at) if polled.state.failure.is_none() => {
                polled.waiting.take_answered(sent_at)
            }
            _ => Vec::new(),
        };
        let mut interval = polled.subscribers.values().min().copied()?;
        if let Some(feed) = self.spec.feed.as_ref().filter(|_| is_connected) {
            interval = interval.max(feed.poll_interval);
        }
        polled.set_due(now, interval);
        let affected = if differs {
            polled.subscribers.keys().cloned().collect()
        } else {
            answered.into_iter().collect()
        };
        Some((interval, affected))
    }
}

/// How often triggers of each kind caused a read lately.
#[derive(Default)]
struct TriggerPace {
    changes: Pace,
    demands: Pace,
}

/// Waits until a triggered read may begin. It also answers the triggers that arrive meanwhile.
async fn pace_triggered(trigger: &Trigger, pace: &mut TriggerPace) {
    loop {
        let now = Instant::now();
        if trigger.is_urgent() {
            match pace.changes.take(TRIGGERED_READS, now) {
                Ok(()) => return,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        } else if let Err(wait) = pace.demands.take(DEMANDED_READS, now) {
            tokio::select! {
                () = trigger.triggered() => {}
                () = tokio::time::sleep(wait) => {}
            }
        } else {
            return;
        }
    }
}

#[cfg(test)]
mod tests;

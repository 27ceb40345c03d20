//! One long-lived link for all that want to be told of the same upstream.
//!
//! In: who wants to be told, and a function that opens a link. Out: pokes ("read again now"), and whether a link is up. It holds one link for each
//! key, however many ask, and no more than a bound of them at the same time; it opens a lost one again with growing, jittered waits and then has
//! everything read once, since a change may have been missed; one that is refused is tried again rarely. It never knows what it is told, and never
//! reads anything: what a push means is for its holders to find out.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    metrics::{Metrics, NotificationLabels, UpstreamLabels},
    upstream::limiter::Trigger,
};

/// First wait before a lost link is opened again.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait before a lost link is opened again.
const LONGEST: Duration = Duration::from_mins(1);
/// A link that was up for so long was a good one: waits begin anew.
const GOOD: Duration = Duration::from_secs(30);
/// Wait before a link that was refused is tried again: a plan or a right may have been given.
const REFUSED: Duration = Duration::from_hours(1);

/// Whether changes are pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FeedState {
    /// Nobody tries.
    #[default]
    Disabled,
    /// It will be known in a moment.
    Connecting,
    /// They are.
    Connected,
    /// They were, or will be: a link is being opened again.
    Disconnected,
    /// There are as many links as there may be.
    OverLimit,
    /// The other side refuses, for this reason.
    Rejected(Arc<str>),
}

/// Why a link is not there, or not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// What is to be shown if this does not pass by itself: the other side refuses.
    pub rejected: Option<String>,
    /// When the other side wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Disconnect {
    /// Lost, and to be opened again.
    #[must_use]
    pub const fn transient() -> Self {
        Self {
            rejected: None,
            retry_after: None,
        }
    }
}

/// Opens a link. It is up once this has given a stream, whose items each say that something changed.
pub type Connect<K, T> = Box<
    dyn Fn(K) -> BoxFuture<'static, Result<BoxStream<'static, Result<T, Disconnect>>, Disconnect>>
        + Send
        + Sync,
>;
/// Hears what a link is told. Without it everybody who holds the link is poked.
pub type OnMessage<K, T> = Box<dyn Fn(&K, T) + Send + Sync>;

/// Links of one kind.
pub struct FeedSpec<K, T> {
    /// The word in metrics: `doppler` or `prefect`.
    pub upstream: &'static str,
    /// Opens one.
    pub open: Connect<K, T>,
    /// Hears what they are told.
    pub on_message: Option<OnMessage<K, T>>,
    /// Whether whoever holds a link that is lost has to look at once: it polled less often, and is to poll as before.
    pub slows_polling: bool,
    /// For a link whose other side does not say when it listens: once it is up again, everything is read anew, and once more after this.
    pub reread_after: Option<Duration>,
    /// How many may be open.
    pub max_connections: usize,
}

struct Link {
    holders: HashMap<u64, Trigger>,
    push: watch::Sender<FeedState>,
    end: CancellationToken,
}

struct Table<K> {
    links: HashMap<K, Link>,
    number: u64,
}

struct Shared<K, T> {
    kind: FeedSpec<K, T>,
    places: Semaphore,
    metrics: Arc<Metrics>,
    table: Mutex<Table<K>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// All links of one kind.
pub struct Subscriptions<K, T>(Arc<Shared<K, T>>);

impl<K, T> Clone for Subscriptions<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> fmt::Debug for Subscriptions<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

/// A link that somebody holds. The last one who lets go ends it.
pub struct SubscriptionGuard {
    push: watch::Receiver<FeedState>,
    leave: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl fmt::Debug for SubscriptionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

impl SubscriptionGuard {
    /// Whether changes are pushed.
    #[must_use]
    pub fn state(&self) -> FeedState {
        self.push.borrow().clone()
    }

    /// Waits until it is known whether changes are pushed, or for `limit`: what is read after that misses no change.
    pub async fn settled(&self, limit: Duration) {
        let mut push = self.push.clone();
        let known = push.wait_for(|push| *push != FeedState::Connecting);
        // Not known in time is an answer as well.
        let _ = timeout(limit, known).await;
    }
}

impl Drop for SubscriptionGuard {
    fn drop(&mut self) {
        if let Some(leave) = self.leave.take() {
            leave();
        }
    }
}

impl<K, T> Subscriptions<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Send + 'static,
{
    /// No links yet; all end with `shutdown`.
    #[must_use]
    pub fn new(kind: FeedSpec<K, T>, metrics: Arc<Metrics>, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            places: Semaphore::new(kind.max_connections.min(Semaphore::MAX_PERMITS)),
            kind,
            metrics,
            table: Mutex::new(Table {
                links: HashMap::new(),
                number: 0,
            }),
            tasks: TaskTracker::new(),
            shutdown,
        }))
    }

    /// Has `poke` told of changes under `key` for as long as the answer is held.
    pub fn subscribe(&self, key: &K, poke: Trigger) -> SubscriptionGuard {
        let mut table = self.0.table();
        table.number += 1;
        let number = table.number;
        let mut started = None;
        let link = table.links.entry(key.clone()).or_insert_with(|| {
            let end = self.0.shutdown.child_token();
            started = Some(end.clone());
            Link {
                holders: HashMap::new(),
                push: watch::Sender::new(FeedState::Connecting),
                end,
            }
        });
        link.holders.insert(number, poke);
        let push = link.push.subscribe();
        drop(table);
        if let Some(end) = started {
            let (shared, key) = (Arc::clone(&self.0), key.clone());
            self.0.tasks.spawn(async move {
                tokio::select! {
                    () = end.cancelled() => {}
                    () = shared.keep(&key) => {}
                }
            });
        }
        let (links, key) = (self.clone(), key.clone());
        SubscriptionGuard {
            push,
            leave: Some(Box::new(move || links.leave(&key, number))),
        }
    }

    /// How many links are wanted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.table().links.len()
    }

    /// Whether no link is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn leave(&self, key: &K, number: u64) {
        let mut table = self.0.table();
        let Some(link) = table.links.get_mut(key) else {
            return;
        };
        link.holders.remove(&number);
        if link.holders.is_empty() {
            link.end.cancel();
            table.links.remove(key);
        }
    }
}

impl<K: Clone + Eq + Hash, T> Shared<K, T> {
    fn table(&self) -> MutexGuard<'_, Table<K>> {
        // Nothing is left half done under this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, key: &K, push: FeedState) {
        if let Some(link) = self.table().links.get(key) {
            link.push.send_replace(push);
        }
    }

    fn poke(&self, key: &K, poke: impl Fn(&Trigger)) {
        if let Some(link) = self.table().links.get(key) {
            link.holders.values().for_each(poke);
        }
    }

    async fn keep(&self, key: &K) {
        let labels = UpstreamLabels {
            upstream: self.kind.upstream,
        };
        let mut failures = 0;
        let mut first = true;
        loop {
            let wait = {
                let place = if let Ok(place) = self.places.try_acquire() {
                    Ok(place)
                } else {
                    self.tell(key, FeedState::OverLimit);
                    self.places.acquire().await
                };
                // The semaphore is never closed.
                let Ok(_place) = place else { return };
                let opened = Instant::now();
                let stream = (self.kind.open)(key.clone()).await;
                let was_up = stream.is_ok();
                let closed = match stream {
                    Ok(stream) => {
                        if !first {
                            self.metrics
                                .subscription_reconnects
                                .get_or_create(&labels)
                                .inc();
                        }
                        let again = self.kind.reread_after.filter(|_| !first);
                        first = false;
                        self.listen(key, stream, again, labels).await
                    }
                    Err(closed) => closed,
                };
                failures = if opened.elapsed() >= GOOD {
                    1
                } else {
                    failures + 1
                };
                let push = match &closed.rejected {
                    Some(why) => FeedState::Rejected(why.as_str().into()),
                    None => FeedState::Disconnected,
                };
                if closed.rejected.is_some() {
                    self.metrics
                        .subscription_rejections
                        .get_or_create(&labels)
                        .inc();
                }
                self.tell(key, push);
                if self.kind.slows_polling && was_up {
                    self.poke(key, Trigger::request_read);
                }
                wait_after(&closed, failures)
            };
            sleep(wait.mul_f64(rand::random_range(0.8..=1.2))).await;
        }
    }

    /// Listens until the link is closed; has everything read at once, and `again` after a while.
    async fn listen(
        &self,
        key: &K,
        mut stream: BoxStream<'static, Result<T, Disconnect>>,
        again: Option<Duration>,
        labels: UpstreamLabels,
    ) -> Disconnect {
        let _up = Up::new(&self.metrics, labels);
        // First the poke, then the word: who waits for the word reads after both, and takes the poke with it.
        self.poke(key, Trigger::request_read);
        self.tell(key, FeedState::Connected);
        let mut again = again.map(|wait| Box::pin(sleep(wait)));
        loop {
            let told = tokio::select! {
                told = stream.next() => told,
                () = due(&mut again) => {
                    again = None;
                    self.poke(key, Trigger::request_read);
                    continue;
                }
            };
            match told {
                None => return Disconnect::transient(),
                Some(Ok(told)) => {
                    let kind = NotificationLabels {
                        kind: self.kind.upstream,
                    };
                    self.metrics.change_notifications.get_or_create(&kind).inc();
                    if let Some(hear) = &self.kind.on_message {
                        hear(key, told);
                    } else {
                        let now = Instant::now();
                        self.poke(key, |poke| poke.notify(now));
                    }
                }
                Some(Err(closed)) => return closed,
            }
        }
    }
}

/// Waits until it is time, if there is a time.
async fn due(at: &mut Option<Pin<Box<Sleep>>>) {
    match at {
        Some(at) => at.await,
        None => std::future::pending().await,
    }
}

/// Counts a link as up for as long as it lives, however it ends.
struct Up<'a>(&'a Metrics, UpstreamLabels);

impl<'a> Up<'a> {
    fn new(metrics: &'a Metrics, labels: UpstreamLabels) -> Self {
        metrics.subscriptions_connected.get_or_create(&labels).inc();
        Self(metrics, labels)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.subscriptions_connected.get_or_create(&self.1).dec();
    }
}

fn wait_after(closed: &Disconnect, failures: u32) -> Duration {
    if closed.rejected.is_some() {
        return REFUSED;
    }
    let growing = FIRST
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)))
        .min(LONGEST);
    closed
        .retry_after
        .map_or(growing, |asked| asked.max(growing).min(REFUSED))
}

#[cfg(test)]
mod tests;

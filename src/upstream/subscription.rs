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
    metrics::{LinkLabels, Metrics, PushLabels},
    upstream::limiter::Poke,
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
pub enum Push {
    /// Nobody tries.
    #[default]
    Off,
    /// It will be known in a moment.
    Opening,
    /// They are.
    Up,
    /// They were, or will be: a link is being opened again.
    Down,
    /// There are as many links as there may be.
    Crowded,
    /// The other side refuses, for this reason.
    Refused(Arc<str>),
}

/// Why a link is not there, or not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// What is to be shown if this does not pass by itself: the other side refuses.
    pub refused: Option<String>,
    /// When the other side wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Closed {
    /// Lost, and to be opened again.
    #[must_use]
    pub const fn lost() -> Self {
        Self {
            refused: None,
            retry_after: None,
        }
    }
}

/// Opens a link. It is up once this has given a stream, whose items each say that something changed.
pub type Open<K, T> = Box<
    dyn Fn(K) -> BoxFuture<'static, Result<BoxStream<'static, Result<T, Closed>>, Closed>>
        + Send
        + Sync,
>;
/// Hears what a link is told. Without it everybody who holds the link is poked.
pub type Told<K, T> = Box<dyn Fn(&K, T) + Send + Sync>;

/// Links of one kind.
pub struct Kind<K, T> {
    /// The word in metrics: `doppler` or `prefect`.
    pub upstream: &'static str,
    /// Opens one.
    pub open: Open<K, T>,
    /// Hears what they are told.
    pub told: Option<Told<K, T>>,
    /// Whether whoever holds a link that is lost has to look at once: it polled less often, and is to poll as before.
    pub slows_polls: bool,
    /// For a link whose other side does not say when it listens: once it is up again, everything is read anew, and once more after this.
    pub listens_after: Option<Duration>,
    /// How many may be open.
    pub most: usize,
}

struct Link {
    holders: HashMap<u64, Poke>,
    push: watch::Sender<Push>,
    end: CancellationToken,
}

struct Table<K> {
    links: HashMap<K, Link>,
    number: u64,
}

struct Shared<K, T> {
    kind: Kind<K, T>,
    places: Semaphore,
    metrics: Arc<Metrics>,
    table: Mutex<Table<K>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// All links of one kind.
pub struct Links<K, T>(Arc<Shared<K, T>>);

impl<K, T> Clone for Links<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> fmt::Debug for Links<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

/// A link that somebody holds. The last one who lets go ends it.
pub struct Held {
    push: watch::Receiver<Push>,
    leave: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

impl Held {
    /// Whether changes are pushed.
    #[must_use]
    pub fn push(&self) -> Push {
        self.push.borrow().clone()
    }

    /// Waits until it is known whether changes are pushed, or for `limit`: what is read after that misses no change.
    pub async fn opened(&self, limit: Duration) {
        let mut push = self.push.clone();
        let known = push.wait_for(|push| *push != Push::Opening);
        // Not known in time is an answer as well.
        let _ = timeout(limit, known).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(leave) = self.leave.take() {
            leave();
        }
    }
}

impl<K, T> Links<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Send + 'static,
{
    /// No links yet; all end with `shutdown`.
    #[must_use]
    pub fn new(kind: Kind<K, T>, metrics: Arc<Metrics>, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            places: Semaphore::new(kind.most.min(Semaphore::MAX_PERMITS)),
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
    pub fn hold(&self, key: &K, poke: Poke) -> Held {
        let mut table = self.0.table();
        table.number += 1;
        let number = table.number;
        let mut started = None;
        let link = table.links.entry(key.clone()).or_insert_with(|| {
            let end = self.0.shutdown.child_token();
            started = Some(end.clone());
            Link {
                holders: HashMap::new(),
                push: watch::Sender::new(Push::Opening),
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
        Held {
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

    fn tell(&self, key: &K, push: Push) {
        if let Some(link) = self.table().links.get(key) {
            link.push.send_replace(push);
        }
    }

    fn poke(&self, key: &K, poke: impl Fn(&Poke)) {
        if let Some(link) = self.table().links.get(key) {
            link.holders.values().for_each(poke);
        }
    }

    async fn keep(&self, key: &K) {
        let labels = LinkLabels {
            upstream: self.kind.upstream,
        };
        let mut failures = 0;
        let mut first = true;
        loop {
            let wait = {
                let place = if let Ok(place) = self.places.try_acquire() {
                    Ok(place)
                } else {
                    self.tell(key, Push::Crowded);
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
                            self.metrics.link_reconnects.get_or_create(&labels).inc();
                        }
                        let again = self.kind.listens_after.filter(|_| !first);
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
                let push = match &closed.refused {
                    Some(why) => Push::Refused(why.as_str().into()),
                    None => Push::Down,
                };
                if closed.refused.is_some() {
                    self.metrics.link_refusals.get_or_create(&labels).inc();
                }
                self.tell(key, push);
                if self.kind.slows_polls && was_up {
                    self.poke(key, Poke::nudge);
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
        mut stream: BoxStream<'static, Result<T, Closed>>,
        again: Option<Duration>,
        labels: LinkLabels,
    ) -> Closed {
        let _up = Up::new(&self.metrics, labels);
        // First the poke, then the word: who waits for the word reads after both, and takes the poke with it.
        self.poke(key, Poke::nudge);
        self.tell(key, Push::Up);
        let mut again = again.map(|wait| Box::pin(sleep(wait)));
        loop {
            let told = tokio::select! {
                told = stream.next() => told,
                () = due(&mut again) => {
                    again = None;
                    self.poke(key, Poke::nudge);
                    continue;
                }
            };
            match told {
                None => return Closed::lost(),
                Some(Ok(told)) => {
                    let kind = PushLabels {
                        kind: self.kind.upstream,
                    };
                    self.metrics.pushes.get_or_create(&kind).inc();
                    if let Some(hear) = &self.kind.told {
                        hear(key, told);
                    } else {
                        let now = Instant::now();
                        self.poke(key, |poke| poke.push(now));
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
struct Up<'a>(&'a Metrics, LinkLabels);

impl<'a> Up<'a> {
    fn new(metrics: &'a Metrics, labels: LinkLabels) -> Self {
        metrics.links_up.get_or_create(&labels).inc();
        Self(metrics, labels)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.links_up.get_or_create(&self.1).dec();
    }
}

fn wait_after(closed: &Closed, failures: u32) -> Duration {
    if closed.refused.is_some() {
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

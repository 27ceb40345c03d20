//! One upstream read for all bindings that ask for the same thing.
//!
//! In: who depends on which key, a function that reads a key, and whoever is told of changes. Out: the last good value, its fault if the last read
//! failed, and a wake for exactly those dependants whose reading changed. It holds at most one request for each key in flight, polls with jitter,
//! waits longer after each failure, and forgets the value (a secret) when nobody depends on it any more. A push means "read again now"; polling stays
//! the truth. It never knows what it reads, and leaves it to the reader when a request may be sent.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    reason::{Class, Reason},
    upstream::limiter::{Priority, ReadRequest, Trigger},
    upstream::subscription::{FeedState, SubscriptionGuard},
};

/// First wait after a failed read.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Waits after failures grow to the poll interval, or to this if it is longer.
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// No upstream can make us wait longer than this.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// How long the first read waits for the link that tells of changes, so that it need not be made again once that is up.
const LINK_OPENS: Duration = Duration::from_secs(2);
/// How long the first answer is awaited before dependants are told so.
const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// A read that took so much longer than a request takes has waited for its turn.
const WAITED: Duration = Duration::from_secs(30);

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll<V> {
    /// What was there before.
    Unchanged,
    /// Something else.
    Changed(V),
}

/// What went wrong, in words that may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its reason, whose class decides the retry.
    pub reason: Reason,
    /// One sentence that says what happened, to what, and what to do.
    pub message: String,
    /// When the other side wants to be asked again.
    pub retry_after: Option<Duration>,
}

/// What is known about a key.
pub struct PollState<V> {
    /// The last good value.
    pub value: Option<Arc<V>>,
    /// How many reads in a row gave this value.
    pub unchanged_reads: u32,
    /// Why the last read failed, if it did.
    pub failure: Option<Failure>,
    /// Since when reads have failed.
    pub failing_since: Option<Instant>,
    /// Whether changes are pushed.
    pub feed_state: FeedState,
    /// How old the value may be, where the upstream's limit leaves it older than the interval, in whole minutes.
    pub staleness: Option<Duration>,
    /// When somebody told of the change that this value is.
    pub notified_at: Option<Instant>,
    /// When it was last read.
    pub read_at: Option<Instant>,
    /// Whether the first answer has been awaited for so long that it is worth a word.
    pub overdue: bool,
}

impl<V> Clone for PollState<V> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            unchanged_reads: self.unchanged_reads,
            failure: self.failure.clone(),
            failing_since: self.failing_since,
            feed_state: self.feed_state.clone(),
            staleness: self.staleness,
            notified_at: self.notified_at,
            read_at: self.read_at,
            overdue: self.overdue,
        }
    }
}

impl<V> Default for PollState<V> {
    fn default() -> Self {
        Self {
            value: None,
            unchanged_reads: 0,
            failure: None,
            failing_since: None,
            feed_state: FeedState::Disabled,
            staleness: None,
            notified_at: None,
            read_at: None,
            overdue: false,
        }
    }
}

impl<V> PollState<V> {
    /// For how long reads have failed.
    #[must_use]
    pub fn failing_for(&self, now: Instant) -> Duration {
        self.failing_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Takes in what a read gave. True if a dependant would see a difference.
    fn take(&mut self, came: Came<V>, now: Instant) -> bool {
        let Came {
            result,
            push,
            lag,
            told_at,
        } = came;
        // Only what is told of it makes a difference: links come and go.
        let refused =
            |push: &FeedState| matches!(push, FeedState::Rejected(_)).then(|| push.clone());
        let restated = refused(&self.feed_state) != refused(&push) || self.staleness != lag;
        self.feed_state = push;
        self.staleness = lag;
        let restated = restated && self.value.is_some();
        self.overdue = false;
        match result {
            Ok(answer) => {
                let recovered = self.failure.take().is_some();
                self.failing_since = None;
                self.read_at = Some(now);
                match answer {
                    Poll::Unchanged => {
                        self.unchanged_reads = self.unchanged_reads.saturating_add(1);
                        recovered || restated
                    }
                    Poll::Changed(value) => {
                        self.value = Some(Arc::new(value));
                        self.unchanged_reads = 1;
                        self.notified_at = told_at;
                        true
                    }
                }
            }
            Err(fault) => {
                self.failing_since.get_or_insert(now);
                let before = self.failure.replace(fault);
                before.map(|fault| (fault.reason, fault.message))
                    != self.failure.as_ref().map(|f| (f.reason, f.message.clone()))
            }
        }
    }
}

/// What a read gave, and how it came about.
struct Came<V> {
    result: Result<Poll<V>, Failure>,
    push: FeedState,
    lag: Option<Duration>,
    told_at: Option<Instant>,
}

/// Reads a key when its turn comes; it is given the last good value.
pub type ReadFn<K, V> = Box<
    dyn Fn(K, Option<Arc<V>>, ReadRequest) -> BoxFuture<'static, Result<Poll<V>, Failure>>
        + Send
        + Sync,
>;
/// Has a key's poke told of changes, for as long as the answer is held.
pub type SubscribeFn<K> = Box<dyn Fn(&K, Trigger) -> SubscriptionGuard + Send + Sync>;
/// Wakes a dependant.
pub type Enqueue<D> = Arc<dyn Fn(&D) + Send + Sync>;

struct Entry<D, V> {
    reading: PollState<V>,
    dependants: HashMap<D, Duration>,
    poke: Trigger,
    end: CancellationToken,
}

struct Table<D, K, V> {
    entries: HashMap<Arc<K>, Entry<D, V>>,
    /// What each dependant depends on. Keys are shared: thousands of dependants may have the same one.
    keys: HashMap<D, Arc<K>>,
}

struct Shared<D, K, V> {
    table: Mutex<Table<D, K, V>>,
    read: ReadFn<K, V>,
    hold: Option<SubscribeFn<K>>,
    /// Poll interval at least, while changes are pushed.
    pushed_interval: Duration,
    wake: Enqueue<D>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// All sources of one kind: blocks, or configs. `D` is who depends, `K` what is read, `V` what it gives.
pub struct Pollers<D, K, V>(Arc<Shared<D, K, V>>);

impl<D, K, V> Clone for Pollers<D, K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D, K, V> fmt::Debug for Pollers<D, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl<D, K, V> Pollers<D, K, V>
where
    D: Clone + Eq + Hash + Send + Sync + 'static,
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Sources that read with `read` and wake dependants with `wake`, until `shutdown`. They are told of changes by what `hold` gives, and while they
    /// are, poll no more often than every `pushed_interval`.
    #[must_use]
    pub fn new(
        read: ReadFn<K, V>,
        hold: Option<SubscribeFn<K>>,
        pushed_interval: Duration,
        wake: Enqueue<D>,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            table: Mutex::new(Table {
                entries: HashMap::new(),
                keys: HashMap::new(),
            }),
            read,
            hold,
            pushed_interval,
            wake,
            tasks: TaskTracker::new(),
            shutdown,
        }))
    }

    /// Makes `who` depend on `key`, and on no other key, polled at least every `interval`; gives what is known now. Waits for nothing: when there
    /// is more to know, `who` is woken.
    pub fn subscribe(&self, who: &D, key: &K, interval: Duration) -> PollState<V> {
        let mut table = self.table();
        match table.keys.get(who) {
            Some(before) if **before == *key => {}
            before => {
                let moves = before.is_some();
                if moves {
                    table.leave(who);
                }
                let known = table.entries.get_key_value(key);
                let shared = known.map(|(shared, _)| Arc::clone(shared));
                let shared = shared.unwrap_or_else(|| Arc::new(key.clone()));
                table.keys.insert(who.clone(), shared);
            }
        }
        if let Some(entry) = table.entries.get_mut(key) {
            match entry.dependants.get_mut(who) {
                Some(before) => *before = interval,
                None => {
                    entry.dependants.insert(who.clone(), interval);
                }
            }
            return entry.reading.clone();
        }
        let entry = Entry {
            reading: PollState::default(),
            dependants: HashMap::from([(who.clone(), interval)]),
            poke: Trigger::default(),
            end: self.0.shutdown.child_token(),
        };
        let (poke, end) = (entry.poke.clone(), entry.end.clone());
        let shared = table.keys.get(who).map(Arc::clone);
        let shared = shared.unwrap_or_else(|| Arc::new(key.clone()));
        table.entries.insert(shared, entry);
        drop(table);
        let (shared, key) = (Arc::clone(&self.0), key.clone());
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = shared.keep_reading(key, poke, &end) => {}
            }
        });
        PollState::default()
    }

    /// `who` depends on nothing any more. A source without dependants ends and drops its value.
    pub fn unsubscribe(&self, who: &D) {
        self.table().leave(who);
    }

    /// Somebody was told at `at` of a change, wherever `which` says so of a key and its last good value: it is read again now.
    /// True if there is one.
    #[allow(clippy::must_use_candidate)] // it is read again whether or not the answer is looked at
    pub fn refresh(&self, at: Instant, which: impl Fn(&K, Option<&V>) -> bool) -> bool {
        let mut concerns = false;
        for (key, entry) in &self.table().entries {
            if which(key, entry.reading.value.as_deref()) {
                entry.poke.notify(at);
                concerns = true;
            }
        }
        concerns
    }

    /// Reads again now what could not be read, wherever `which` says so.
    pub fn retry_failed(&self, which: impl Fn(&K) -> bool) {
        for (key, entry) in &self.table().entries {
            if entry.reading.failure.is_some() && which(key) {
                entry.poke.request_read();
            }
        }
    }

    /// How long ago the source that was read longest ago was read.
    #[must_use]
    pub fn max_age(&self, now: Instant) -> Duration {
        let table = self.table();
        let read = table
            .entries
            .values()
            .filter_map(|entry| entry.reading.read_at);
        read.min()
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// How many distinct keys are read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table().entries.len()
    }

    /// Whether nothing is read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn table(&self) -> MutexGuard<'_, Table<D, K, V>> {
        self.0.table()
    }
}

impl<D: Eq + Hash, K: Eq + Hash, V> Table<D, K, V> {
    fn leave(&mut self, who: &D) {
        let Some(key) = self.keys.remove(who) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.dependants.remove(who);
        if entry.dependants.is_empty() {
            entry.end.cancel();
            self.entries.remove(&key);
        }
    }
}

impl<D: Clone + Eq + Hash, K: Clone + Eq + Hash, V> Shared<D, K, V> {
    fn table(&self) -> MutexGuard<'_, Table<D, K, V>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep_reading(&self, key: K, poke: Trigger, end: &CancellationToken) {
        let link = self.hold.as_ref().map(|hold| hold(&key, poke.clone()));
        if let Some(link) = &link {
            link.settled(LINK_OPENS).await;
            // The link is up before the first read, which therefore misses nothing.
            poke.take_pending();
        }
        let mut failures = 0;
        let mut rank = Priority::Initial;
        loop {
            let last = match self.table().entries.get(&key) {
                Some(entry) => entry.reading.value.clone(),
                None => return,
            };
            let wish = ReadRequest {
                priority: rank,
                trigger: poke.clone(),
            };
            let began = Instant::now();
            let mut read = (self.read)(key.clone(), last, wish);
            let result = if let Ok(result) = timeout(FIRST_ANSWER, &mut read).await {
                result
            } else {
                self.wake_all(&self.overdue(&key));
                read.await
            };
            let fault = result.as_ref().err().cloned();
            failures = if fault.is_some() { failures + 1 } else { 0 };
            let came = Came {
                result,
                push: link
                    .as_ref()
                    .map(SubscriptionGuard::state)
                    .unwrap_or_default(),
                lag: lag(began.elapsed()),
                told_at: poke.take_notified_at(),
            };
            let Some((interval, woken)) = self.take(&key, came, end) else {
                return;
            };
            self.wake_all(&woken);
            let wait = wait_after(fault.as_ref(), failures, interval).mul_f64(jitter());
            rank = tokio::select! {
                () = poke.triggered() => Priority::Interactive,
                () = tokio::time::sleep(wait) => Priority::Poll,
            };
        }
    }

    fn wake_all(&self, woken: &HashSet<D>) {
        for who in woken {
            (self.wake)(who);
        }
    }

    /// An answer is long in coming; gives who has none at all.
    fn overdue(&self, key: &K) -> HashSet<D> {
        let mut table = self.table();
        let entry = table.entries.get_mut(key);
        let waits = |entry: &&mut Entry<D, V>| {
            entry.reading.value.is_none() && entry.reading.failure.is_none()
        };
        entry.filter(waits).map_or_else(HashSet::new, |entry| {
            entry.reading.overdue = true;
            entry.dependants.keys().cloned().collect()
        })
    }

    /// Takes in a result; gives the poll interval and who sees a difference, or nothing if the source has ended meanwhile.
    fn take(
        &self,
        key: &K,
        came: Came<V>,
        end: &CancellationToken,
    ) -> Option<(Duration, HashSet<D>)> {
        let mut table = self.table();
        let entry = table.entries.get_mut(key)?;
        if end.is_cancelled() {
            return None;
        }
        let pushed = came.push == FeedState::Connected;
        let changed = entry.reading.take(came, Instant::now());
        let mut interval = entry.dependants.values().min().copied()?;
        if pushed {
            interval = interval.max(self.pushed_interval);
        }
        let woken = if changed {
            entry.dependants.keys().cloned().collect()
        } else {
            HashSet::new()
        };
        Some((interval, woken))
    }
}

/// How old a value may become whose read took so long, if that is longer than a request takes.
fn lag(took: Duration) -> Option<Duration> {
    (took > WAITED).then(|| Duration::from_mins(took.as_secs().div_ceil(60) + 1))
}

/// How long to wait before the next read.
fn wait_after(fault: Option<&Failure>, failures: u32, interval: Duration) -> Duration {
    let Some(fault) = fault else { return interval };
    let growing = FIRST_RETRY
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)))
        .min(interval.max(LONGEST_RETRY));
    match fault.reason.class() {
        Class::WaitForChange | Class::Settled => interval,
        Class::Retry => fault
            .retry_after
            .map_or(growing, |asked| asked.max(growing))
            .min(LONGEST_WAIT),
        Class::WaitUntil => fault
            .retry_after
            .unwrap_or(growing)
            .clamp(FIRST_RETRY, LONGEST_WAIT),
    }
}

/// Around 1, by at most a tenth, so that polls do not march in step.
fn jitter() -> f64 {
    rand::random_range(0.9..=1.1)
}

#[cfg(test)]
mod tests;

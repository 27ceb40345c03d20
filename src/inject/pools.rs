//! One reconciler for each work pool that bindings name.
//!
//! In: what bindings ask of the pools of a server, and who owns pools. Out: pools that carry the entries, what was found for each binding, and a
//! wake for exactly those bindings for which something changed. Each pool is looked at by one task, which gathers the claims of all its bindings and
//! ends with the last of them. It decides nothing itself: `plan` says what to write, `drift` when, `outcome` what a failure means.

mod drift;
mod look;
mod outcome;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::claim::{Claim, Finding};
use super::managed::{self, ManagedPool};
use crate::crd::DopplerPrefectBinding;
use crate::metrics::Metrics;
use crate::prefect::{Clients, Connection, PrefectError};
use crate::reason::Reason;
use look::{Asked, Door, Failed, Found, Memory, Snapshot, done_for};

/// Claims that come within this time of each other share a look.
const SETTLE: Duration = Duration::from_millis(75);
/// A look waits no longer than this for further claims.
const SETTLE_AT_MOST: Duration = Duration::from_millis(500);
/// A pool is not looked at more often than this by itself.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// A binding.
type Who = ObjectRef<DopplerPrefectBinding>;
/// Wakes a binding.
pub type Wake = Arc<dyn Fn(&Who) + Send + Sync>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    connection: Arc<Connection>,
    pool: String,
}

struct Record {
    claim: Claim,
    /// Tells this claim from those before it, so that what was found for those is not taken for its own.
    revision: u64,
    finding: Option<Finding>,
}

#[derive(Default)]
struct Entry {
    claims: HashMap<Who, HashMap<String, Record>>,
    version: u64,
    poke: Arc<Notify>,
}

#[derive(Default)]
struct Table {
    pools: HashMap<Key, Entry>,
    managed: Vec<ManagedPool>,
    /// The last number given to a claim or an event.
    number: u64,
}

struct Shared {
    clients: Arc<Clients>,
    in_flight: Semaphore,
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
    /// No pools yet. At most `in_flight` are looked at at the same time; bindings are woken with `wake`, until `shutdown`.
    #[must_use]
    pub fn new(
        clients: Arc<Clients>,
        in_flight: usize,
        wake: Wake,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            clients,
            in_flight: Semaphore::new(in_flight),
            wake,
            metrics,
            shutdown,
            tasks: TaskTracker::new(),
            table: Mutex::default(),
        }))
    }

    /// What `who` asks of a pool for a Secret, instead of what it asked before for that; gives what is known now. Waits for nothing: when there is
    /// more to know, `who` is woken.
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
        let known = table
            .pools
            .get(&key)
            .and_then(|entry| entry.claims.get(who));
        if let Some(record) = known.and_then(|claims| claims.get(&claim.secret))
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
                    () = shared.keep(&key, &poke) => {}
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
            let before = managed::owner(&table.managed, url, &key.pool);
            if before != managed::owner(&managed, url, &key.pool) {
                entry.poke.notify_one();
            }
        }
        table.managed = managed;
    }

    /// Looks again now at the pools for which `which` says so of server and pool.
    pub fn poke(&self, which: &dyn Fn(&str, &str) -> bool) {
        for (key, entry) in &self.0.table().pools {
            if which(key.connection.api_url.as_str(), &key.pool) {
                entry.poke.notify_one();
            }
        }
    }

    /// How many pools are looked at.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.table().pools.len()
    }

    /// Whether no pool is looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entry {
    fn retain(&mut self, who: &Who, keep: impl Fn(&str) -> bool) {
        let Some(claims) = self.claims.get_mut(who) else {
            return;
        };
        let before = claims.len();
        claims.retain(|secret, _| keep(secret));
        if claims.len() == before {
            return;
        }
        self.left(who);
    }

    /// A claim of `who` has gone.
    fn left(&mut self, who: &Who) {
        if self.claims.get(who).is_some_and(HashMap::is_empty) {
            self.claims.remove(who);
        }
        self.version += 1;
        self.poke.notify_one();
    }

    fn records(&self) -> impl Iterator<Item = (&Who, &Record)> {
        let claims = self.claims.iter();
        claims.flat_map(|(who, records)| records.values().map(move |record| (who, record)))
    }
}

impl Table {
    fn end_if_unasked(&mut self, key: &Key) -> bool {
        let entry = self.pools.get(key);
        let asked = entry.is_some_and(|entry| !entry.claims.is_empty());
        if !asked {
            self.pools.remove(key);
        }
        !asked
    }

    /// Takes in a claim that is new or changed. Gives what is known of it, and what pokes the pool if its task is to be started.
    fn replace(
        &mut self,
        who: &Who,
        key: &Key,
        mut claim: Claim,
    ) -> (Option<Finding>, Option<Arc<Notify>>) {
        self.number += 1;
        let revision = self.number;
        let secret = claim.secret.clone();
        // The same pool with other credentials (a rotated key): what was known moves along.
        let moved = self
            .pools
            .iter_mut()
            .filter(|(other, _)| {
                other.pool == key.pool
                    && other.connection.api_url == key.connection.api_url
                    && *other != key
            })
            .find_map(|(_, entry)| {
                let record = entry.claims.get_mut(who)?.remove(&secret)?;
                entry.left(who);
                Some(record)
            });
        let mut started = None;
        let entry = self.pools.entry(key.clone()).or_insert_with(|| {
            let entry = Entry::default();
            started = Some(Arc::clone(&entry.poke));
            entry
        });
        let claims = entry.claims.entry(who.clone()).or_default();
        let last = claims.remove(&secret).or(moved);
        let mut finding = None;
        let mut asks_otherwise = true;
        if let Some(last) = last {
            claim.known = last.claim.known;
            asks_otherwise = last.claim.want != claim.want
                || last.claim.noted != claim.noted
                || last.claim.mode != claim.mode
                || last.claim.optional != claim.optional
                || last.claim.namespace != claim.namespace;
            finding = match last.finding {
                Some(finding) if asks_otherwise => Some(outcome::restated(&claim, &finding)),
                finding => finding,
            };
        }
        if asks_otherwise {
            entry.version += 1;
        }
        let record = Record {
            claim,
            revision,
            finding: finding.clone(),
        };
        claims.insert(secret, record);
        entry.poke.notify_one();
        (finding, started)
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing is left half done under this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a pool until nobody asks anything of it. No look is broken off by that: a PATCH on its way would come after all.
    async fn keep(&self, key: &Key, poke: &Notify) {
        let mut memory = Memory::default();
        let mut failures = 0;
        loop {
            settle(poke).await;
            let Some(snapshot) = self.snapshot(key) else {
                return;
            };
            let result = self.look(key, &snapshot, &mut memory).await;
            let now = Instant::now();
            let interval = snapshot.interval.max(SHORTEST_INTERVAL);
            let (wait, pokes_wait) = match &result {
                Ok(found) => {
                    failures = 0;
                    let held = found
                        .held_until
                        .map(|until| until.saturating_duration_since(now));
                    let interval = interval.mul_f64(jitter());
                    (held.map_or(interval, |held| held.min(interval)), false)
                }
                Err(failed) => {
                    failures += 1;
                    if matches!(failed.error, PrefectError::PoolMissing { .. }) {
                        memory.forget();
                    }
                    let (wait, pokes_wait) = outcome::wait_after(&failed.error, failures, interval);
                    // Not earlier than the server asked for.
                    (wait.mul_f64(jitter() + 0.1), pokes_wait)
                }
            };
            self.publish(key, &snapshot, result, now);
            drop(snapshot);
            let due = tokio::time::Instant::now() + wait;
            loop {
                tokio::select! {
                    () = sleep_until(due) => break,
                    () = poke.notified() => {
                        if !pokes_wait {
                            break;
                        }
                        if self.end_if_unasked(key) {
                            return;
                        }
                    }
                }
            }
        }
    }

    async fn look(
        &self,
        key: &Key,
        snapshot: &Snapshot,
        memory: &mut Memory,
    ) -> Result<Found, Failed> {
        // The semaphore is never closed. A look sends one request at a time.
        let _permit = self.in_flight.acquire().await;
        let door = Door {
            client: self.clients.get(&key.connection)?,
            pool: &key.pool,
            metrics: &self.metrics,
        };
        memory.look(&door, snapshot).await
    }

    /// Ends the pool if nobody asks anything of it.
    fn end_if_unasked(&self, key: &Key) -> bool {
        self.table().end_if_unasked(key)
    }

    /// What is asked of the pool; nothing if the pool has ended.
    fn snapshot(&self, key: &Key) -> Option<Snapshot> {
        let mut table = self.table();
        if table.end_if_unasked(key) {
            return None;
        }
        let entry = table.pools.get(key)?;
        let asked: Vec<_> = entry
            .records()
            .map(|(who, record)| Asked {
                who: who.clone(),
                revision: record.revision,
                claim: record.claim.clone(),
                last: record.finding.clone(),
            })
            .collect();
        let interval = asked.iter().map(|asked| asked.claim.interval).min()?;
        let url = &key.connection.api_url;
        Some(Snapshot {
            owner: managed::owner(&table.managed, url, &key.pool).cloned(),
            version: entry.version,
            asked,
            interval,
        })
    }

    /// Notes what was found for the claims that still are what they were, and wakes whoever sees a difference.
    fn publish(&self, key: &Key, snapshot: &Snapshot, result: Result<Found, Failed>, now: Instant) {
        let outcomes: Vec<(Finding, Option<Reason>)> = match result {
            Ok(Found { findings, done, .. }) => {
                let asked = snapshot.asked.iter();
                let told = findings.into_iter().zip(asked);
                told.map(|(finding, asked)| (finding, done_for(&asked.claim, &done)))
                    .collect()
            }
            Err(Failed { error, planned }) => {
                let planned = |at: usize| planned.as_ref().and_then(|planned| planned.get(at));
                let asked = snapshot.asked.iter().enumerate();
                asked
                    .map(|(at, Asked { claim, last, .. })| {
                        let last = last.as_ref();
                        (outcome::failed(&error, claim, last, planned(at), now), None)
                    })
                    .collect()
            }
        };
        let mut woken = HashSet::new();
        let mut table = self.table();
        let Table { pools, number, .. } = &mut *table;
        let Some(entry) = pools.get_mut(key) else {
            return;
        };
        for (asked, (mut finding, done)) in snapshot.asked.iter().zip(outcomes) {
            let claims = entry.claims.get_mut(&asked.who);
            let record = claims.and_then(|claims| claims.get_mut(&asked.claim.secret));
            let Some(record) = record.filter(|record| record.revision == asked.revision) else {
                continue;
            };
            let last = record.finding.as_ref();
            finding.event = match done {
                Some(reason) => {
                    *number += 1;
                    Some((*number, reason))
                }
                None => last.and_then(|last| last.event),
            };
            if last.is_none_or(|last| outcome::differs(last, &finding)) {
                woken.insert(asked.who.clone());
            }
            record.finding = Some(finding);
        }
        drop(table);
        for who in &woken {
            (self.wake)(who);
        }
    }
}

/// Waits until no claim has come for a while, so that those that come together share a look.
async fn settle(poke: &Notify) {
    let start = Instant::now();
    loop {
        sleep(SETTLE).await;
        // What was poked for until here is in what the look will read.
        let poked = poke.notified().now_or_never().is_some();
        if !poked || start.elapsed() >= SETTLE_AT_MOST {
            return;
        }
    }
}

/// Around 1, by at most a tenth, so that looks do not march in step.
fn jitter() -> f64 {
    rand::random_range(0.9..=1.1)
}

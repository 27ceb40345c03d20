//! The task of one pool.
//!
//! In: pokes and the passing of time. Out: looks, what they found, and wakes for the bindings that see a difference. It ends itself when nobody asks
//! anything of the pool any more, and never in the middle of a look.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::reconcile::{Asked, Door, Failed, Found, Memory, Snapshot, done_for};
use super::registry::{Key, Table};
use super::{Shared, failure};
use crate::inject::claim::{Finding, Phase};
use crate::prefect::PrefectError;
use crate::reason::Reason;
use crate::upstream::limiter::{Poke, Rank};
use crate::upstream::subscription::Push;

/// How long the first look waits for the link that tells of changes, so that it need not be made again once that is up.
const LINK_OPENS: Duration = Duration::from_secs(2);
/// Claims that come within this time of each other share a look.
pub(super) const SETTLE: Duration = Duration::from_millis(75);
/// A look waits no longer than this for further claims.
const SETTLE_AT_MOST: Duration = Duration::from_millis(500);
/// Nor than this, while bindings that were told to bring their Secret keep coming back with it: so that a pool is written once for all of them. Who
/// has not come back by then, such as a binding that is suspended or has no values, is not expected any more.
const PROMISES_AT_MOST: Duration = Duration::from_secs(20);
/// A binding that takes longer than this after the one before does not hold up the others.
const PROMISE: Duration = Duration::from_secs(1);
/// A pool is not looked at more often than this by itself.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

impl Shared {
    /// Looks at a pool until nobody asks anything of it. No look is broken off by that: a PATCH on its way would come after all.
    pub(super) async fn keep(&self, key: &Key, poke: Poke) {
        let hold = self.hold.as_ref();
        let link = hold.map(|hold| hold(&key.connection, poke.clone()));
        if let Some(link) = &link {
            link.opened(LINK_OPENS).await;
        }
        let mut memory = Memory::default();
        let mut failures = 0;
        let mut rank = Rank::First;
        loop {
            self.settle(key, &poke, rank != Rank::Poll).await;
            let Some(snapshot) = self.table().snapshot(key) else {
                return;
            };
            let pushed = link.as_ref().is_some_and(|link| link.push() == Push::Up);
            // Nobody tells of deployments: rare looks list them each time.
            memory.lists_each_time = pushed && self.pushed_interval > snapshot.interval;
            let result = self.look(key, rank, &snapshot, &mut memory).await;
            let now = Instant::now();
            let mut interval = snapshot.interval.max(SHORTEST_INTERVAL);
            if pushed {
                interval = interval.max(self.pushed_interval);
            }
            let (wait, pokes_wait) = match &result {
                Ok(found) => {
                    failures = 0;
                    let repair = found
                        .held_until
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
                        memory.forget();
                    }
                    let (wait, pokes_wait) = failure::wait_after(&failed.error, failures, interval);
                    // Not earlier than the server asked for.
                    (wait.mul_f64(jitter() + 0.1), pokes_wait)
                }
            };
            self.publish(key, &snapshot, result, now);
            drop(snapshot);
            let due = tokio::time::Instant::now() + wait;
            rank = Rank::Urgent;
            loop {
                tokio::select! {
                    () = sleep_until(due) => {
                        rank = Rank::Poll;
                        break;
                    }
                    () = poke.poked() => {
                        if !pokes_wait {
                            break;
                        }
                        if self.table().end_if_unasked(key) {
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
        rank: Rank,
        snapshot: &Snapshot,
        memory: &mut Memory,
    ) -> Result<Found, Failed> {
        let door = Door {
            client: self.clients.get(&key.connection)?,
            pool: &key.pool,
            rank,
            metrics: &self.metrics,
        };
        memory.look(&door, snapshot).await
    }

    /// Waits until no claim has come for a while, so that those that come together share a look. `came` is whether one has come already.
    async fn settle(&self, key: &Key, poke: &Poke, came: bool) {
        let start = Instant::now();
        let mut last = came.then_some(start);
        loop {
            sleep(SETTLE).await;
            // What was poked for until here is in what the look will read.
            let poked = poke.take();
            if poked {
                last = Some(Instant::now());
            }
            let promised = self.table().expects_claims(key, PROMISES_AT_MOST);
            let (at_most, is_quiet) = match last {
                Some(last) if promised => (PROMISES_AT_MOST, last.elapsed() >= PROMISE),
                _ => (SETTLE_AT_MOST, !poked),
            };
            if is_quiet || start.elapsed() >= at_most {
                return;
            }
        }
    }

    /// Notes what was found for the claims that still are what they were, and wakes whoever sees a difference.
    fn publish(&self, key: &Key, snapshot: &Snapshot, result: Result<Found, Failed>, now: Instant) {
        let was_read = result.is_ok();
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
                        (failure::failed(&error, claim, last, planned(at), now), None)
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
        if was_read {
            entry.read_at = Some(now);
        }
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
            if last.is_none_or(|last| failure::differs(last, &finding)) {
                woken.insert(asked.who.clone());
            }
            record.promised = match finding.phase {
                Phase::Wanted => record.promised.or(Some(now)),
                _ => None,
            };
            record.finding = Some(finding);
        }
        drop(table);
        for who in &woken {
            (self.wake)(who);
        }
    }
}

/// Around 1, by at most a tenth, so that looks do not march in step.
fn jitter() -> f64 {
    rand::random_range(0.9..=1.1)
}

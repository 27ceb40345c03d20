//! Who asks what of which pool, and what is known of it.
//!
//! In: claims as they come and go. Out: records, and pokes of the pools that they concern. It never waits and talks to nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reconcile::{Asked, Snapshot};
use super::{Who, failure};
use crate::crd::InjectMode;
use crate::inject::claim::{Claim, Finding, Want};
use crate::inject::pool_owner::{self, ManagedPool};
use crate::prefect::Connection;
use crate::upstream::limiter::Poke;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) connection: Arc<Connection>,
    pub(super) pool: String,
}

pub(super) struct Record {
    pub(super) claim: Claim,
    /// Tells this claim from those before it, so that what was found for those is not taken for its own.
    pub(super) revision: u64,
    pub(super) finding: Option<Finding>,
    /// Since when it has known that the entry could go in.
    pub(super) promised: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Entry {
    pub(super) claims: HashMap<Who, HashMap<String, Record>>,
    pub(super) version: u64,
    pub(super) poke: Poke,
    /// When the pool was last read.
    pub(super) read_at: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Table {
    pub(super) pools: HashMap<Key, Entry>,
    pub(super) managed: Vec<ManagedPool>,
    /// The last number given to a claim or an event.
    pub(super) number: u64,
}

impl Entry {
    pub(super) fn retain(&mut self, who: &Who, keep: impl Fn(&str) -> bool) {
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
        self.poke.nudge();
    }

    fn records(&self) -> impl Iterator<Item = (&Who, &Record)> {
        let claims = self.claims.iter();
        claims.flat_map(|(who, records)| records.values().map(move |record| (who, record)))
    }
}

impl Table {
    /// Ends the pool if nobody asks anything of it.
    pub(super) fn end_if_unasked(&mut self, key: &Key) -> bool {
        let entry = self.pools.get(key);
        let asked = entry.is_some_and(|entry| !entry.claims.is_empty());
        if !asked {
            self.pools.remove(key);
        }
        !asked
    }

    /// Whether there are claims that are about to ask for their entry, once their Secret is there, and have been for less than `time`.
    pub(super) fn expects_claims(&self, key: &Key, time: Duration) -> bool {
        let mut records = self.pools.get(key).into_iter().flat_map(Entry::records);
        records.any(|(_, record)| {
            record.claim.want == Want::Look
                && record.claim.mode == InjectMode::Patch
                && record.promised.is_some_and(|since| since.elapsed() < time)
        })
    }

    /// What is known of a claim.
    pub(super) fn record(&self, who: &Who, key: &Key, secret: &str) -> Option<&Record> {
        self.pools.get(key)?.claims.get(who)?.get(secret)
    }

    /// What is asked of the pool; nothing if the pool has ended.
    pub(super) fn snapshot(&mut self, key: &Key) -> Option<Snapshot> {
        if self.end_if_unasked(key) {
            return None;
        }
        let entry = self.pools.get(key)?;
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
            owner: pool_owner::owner(&self.managed, url, &key.pool).cloned(),
            version: entry.version,
            asked,
            interval,
        })
    }

    /// Takes in a claim that is new or changed. Gives what is known of it, and what pokes the pool if its task is to be started.
    pub(super) fn replace(
        &mut self,
        who: &Who,
        key: &Key,
        mut claim: Claim,
    ) -> (Option<Finding>, Option<Poke>) {
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
            started = Some(entry.poke.clone());
            entry
        });
        let claims = entry.claims.entry(who.clone()).or_default();
        let last = claims.remove(&secret).or(moved);
        let mut finding = None;
        let mut promised = None;
        let mut asks_otherwise = true;
        if let Some(last) = last {
            promised = last.promised;
            claim.known = last.claim.known;
            asks_otherwise = last.claim.want != claim.want
                || last.claim.noted != claim.noted
                || last.claim.mode != claim.mode
                || last.claim.optional != claim.optional
                || last.claim.namespace != claim.namespace;
            finding = match last.finding {
                Some(finding) if asks_otherwise => Some(failure::restated(&claim, &finding)),
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
            promised,
        };
        claims.insert(secret, record);
        entry.poke.nudge();
        (finding, started)
    }
}

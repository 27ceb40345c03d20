//! The claims on each pool, and the last observation for each.
//!
//! Input: claims as bindings declare and drop them, and the outcomes of reconciles.
//! Output: records, snapshots, triggers of the affected pools, and the bindings to enqueue.
//! Invariants: never waits and sends nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure;
use super::outcome::PoolOutcome;
use super::snapshot::{ClaimSnapshot, PoolSnapshot};
use crate::crd::{BindingRef, InjectMode};
use crate::inject::claim::{Claim, Observation, Phase, Want};
use crate::inject::pool_owner::{self, ManagedPool};
use crate::inject::template::EntryKey;
use crate::prefect::Connection;
use crate::prefect::connection::same_api;
use crate::upstream::subscription::Tenant;
use crate::upstream::trigger::Trigger;

/// A pool of a server, with the credentials for it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    pub(super) connection: Arc<Connection>,
    pub(super) pool: String,
}

pub(super) struct ClaimRecord {
    pub(super) claim: Claim,
    /// Distinguishes this claim from earlier ones, whose observations are not its own.
    pub(super) revision: u64,
    pub(super) observation: Option<Observation>,
    /// Since when the binding has known that the pool can take the entry.
    pub(super) injectable_since: Option<Instant>,
}

#[derive(Default)]
pub(super) struct PoolEntry {
    /// By binding and by entry.
    pub(super) claims: HashMap<BindingRef, HashMap<EntryKey, ClaimRecord>>,
    pub(super) version: u64,
    pub(super) trigger: Trigger,
    /// When the pool was last read.
    pub(super) read_at: Option<Instant>,
    /// When the pool should have been read again, once a reconcile has ended.
    pub(super) due_at: Option<Instant>,
    /// When the server last said what the pool is, or that it does not exist.
    pub(super) seen_at: Option<Instant>,
    /// The bindings that the next answer enqueues.
    pub(super) awaiting_answer: HashSet<BindingRef>,
}

#[derive(Default)]
pub(super) struct Registry {
    pub(super) pools: HashMap<PoolKey, PoolEntry>,
    pub(super) managed: Vec<ManagedPool>,
    /// The last number given to a claim or an event.
    last_number: u64,
}

impl PoolEntry {
    /// Drops the claims of `key` for which `keep` is false.
    pub(super) fn retain(&mut self, key: &BindingRef, keep: impl Fn(&EntryKey) -> bool) {
        let Some(claims) = self.claims.get_mut(key) else {
            return;
        };
        let before = claims.len();
        claims.retain(|entry, _| keep(entry));
        if claims.len() == before {
            return;
        }
        self.claims_changed(key);
    }

    /// Follows the removal of a claim of `key`.
    fn claims_changed(&mut self, key: &BindingRef) {
        if self.claims.get(key).is_some_and(HashMap::is_empty) {
            self.claims.remove(key);
        }
        self.version += 1;
        self.trigger.request_read();
    }

    fn records(&self) -> impl Iterator<Item = (&BindingRef, &ClaimRecord)> {
        let claims = self.claims.iter();
        claims.flat_map(|(key, records)| records.values().map(move |record| (key, record)))
    }
}

impl Registry {
    /// Removes the pool if it has no claims.
    pub(super) fn remove_if_unclaimed(&mut self, pool_key: &PoolKey) -> bool {
        let entry = self.pools.get(pool_key);
        let claimed = entry.is_some_and(|entry| !entry.claims.is_empty());
        if !claimed {
            self.pools.remove(pool_key);
        }
        !claimed
    }

    /// The tenant of one of the claims; `None` if the pool has been removed.
    pub(super) fn tenant(&mut self, pool_key: &PoolKey) -> Option<Tenant> {
        if self.remove_if_unclaimed(pool_key) {
            return None;
        }
        let binding = self.pools.get(pool_key)?.claims.keys().next()?;
        Some(binding.namespace().into())
    }

    /// Whether a binding that has known for less than `time` that the pool can take its entry is
    /// expected to claim it, once its Secret exists.
    pub(super) fn expects_claims(&self, pool_key: &PoolKey, time: Duration) -> bool {
        let entry = self.pools.get(pool_key).into_iter();
        entry.flat_map(PoolEntry::records).any(|(_, record)| {
            record.claim.want == Want::Observe
                && record.claim.mode == InjectMode::Patch
                && record
                    .injectable_since
                    .is_some_and(|since| since.elapsed() < time)
        })
    }

    /// Whether the server answered for the pool since `at`. If not, the next answer enqueues the
    /// binding.
    pub(super) fn is_seen_since(
        &mut self,
        key: &BindingRef,
        pool_key: &PoolKey,
        at: Instant,
    ) -> bool {
        let Some(entry) = self.pools.get_mut(pool_key) else {
            return true;
        };
        let is_seen = entry.seen_at.is_some_and(|seen_at| seen_at >= at);
        if !is_seen && entry.awaiting_answer.insert(key.clone()) {
            entry.trigger.request_read();
        }
        is_seen
    }

    /// The record of a claim.
    pub(super) fn record(
        &self,
        key: &BindingRef,
        pool_key: &PoolKey,
        entry: &EntryKey,
    ) -> Option<&ClaimRecord> {
        self.pools.get(pool_key)?.claims.get(key)?.get(entry)
    }

    /// The claims on the pool; `None` if it has been removed.
    pub(super) fn snapshot(&mut self, pool_key: &PoolKey) -> Option<PoolSnapshot> {
        if self.remove_if_unclaimed(pool_key) {
            return None;
        }
        let entry = self.pools.get(pool_key)?;
        let claims: Vec<_> = entry
            .records()
            .map(|(key, record)| ClaimSnapshot {
                key: key.clone(),
                revision: record.revision,
                claim: record.claim.clone(),
                last_observation: record.observation.clone(),
            })
            .collect();
        let interval = claims.iter().map(|item| item.claim.interval).min()?;
        let url = &pool_key.connection.api_url;
        let elsewhere = self.pools.iter().filter(|(other, _)| {
            *other != pool_key
                && other.pool == pool_key.pool
                && same_api(&other.connection.api_url, url)
        });
        let elsewhere = elsewhere
            .flat_map(|(_, entry)| entry.records())
            .map(|(_, record)| record.claim.clone())
            .collect();
        Some(PoolSnapshot {
            owner: pool_owner::owner_of(&self.managed, url, &pool_key.pool).cloned(),
            version: entry.version,
            claims,
            elsewhere,
            interval,
        })
    }

    /// Stores a new or changed claim.
    ///
    /// Returns its observation, and the trigger of the pool if its worker has to be started.
    pub(super) fn replace(
        &mut self,
        key: &BindingRef,
        pool_key: &PoolKey,
        claim: Claim,
    ) -> (Option<Observation>, Option<Trigger>) {
        self.last_number += 1;
        let revision = self.last_number;
        let entry_key = claim.key();
        let moved = self.take_from_other_credentials(key, pool_key, &entry_key);
        let mut started = None;
        let entry = self.pools.entry(pool_key.clone()).or_insert_with(|| {
            let entry = PoolEntry::default();
            started = Some(entry.trigger.clone());
            entry
        });
        let claims = entry.claims.entry(key.clone()).or_default();
        let last = claims.remove(&entry_key).or(moved);
        let mut observation = None;
        let mut injectable_since = None;
        let mut changed = true;
        if let Some(last) = last {
            injectable_since = last.injectable_since;
            changed = last.claim.want != claim.want
                || last.claim.recorded != claim.recorded
                || last.claim.mode != claim.mode
                || last.claim.optional != claim.optional
                || last.claim.mount != claim.mount
                || last.claim.used_name != claim.used_name
                || last.claim.namespace != claim.namespace;
            observation = match last.observation {
                Some(last) if changed => Some(failure::observe_changed_claim(&claim, &last)),
                last => last,
            };
        }
        if changed {
            entry.version += 1;
        }
        let record = ClaimRecord {
            claim,
            revision,
            observation: observation.clone(),
            injectable_since,
        };
        claims.insert(entry_key, record);
        entry.trigger.request_read();
        (observation, started)
    }

    /// Takes the record of the same claim under other credentials, after a key was rotated.
    fn take_from_other_credentials(
        &mut self,
        key: &BindingRef,
        pool_key: &PoolKey,
        entry_key: &EntryKey,
    ) -> Option<ClaimRecord> {
        self.pools
            .iter_mut()
            .filter(|(other, _)| {
                other.pool == pool_key.pool
                    && other.connection.api_url == pool_key.connection.api_url
                    && *other != pool_key
            })
            .find_map(|(_, entry)| {
                let record = entry.claims.get_mut(key)?.remove(entry_key)?;
                entry.claims_changed(key);
                Some(record)
            })
    }

    /// Stores the observations of the claims that have not changed since the snapshot.
    ///
    /// Returns the bindings whose observation visibly differs from the last.
    pub(super) fn publish(
        &mut self,
        pool_key: &PoolKey,
        snapshot: &PoolSnapshot,
        outcome: PoolOutcome,
    ) -> HashSet<BindingRef> {
        let mut affected = HashSet::new();
        let Some(entry) = self.pools.get_mut(pool_key) else {
            return affected;
        };
        if outcome.read_at.is_some() {
            entry.read_at = outcome.read_at;
        }
        let due_at = outcome.at + outcome.interval;
        if outcome.read_at.is_some() || outcome.is_missing {
            entry.due_at = Some(due_at);
        } else {
            entry.due_at.get_or_insert(due_at);
        }
        if let Some(at) = outcome.read_at.or(outcome.is_missing.then_some(outcome.at)) {
            entry.seen_at = Some(at);
            affected.extend(entry.awaiting_answer.drain());
        }
        for (item, (mut observation, action)) in snapshot.claims.iter().zip(outcome.claims) {
            let claims = entry.claims.get_mut(&item.key);
            let record = claims.and_then(|claims| claims.get_mut(&item.claim.key()));
            let Some(record) = record.filter(|record| record.revision == item.revision) else {
                continue;
            };
            let last = record.observation.as_ref();
            observation.event = match action {
                Some(reason) => {
                    self.last_number += 1;
                    Some((self.last_number, reason))
                }
                None => last.and_then(|last| last.event),
            };
            if last.is_none_or(|last| failure::visibly_differs(last, &observation)) {
                affected.insert(item.key.clone());
            }
            record.injectable_since = match observation.phase {
                Phase::Injectable => record.injectable_since.or(Some(outcome.at)),
                _ => None,
            };
            record.observation = Some(observation);
        }
        affected
    }
}

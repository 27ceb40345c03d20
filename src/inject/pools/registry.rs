//! Who asks what of which pool, and what is known of it.
//!
//! In: claims as they come and go. Out: records, and pokes of the pools that they concern. It never waits and talks to nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reconcile::{ClaimSnapshot, PoolSnapshot};
use super::{BindingRef, failure};
use crate::crd::InjectMode;
use crate::inject::claim::{Claim, Observation, Want};
use crate::inject::pool_owner::{self, ManagedPool};
use crate::prefect::Connection;
use crate::upstream::limiter::Trigger;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    pub(super) connection: Arc<Connection>,
    pub(super) pool: String,
}

pub(super) struct ClaimRecord {
    pub(super) claim: Claim,
    /// Tells this claim from those before it, so that what was found for those is not taken for its own.
    pub(super) revision: u64,
    pub(super) observation: Option<Observation>,
    /// Since when it has known that the entry could go in.
    pub(super) injectable_since: Option<Instant>,
}

#[derive(Default)]
pub(super) struct PoolEntry {
    pub(super) claims: HashMap<BindingRef, HashMap<String, ClaimRecord>>,
    pub(super) version: u64,
    pub(super) trigger: Trigger,
    /// When the pool was last read.
    pub(super) read_at: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Registry {
    pub(super) pools: HashMap<PoolKey, PoolEntry>,
    pub(super) managed: Vec<ManagedPool>,
    /// The last number given to a claim or an event.
    pub(super) last_number: u64,
}

impl PoolEntry {
    pub(super) fn retain(&mut self, key: &BindingRef, keep: impl Fn(&str) -> bool) {
        let Some(claims) = self.claims.get_mut(key) else {
            return;
        };
        let before = claims.len();
        claims.retain(|secret, _| keep(secret));
        if claims.len() == before {
            return;
        }
        self.claims_changed(key);
    }

    /// A claim of `key` has gone.
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
    /// Ends the pool if nobody asks anything of it.
    pub(super) fn remove_if_unclaimed(&mut self, pool_key: &PoolKey) -> bool {
        let entry = self.pools.get(pool_key);
        let claimed = entry.is_some_and(|entry| !entry.claims.is_empty());
        if !claimed {
            self.pools.remove(pool_key);
        }
        !claimed
    }

    /// Whether there are claims that are about to ask for their entry, once their Secret is there, and have been for less than `time`.
    pub(super) fn expects_claims(&self, pool_key: &PoolKey, time: Duration) -> bool {
        let mut records = self
            .pools
            .get(pool_key)
            .into_iter()
            .flat_map(PoolEntry::records);
        records.any(|(_, record)| {
            record.claim.want == Want::Observe
                && record.claim.mode == InjectMode::Patch
                && record
                    .injectable_since
                    .is_some_and(|since| since.elapsed() < time)
        })
    }

    /// What is known of a claim.
    pub(super) fn record(
        &self,
        key: &BindingRef,
        pool_key: &PoolKey,
        secret: &str,
    ) -> Option<&ClaimRecord> {
        self.pools.get(pool_key)?.claims.get(key)?.get(secret)
    }

    /// What is asked of the pool; nothing if the pool has ended.
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
        Some(PoolSnapshot {
            owner: pool_owner::owner_of(&self.managed, url, &pool_key.pool).cloned(),
            version: entry.version,
            claims,
            interval,
        })
    }

    /// Takes in a claim that is new or changed. Gives what is known of it, and what pokes the pool if its task is to be started.
    pub(super) fn replace(
        &mut self,
        key: &BindingRef,
        pool_key: &PoolKey,
        mut claim: Claim,
    ) -> (Option<Observation>, Option<Trigger>) {
        self.last_number += 1;
        let revision = self.last_number;
        let secret = claim.secret.clone();
        // The same pool with other credentials (a rotated key): what was known moves along.
        let moved = self
            .pools
            .iter_mut()
            .filter(|(other, _)| {
                other.pool == pool_key.pool
                    && other.connection.api_url == pool_key.connection.api_url
                    && *other != pool_key
            })
            .find_map(|(_, entry)| {
                let record = entry.claims.get_mut(key)?.remove(&secret)?;
                entry.claims_changed(key);
                Some(record)
            });
        let mut started = None;
        let entry = self.pools.entry(pool_key.clone()).or_insert_with(|| {
            let entry = PoolEntry::default();
            started = Some(entry.trigger.clone());
            entry
        });
        let claims = entry.claims.entry(key.clone()).or_default();
        let last = claims.remove(&secret).or(moved);
        let mut observation = None;
        let mut injectable_since = None;
        let mut changed = true;
        if let Some(last) = last {
            injectable_since = last.injectable_since;
            claim.reported_state = last.claim.reported_state;
            changed = last.claim.want != claim.want
                || last.claim.recorded != claim.recorded
                || last.claim.mode != claim.mode
                || last.claim.optional != claim.optional
                || last.claim.namespace != claim.namespace;
            observation = match last.observation {
                Some(observation) if changed => {
                    Some(failure::changed_claim_observation(&claim, &observation))
                }
                observation => observation,
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
        claims.insert(secret, record);
        entry.trigger.request_read();
        (observation, started)
    }
}

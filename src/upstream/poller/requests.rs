//! Requests for reads before the next poll.
//!
//! Input: reported changes, demands of a current value, and upstreams that answer again.
//! Output: triggers of the pollers that they concern.
//! Invariants: it reads nothing itself. The pollers bound how often they read.

use std::hash::Hash;

use tokio::time::Instant;

use super::{Pollers, active::Active};

impl<S, K, V> Pollers<S, K, V>
where
    S: Clone + Eq + Hash + Send + Sync + 'static,
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Reads again now the keys that `is_affected` selects by key and last good value, because a
    /// change was reported at `at`. True if there is one.
    #[allow(clippy::must_use_candidate)] // the keys are read again whether or not the caller looks at the answer
    pub fn refresh(&self, at: Instant, is_affected: impl Fn(&K, Option<&V>) -> bool) -> bool {
        let mut any = false;
        for (key, polled) in &self.0.active.lock().by_key {
            if is_affected(key, polled.state.value.as_deref()) {
                polled.trigger.notify(at);
                any = true;
            }
        }
        any
    }

    /// Reads again the keys of these subscribers, at most once a second. A subscriber is not enqueued
    /// unless the value or the failure changes. Returns how many of them have a key.
    pub fn demand<'a>(&self, subscribers: impl IntoIterator<Item = &'a S>) -> usize
    where
        S: 'a,
    {
        let active = self.0.active.lock();
        let keys: Vec<_> = subscribers
            .into_iter()
            .filter_map(|subscriber| active.keys_of.get(subscriber))
            .collect();
        for key in keys.iter().copied().flatten() {
            if let Some(polled) = active.by_key.get(key) {
                polled.trigger.demand();
            }
        }
        keys.len()
    }

    /// Like [`Self::demand`], for the keys of one subscriber that `is_affected` selects. True if there
    /// is one.
    #[allow(clippy::must_use_candidate)] // the keys are read again whether or not the caller looks at the answer
    pub fn demand_keys(&self, subscriber: &S, is_affected: impl Fn(&K) -> bool) -> bool {
        let active = self.0.active.lock();
        let keys = active.keys_of.get(subscriber);
        let mut any = false;
        for key in keys.into_iter().flatten().filter(|key| is_affected(key)) {
            if let Some(polled) = active.by_key.get(key) {
                polled.trigger.demand();
                any = true;
            }
        }
        any
    }

    /// Reads again the keys of this subscriber, at most once a second, and enqueues the subscriber once
    /// a value is at least as current as `since`, even if it is unchanged.
    pub fn demand_since(&self, subscriber: &S, since: Instant) {
        let mut active = self.0.active.lock();
        let Active { by_key, keys_of } = &mut *active;
        for key in keys_of.get(subscriber).into_iter().flatten() {
            if let Some(polled) = by_key.get_mut(key) {
                polled.waiting.add(subscriber.clone(), since);
                polled.trigger.demand();
            }
        }
    }

    /// Reads again now the keys that `is_affected` selects and whose last read failed.
    pub fn retry_failed(&self, is_affected: impl Fn(&K) -> bool) {
        for (key, polled) in &self.0.active.lock().by_key {
            if polled.state.failure.is_some() && is_affected(key) {
                polled.trigger.request_read();
            }
        }
    }
}

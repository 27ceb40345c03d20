//! The keys that are polled, and who subscribes to them.
//!
//! Input: subscriptions as they begin and end.
//! Output: the key of each subscriber, and the state and the subscribers of each key.
//! Invariants: it never waits and reads nothing. A subscriber has one key. A key without subscribers
//! is stopped and dropped.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{demand::Waiting, state::PollState};
use crate::upstream::trigger::Trigger;

/// One key that is polled.
pub(super) struct Polled<S, V> {
    pub(super) state: PollState<V>,
    /// The subscribers and the intervals that they ask for.
    pub(super) subscribers: HashMap<S, Duration>,
    /// The subscribers that wait for a current value.
    pub(super) waiting: Waiting<S>,
    pub(super) trigger: Trigger,
    pub(super) stop: CancellationToken,
}

impl<S, V> Polled<S, V> {
    /// The shortest interval that a subscriber asks for.
    pub(super) fn interval(&self) -> Duration {
        self.subscribers.values().min().copied().unwrap_or_default()
    }
}

/// All keys that are polled.
pub(super) struct Active<S, K, V> {
    pub(super) by_key: HashMap<Arc<K>, Polled<S, V>>,
    /// The key of each subscriber. Keys are shared, because thousands of subscribers may have the
    /// same one.
    pub(super) key_of: HashMap<S, Arc<K>>,
}

impl<S: Clone + Eq + Hash, K: Clone + Eq + Hash, V> Active<S, K, V> {
    /// Makes `key` the only key of a subscriber. Returns it as all subscribers share it.
    pub(super) fn assign(&mut self, subscriber: &S, key: &K) -> Arc<K> {
        if let Some(last) = self.key_of.get(subscriber) {
            if **last == *key {
                return Arc::clone(last);
            }
            self.unsubscribe(subscriber);
        }
        let shared = match self.by_key.get_key_value(key) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::new(key.clone()),
        };
        self.key_of.insert(subscriber.clone(), Arc::clone(&shared));
        shared
    }

    pub(super) fn unsubscribe(&mut self, subscriber: &S) {
        let Some(key) = self.key_of.remove(subscriber) else {
            return;
        };
        let Some(polled) = self.by_key.get_mut(&key) else {
            return;
        };
        polled.subscribers.remove(subscriber);
        polled.waiting.remove(subscriber);
        if polled.subscribers.is_empty() {
            polled.stop.cancel();
            self.by_key.remove(&key);
        }
    }
}

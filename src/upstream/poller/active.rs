//! The keys that are polled, and who subscribes to them.
//!
//! Input: subscriptions as they begin and end.
//! Output: the keys of each subscriber, and the state and the subscribers of each key.
//! Invariants: it never waits and reads nothing. A key without subscribers is stopped and dropped. One
//! that a subscriber keeps stays as it is.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use tokio::time::Instant;
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
    /// When the next read should have succeeded, once one has ended.
    pub(super) due_at: Option<Instant>,
    pub(super) stop: CancellationToken,
}

impl<S, V> Polled<S, V> {
    /// The shortest interval that a subscriber asks for.
    pub(super) fn interval(&self) -> Duration {
        self.subscribers.values().min().copied().unwrap_or_default()
    }

    /// Records a read that ended: the next one is due after the interval, and after a failure it stays
    /// due.
    pub(super) fn set_due(&mut self, now: Instant, interval: Duration) {
        let due_at = now + interval;
        if self.state.failure.is_none() {
            self.due_at = Some(due_at);
        } else {
            self.due_at.get_or_insert(due_at);
        }
    }
}

/// All keys that are polled.
pub(super) struct Active<S, K, V> {
    pub(super) by_key: HashMap<Arc<K>, Polled<S, V>>,
    /// The keys of each subscriber, each once. Keys are shared, because thousands of subscribers may
    /// have the same one.
    pub(super) keys_of: HashMap<S, Box<[Arc<K>]>>,
}

impl<S: Clone + Eq + Hash, K: Clone + Eq + Hash, V> Active<S, K, V> {
    /// Makes `keys` the only keys of a subscriber. Returns them as all subscribers share them, in the
    /// same order.
    pub(super) fn assign(&mut self, subscriber: &S, keys: &[K]) -> Vec<Arc<K>> {
        let mut shared: Vec<Arc<K>> = Vec::with_capacity(keys.len());
        for key in keys {
            let earlier = shared.iter().find(|earlier| ***earlier == *key);
            let known = earlier.or_else(|| self.by_key.get_key_value(key).map(|(known, _)| known));
            shared.push(known.map_or_else(|| Arc::new(key.clone()), Arc::clone));
        }
        let last = self.keys_of.get(subscriber);
        if last.is_some_and(|last| **last == *shared) {
            return shared;
        }
        let mut distinct: Vec<Arc<K>> = Vec::with_capacity(shared.len());
        for key in &shared {
            if !distinct.contains(key) {
                distinct.push(Arc::clone(key));
            }
        }
        let last = self.keys_of.insert(subscriber.clone(), distinct.into());
        for key in last.iter().flatten().filter(|key| !shared.contains(key)) {
            self.leave(subscriber, key);
        }
        shared
    }

    pub(super) fn unsubscribe(&mut self, subscriber: &S) {
        let last = self.keys_of.remove(subscriber);
        for key in last.iter().flatten() {
            self.leave(subscriber, key);
        }
    }

    /// When the stalest value of a subscriber was read. None if one of its keys never was, or it has no
    /// keys.
    pub(super) fn oldest_read(&self, subscriber: &S) -> Option<Instant> {
        let keys = self.keys_of.get(subscriber)?.iter();
        let read_at = keys.map(|key| self.by_key.get(key)?.state.read_at);
        read_at.collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    fn leave(&mut self, subscriber: &S, key: &K) {
        let Some(polled) = self.by_key.get_mut(key) else {
            return;
        };
        polled.subscribers.remove(subscriber);
        polled.waiting.remove(subscriber);
        if polled.subscribers.is_empty() {
            polled.stop.cancel();
            self.by_key.remove(key);
        }
    }
}

//! Which subscribers demanded a current value, and how often demands cause a read.
//!
//! Input: demands with their time, and when requests were sent.
//! Output: the subscribers whose demand a request answers, and how often demands cause one.
//! Invariants: pure. It reads no clock. A demand is answered by a request that was sent after it. The
//! last demand is never dropped.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

use crate::upstream::pace::PaceLimit;

/// How often demands cause a read: one a second, and one more after a pause, so that a run that starts
/// soon after another one does not wait. A caller that only wants a current value is no sign of a
/// change.
pub(super) const DEMANDED_READS: PaceLimit = PaceLimit {
    burst: 2,
    period: Duration::from_secs(1),
};

/// The subscribers that wait for a current value, and since when.
#[derive(Debug)]
pub(super) struct Waiting<S>(HashMap<S, Instant>);

impl<S> Default for Waiting<S> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<S: Eq + Hash> Waiting<S> {
    /// A subscriber wants a value that is at least as current as `since`.
    pub(super) fn add(&mut self, subscriber: S, since: Instant) {
        self.0.insert(subscriber, since);
    }

    /// Takes out the subscribers whose demand a request answers that was sent at `sent_at`.
    pub(super) fn take_answered(&mut self, sent_at: Instant) -> Vec<S> {
        let answered = self.0.extract_if(|_, since| *since <= sent_at);
        answered.map(|(subscriber, _)| subscriber).collect()
    }

    /// Drops the demand of a subscriber.
    pub(super) fn remove(&mut self, subscriber: &S) {
        self.0.remove(subscriber);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_answers_the_demands_before_it() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let second = Duration::from_secs(1);
        waiting.add("a", start);
        waiting.add("b", start + second);
        waiting.add("c", start + second * 2);
        waiting.remove(&"b");
        assert_eq!(waiting.take_answered(start + second), ["a"]);
        assert!(waiting.take_answered(start + second).is_empty());
        waiting.add("c", start + second * 3);
        assert!(
            waiting.take_answered(start + second * 2).is_empty(),
            "it wants a newer one"
        );
        assert_eq!(waiting.take_answered(start + second * 3), ["c"]);
    }
}

//! The work queue: keys of bindings that wait for a reconcile.
//!
//! Input: keys, from watches, pollers and pool workers, and requeues from [`super::run`].
//! Output: one key at a time. Namespaces take turns ([`ready_keys`]); within a namespace, keys come in
//! the order in which they were added.
//! Invariants: A key is in the queue at most once, and at most one reconcile of it runs at a time.
//! A key that is added during its reconcile is queued again as soon as that reconcile is done.
//! A delay ends when the key is handed out, since the reconcile decides on the next delay.

mod ready_keys;

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::crd::BindingRef;
use ready_keys::ReadyKeys;

/// Keys of bindings that wait for a reconcile, as in the work queue of client-go. It has one consumer.
#[derive(Debug, Default)]
pub struct WorkQueue(Mutex<QueueState>);

#[derive(Debug, Default)]
struct QueueState {
    /// Keys that may be handed out.
    ready: ReadyKeys,
    /// Keys that need a reconcile: those in `ready`, and those added during their reconcile.
    dirty: HashSet<BindingRef>,
    /// Keys whose reconcile runs.
    processing: HashSet<BindingRef>,
    /// Keys that become dirty later.
    delays: DelayQueue<BindingRef>,
    delayed: HashMap<BindingRef, delay_queue::Key>,
    consumer: Option<Waker>,
}

impl WorkQueue {
    /// Enqueues `key`, unless it is in the queue already.
    pub fn add(&self, key: &BindingRef) {
        self.0.lock().add(key.clone());
    }

    /// Waits for the next key. The caller reconciles it and then calls [`Self::done`].
    pub async fn get(&self) -> BindingRef {
        poll_fn(|context| self.0.lock().poll_get(context)).await
    }

    /// The reconcile of `key` is done, and asks for another one after `requeue_after`.
    pub fn done(&self, key: &BindingRef, requeue_after: Option<Duration>) {
        self.0.lock().done(key, requeue_after);
    }

    /// How many keys wait to be handed out. Delayed keys do not count.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.lock().ready.len()
    }
}

impl QueueState {
    fn add(&mut self, key: BindingRef) {
        if self.dirty.insert(key.clone()) && !self.processing.contains(&key) {
            self.make_ready(key);
        }
    }

    fn make_ready(&mut self, key: BindingRef) {
        self.ready.push(key);
        self.wake_consumer();
    }

    fn wake_consumer(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            consumer.wake();
        }
    }

    fn poll_get(&mut self, context: &mut Context<'_>) -> Poll<BindingRef> {
        // Before the queue itself, so that a long queue does not postpone delayed keys.
        while let Poll::Ready(Some(expired)) = self.delays.poll_expired(context) {
            let key = expired.into_inner();
            self.delayed.remove(&key);
            self.add(key);
        }
        let Some(key) = self.ready.pop() else {
            self.consumer = Some(context.waker().clone());
            return Poll::Pending;
        };
        self.dirty.remove(&key);
        if let Some(delay) = self.delayed.remove(&key) {
            self.delays.remove(&delay);
        }
        self.processing.insert(key.clone());
        if self.ready.is_empty() {
            // After a burst, its memory is given back.
            self.dirty.shrink_to_fit();
        }
        Poll::Ready(key)
    }

    fn done(&mut self, key: &BindingRef, requeue_after: Option<Duration>) {
        self.processing.remove(key);
        if self.dirty.contains(key) {
            self.make_ready(key.clone());
        } else if let Some(delay) = requeue_after {
            let delay = self.delays.insert(key.clone(), delay);
            self.delayed.insert(key.clone(), delay);
            self.wake_consumer();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::{Instant, advance};

    use super::*;

    const DELAY: Duration = Duration::from_secs(10);

    fn key(name: &str) -> BindingRef {
        BindingRef::new("flows", name)
    }

    fn queue(names: &[&str]) -> WorkQueue {
        let queue = WorkQueue::default();
        for name in names {
            queue.add(&key(name));
        }
        queue
    }

    fn next(queue: &WorkQueue) -> Option<BindingRef> {
        queue.get().now_or_never()
    }

    #[tokio::test]
    async fn queues_a_key_once_and_keeps_its_place() {
        let queue = queue(&["a", "b", "a", "c", "a"]);
        assert_eq!(queue.depth(), 3);
        for name in ["a", "b", "c"] {
            assert_eq!(next(&queue), Some(key(name)));
        }
        assert_eq!(next(&queue), None);
    }

    #[tokio::test]
    async fn a_long_queue_of_one_namespace_delays_no_other() {
        let queue = WorkQueue::default();
        for number in 0..10_000 {
            queue.add(&BindingRef::new("many", &format!("b{number}")));
        }
        assert_eq!(
            next(&queue).as_ref().map(BindingRef::namespace),
            Some("many")
        );
        queue.add(&key("late"));
        let waited = (0..10_000).find(|_| next(&queue) == Some(key("late")));
        assert!(waited < Some(2), "{waited:?} reconciles of the other");
        assert_eq!(queue.depth(), 10_000 - 1 - waited.unwrap_or_default());
    }

    #[tokio::test]
    async fn queues_a_key_again_once_its_reconcile_is_done() {
        let queue = queue(&["a"]);
        assert_eq!(next(&queue), Some(key("a")));
        queue.add(&key("a"));
        queue.add(&key("a"));
        assert_eq!(next(&queue), None, "its reconcile runs");
        queue.done(&key("a"), Some(DELAY));
        assert_eq!(next(&queue), Some(key("a")), "at once, not after the delay");
        queue.done(&key("a"), None);
        assert_eq!(next(&queue), None);
    }

    #[tokio::test]
    async fn wakes_the_consumer_when_a_key_is_added() {
        let queue = std::sync::Arc::new(WorkQueue::default());
        let consumer = tokio::spawn({
            let queue = std::sync::Arc::clone(&queue);
            async move { queue.get().await }
        });
        tokio::task::yield_now().await;
        queue.add(&key("a"));
        assert_eq!(consumer.await.unwrap(), key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn hands_out_a_requeued_key_after_its_delay() {
        let queue = queue(&["a"]);
        let start = Instant::now();
        assert_eq!(queue.get().await, key("a"));
        queue.done(&key("a"), Some(DELAY));
        assert_eq!(queue.depth(), 0);
        assert_eq!(queue.get().await, key("a"));
        assert!(start.elapsed() >= DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn drops_the_delay_of_a_key_that_is_added_earlier() {
        let queue = queue(&["a"]);
        queue.get().await;
        queue.done(&key("a"), Some(DELAY));
        queue.add(&key("a"));
        assert_eq!(next(&queue), Some(key("a")));
        queue.done(&key("a"), None);
        advance(DELAY * 2).await;
        assert_eq!(
            next(&queue),
            None,
            "the reconcile decided on the delay anew"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_queue_does_not_postpone_delayed_keys() {
        let queue = queue(&["delayed"]);
        queue.get().await;
        queue.done(&key("delayed"), Some(DELAY));
        for name in ["a", "b", "c"] {
            queue.add(&key(name));
        }
        advance(DELAY * 2).await;
        assert_eq!(next(&queue), Some(key("a")));
        assert_eq!(queue.depth(), 3, "the delayed key is behind the other two");
    }
}

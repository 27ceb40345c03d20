//! What wakes a binding, and the queue in which it waits for its reconcile.
//!
//! In: names of bindings, from sources, pools and watches. Out: one [`WorkQueue`] for each watched scope, from which the controller of that scope takes. A
//! binding stands in a queue once, however often it is woken. The controller is handed a few at a time: what its scheduler keeps of one weighs a
//! kilobyte, and here it is a pointer.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

pub use crate::crd::BindingRef;

/// Where bindings are watched: everywhere, or in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// In all namespaces.
    All,
    /// In this one.
    Namespace(String),
}

impl Scope {
    /// The scopes that the flag `--watch-namespace` asks for.
    #[must_use]
    pub fn of(namespaces: &[String]) -> Vec<Self> {
        if namespaces.is_empty() {
            return vec![Self::All];
        }
        let distinct: std::collections::BTreeSet<_> = namespaces.iter().cloned().collect();
        distinct.into_iter().map(Self::Namespace).collect()
    }
}

/// The way of a wake to the controller of its scope.
#[derive(Clone, Debug)]
pub struct WorkQueues(Arc<HashMap<Scope, Arc<WorkQueue>>>);

impl WorkQueues {
    /// A queue for each scope, of which `most` are handed out at a time.
    #[must_use]
    pub fn new(scopes: &[Scope], most: usize) -> Self {
        let queue = |scope: &Scope| (scope.clone(), Arc::new(WorkQueue::new(most)));
        Self(Arc::new(scopes.iter().map(queue).collect()))
    }

    /// Has `binding` reconciled soon.
    pub fn add(&self, binding: &BindingRef) {
        if let Some(queue) = self.queue(binding) {
            queue.add(binding);
        }
    }

    /// A reconcile of `binding` begins, or there is none to be had: whatever wakes it from now on wakes it again.
    pub fn done(&self, binding: &BindingRef) {
        if let Some(queue) = self.queue(binding) {
            queue.done(binding);
        }
    }

    /// The queue of a scope.
    #[must_use]
    pub fn of(&self, scope: &Scope) -> Option<Arc<WorkQueue>> {
        self.0.get(scope).cloned()
    }

    /// How many bindings wait, in all scopes.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.values().map(|queue| queue.depth()).sum()
    }

    fn queue(&self, binding: &BindingRef) -> Option<&Arc<WorkQueue>> {
        let own = Scope::Namespace(binding.namespace().to_owned());
        self.0.get(&own).or_else(|| self.0.get(&Scope::All))
    }
}

/// Bindings that wait for their reconcile, in the order in which they were woken.
#[derive(Debug)]
pub struct WorkQueue {
    state: Mutex<State>,
    moved: Notify,
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    order: VecDeque<BindingRef>,
    /// The same ones, to be found.
    waiting: HashSet<BindingRef>,
    /// Those that were handed out and have not begun: they will see what they are woken for.
    handed: HashSet<BindingRef>,
}

impl WorkQueue {
    fn new(most: usize) -> Self {
        Self {
            state: Mutex::default(),
            moved: Notify::new(),
            most,
        }
    }

    fn add(&self, binding: &BindingRef) {
        let mut state = self.state();
        if !state.handed.contains(binding) && state.waiting.insert(binding.clone()) {
            state.order.push_back(binding.clone());
            self.moved.notify_one();
        }
    }

    fn done(&self, binding: &BindingRef) {
        if self.state().handed.remove(binding) {
            self.moved.notify_one();
        }
    }

    /// The next binding, as soon as it is its turn. For one taker.
    pub async fn get(&self) -> BindingRef {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.moved.notified().await;
        }
    }

    fn take(&self) -> Option<BindingRef> {
        let mut state = self.state();
        if state.handed.len() >= self.most {
            return None;
        }
        let next = state.order.pop_front()?;
        state.waiting.remove(&next);
        state.handed.insert(next.clone());
        if state.order.is_empty() {
            state.order.shrink_to_fit();
            state.waiting.shrink_to_fit();
        }
        Some(next)
    }

    fn depth(&self) -> usize {
        self.state().order.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn binding(name: &str) -> BindingRef {
        BindingRef::new("flows", name)
    }

    /// A queue of all namespaces, and the way there.
    fn queue(most: usize) -> (WorkQueues, Arc<WorkQueue>) {
        let wakes = WorkQueues::new(&[Scope::All], most);
        let queue = wakes.of(&Scope::All).unwrap();
        (wakes, queue)
    }

    #[tokio::test]
    async fn a_wake_reaches_the_line_of_its_namespace() {
        let scopes = ["a", "b"].map(|name| Scope::Namespace(name.to_owned()));
        let wakes = WorkQueues::new(&scopes, 1);
        let [a, b] = scopes.map(|scope| wakes.of(&scope).unwrap());
        let in_b = BindingRef::new("b", "x");
        wakes.add(&in_b);
        wakes.add(&BindingRef::new("a", "y"));
        wakes.add(&BindingRef::new("of no scope", "z"));
        assert_eq!(wakes.depth(), 2);
        assert_eq!(b.get().await, in_b);
        assert_eq!(a.get().await.name(), "y");
    }

    #[test]
    fn a_binding_stands_in_the_line_once_and_keeps_its_place() {
        let (wakes, queue) = queue(2);
        for name in ["a", "b", "a", "c", "a"] {
            wakes.add(&binding(name));
        }
        assert_eq!(wakes.depth(), 3);
        assert_eq!(queue.get().now_or_never(), Some(binding("a")));
        assert_eq!(queue.get().now_or_never(), Some(binding("b")));
    }

    #[test]
    fn one_that_was_handed_out_is_woken_again_only_once_it_has_begun() {
        let (wakes, queue) = queue(2);
        wakes.add(&binding("a"));
        assert_eq!(queue.get().now_or_never(), Some(binding("a")));
        wakes.add(&binding("a"));
        assert_eq!(wakes.depth(), 0, "it will see what it is woken for");
        wakes.done(&binding("a"));
        wakes.add(&binding("a"));
        assert_eq!(
            queue.get().now_or_never(),
            Some(binding("a")),
            "it may have looked before"
        );
    }

    #[tokio::test]
    async fn a_few_are_handed_out_at_a_time() {
        let (wakes, queue) = queue(2);
        for name in ["a", "b", "c"] {
            wakes.add(&binding(name));
        }
        queue.get().await;
        queue.get().await;
        let third = tokio::spawn(async move { queue.get().await });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        wakes.done(&binding("of no concern"));
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        wakes.done(&binding("b"));
        assert_eq!(third.await.unwrap(), binding("c"));
    }

    #[test]
    fn a_namespace_that_is_named_twice_is_watched_once() {
        assert_eq!(Scope::of(&[]), [Scope::All]);
        assert_eq!(
            Scope::of(&["a".to_owned(), "a".to_owned()]),
            [Scope::Namespace("a".to_owned())]
        );
    }
}

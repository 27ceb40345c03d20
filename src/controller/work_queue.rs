//! What wakes a binding, and the queue in which it waits for its reconcile.
//!
//! In: names of bindings, from sources, pools and watches. Out: one [`Queue`] for each watched scope, from which the controller of that scope takes. A
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
pub struct Wakes(Arc<HashMap<Scope, Arc<Queue>>>);

impl Wakes {
    /// A queue for each scope, of which `most` are handed out at a time.
    #[must_use]
    pub fn new(scopes: &[Scope], most: usize) -> Self {
        let queue = |scope: &Scope| (scope.clone(), Arc::new(Queue::new(most)));
        Self(Arc::new(scopes.iter().map(queue).collect()))
    }

    /// Has `binding` reconciled soon.
    pub fn wake(&self, binding: &BindingRef) {
        if let Some(queue) = self.queue(binding) {
            queue.push(binding);
        }
    }

    /// A reconcile of `binding` begins, or there is none to be had: whatever wakes it from now on wakes it again.
    pub fn begun(&self, binding: &BindingRef) {
        if let Some(queue) = self.queue(binding) {
            queue.begun(binding);
        }
    }

    /// The queue of a scope.
    #[must_use]
    pub fn of(&self, scope: &Scope) -> Option<Arc<Queue>> {
        self.0.get(scope).cloned()
    }

    /// How many bindings wait, in all scopes.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.values().map(|queue| queue.waiting()).sum()
    }

    fn queue(&self, binding: &BindingRef) -> Option<&Arc<Queue>> {
        let own = Scope::Namespace(binding.namespace().to_owned());
        self.0.get(&own).or_else(|| self.0.get(&Scope::All))
    }
}

/// Bindings that wait for their reconcile, in the order in which they were woken.
#[derive(Debug)]
pub struct Queue {
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

impl Queue {
    fn new(most: usize) -> Self {
        Self {
            state: Mutex::default(),
            moved: Notify::new(),
            most,
        }
    }

    fn push(&self, binding: &BindingRef) {
        let mut state = self.state();
        if !state.handed.contains(binding) && state.waiting.insert(binding.clone()) {
            state.order.push_back(binding.clone());
            self.moved.notify_one();
        }
    }

    fn begun(&self, binding: &BindingRef) {
        if self.state().handed.remove(binding) {
            self.moved.notify_one();
        }
    }

    /// The next binding, as soon as it is its turn. For one taker.
    pub async fn next(&self) -> BindingRef {
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

    fn waiting(&self) -> usize {
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
    fn queue(most: usize) -> (Wakes, Arc<Queue>) {
        let wakes = Wakes::new(&[Scope::All], most);
        let queue = wakes.of(&Scope::All).unwrap();
        (wakes, queue)
    }

    #[tokio::test]
    async fn a_wake_reaches_the_line_of_its_namespace() {
        let scopes = ["a", "b"].map(|name| Scope::Namespace(name.to_owned()));
        let wakes = Wakes::new(&scopes, 1);
        let [a, b] = scopes.map(|scope| wakes.of(&scope).unwrap());
        let in_b = BindingRef::new("b", "x");
        wakes.wake(&in_b);
        wakes.wake(&BindingRef::new("a", "y"));
        wakes.wake(&BindingRef::new("of no scope", "z"));
        assert_eq!(wakes.waiting(), 2);
        assert_eq!(b.next().await, in_b);
        assert_eq!(a.next().await.name(), "y");
    }

    #[test]
    fn a_binding_stands_in_the_line_once_and_keeps_its_place() {
        let (wakes, queue) = queue(2);
        for name in ["a", "b", "a", "c", "a"] {
            wakes.wake(&binding(name));
        }
        assert_eq!(wakes.waiting(), 3);
        assert_eq!(queue.next().now_or_never(), Some(binding("a")));
        assert_eq!(queue.next().now_or_never(), Some(binding("b")));
    }

    #[test]
    fn one_that_was_handed_out_is_woken_again_only_once_it_has_begun() {
        let (wakes, queue) = queue(2);
        wakes.wake(&binding("a"));
        assert_eq!(queue.next().now_or_never(), Some(binding("a")));
        wakes.wake(&binding("a"));
        assert_eq!(wakes.waiting(), 0, "it will see what it is woken for");
        wakes.begun(&binding("a"));
        wakes.wake(&binding("a"));
        assert_eq!(
            queue.next().now_or_never(),
            Some(binding("a")),
            "it may have looked before"
        );
    }

    #[tokio::test]
    async fn a_few_are_handed_out_at_a_time() {
        let (wakes, queue) = queue(2);
        for name in ["a", "b", "c"] {
            wakes.wake(&binding(name));
        }
        queue.next().await;
        queue.next().await;
        let third = tokio::spawn(async move { queue.next().await });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        wakes.begun(&binding("of no concern"));
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        wakes.begun(&binding("b"));
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

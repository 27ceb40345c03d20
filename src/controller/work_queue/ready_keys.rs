//! Keys that may be handed out, with a fair turn for each namespace.
//!
//! Input: keys of bindings, each at most once.
//! Output: one key at a time: namespaces take turns, and within a namespace the order is first in,
//! first out.
//! Invariants: pure. Before a key is handed out, each other namespace gets at most one turn for each
//! key that is ahead in the key's own namespace, and one more. Each call takes constant time,
//! whatever the number of keys and namespaces.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::crd::BindingRef;

/// Keys by namespace.
#[derive(Debug, Default)]
pub(super) struct ReadyKeys {
    /// Namespaces that have keys, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    /// The keys of each namespace in `turns`. No queue is empty.
    keys: HashMap<Arc<str>, VecDeque<BindingRef>>,
    len: usize,
}

impl ReadyKeys {
    /// Adds a key behind the others of its namespace.
    pub(super) fn push(&mut self, key: BindingRef) {
        self.len += 1;
        if let Some(queue) = self.keys.get_mut(key.namespace()) {
            queue.push_back(key);
            return;
        }
        let namespace = Arc::from(key.namespace());
        self.turns.push_back(Arc::clone(&namespace));
        self.keys.insert(namespace, VecDeque::from([key]));
    }

    /// Takes the first key of the namespace whose turn it is.
    pub(super) fn pop(&mut self) -> Option<BindingRef> {
        let namespace = self.turns.pop_front()?;
        let queue = self.keys.get_mut(&namespace)?;
        let key = queue.pop_front();
        if queue.is_empty() {
            self.keys.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        self.len -= usize::from(key.is_some());
        if self.len == 0 {
            // After a burst, its memory is given back.
            *self = Self::default();
        }
        key
    }

    /// How many keys wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether no key waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(namespace: &str, number: usize) -> BindingRef {
        BindingRef::new(namespace, &format!("b{number}"))
    }

    fn filled(keys: &[(&str, usize)]) -> ReadyKeys {
        let mut ready = ReadyKeys::default();
        for (namespace, number) in keys {
            ready.push(key(namespace, *number));
        }
        ready
    }

    fn drained(ready: &mut ReadyKeys) -> Vec<BindingRef> {
        std::iter::from_fn(|| ready.pop()).collect()
    }

    #[test]
    fn namespaces_take_turns() {
        let mut ready = filled(&[("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("b", 1)]);
        let expected = [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2)];
        assert_eq!(
            drained(&mut ready),
            expected.map(|(namespace, number)| key(namespace, number))
        );
    }

    #[test]
    fn a_namespace_that_was_empty_waits_for_one_turn_of_each_other() {
        let mut ready = filled(&[("a", 0), ("a", 1), ("b", 0), ("a", 2)]);
        assert_eq!(ready.pop(), Some(key("a", 0)));
        assert_eq!(ready.pop(), Some(key("b", 0)));
        ready.push(key("b", 1));
        assert_eq!(ready.pop(), Some(key("a", 1)));
        assert_eq!(ready.pop(), Some(key("b", 1)));
        assert_eq!(ready.pop(), Some(key("a", 2)));
        assert_eq!(ready.pop(), None);
    }

    #[test]
    fn gives_memory_back_after_a_burst() {
        let mut ready = ReadyKeys::default();
        for number in 0..10_000 {
            ready.push(key(&format!("ns-{number}"), number));
        }
        assert_eq!(ready.len(), 10_000);
        assert_eq!(drained(&mut ready).len(), 10_000);
        assert!(ready.is_empty());
        assert_eq!(ready.turns.capacity() + ready.keys.capacity(), 0);
    }

    proptest! {
        /// A namespace's keys keep their order, none is lost, and no other namespace gets more than
        /// one turn between two of its keys.
        #[test]
        fn each_namespace_keeps_its_order_and_its_share(
            pushed in prop::collection::vec((0_usize..5, 0_usize..4), 1..200)
        ) {
            let mut ready = ReadyKeys::default();
            let mut expected: Vec<Vec<BindingRef>> = vec![Vec::new(); 5];
            // Handed out since the namespace's last turn, or since it began to wait.
            let mut others: HashMap<String, HashMap<String, usize>> = HashMap::new();
            let mut popped: Vec<Vec<BindingRef>> = vec![Vec::new(); 5];
            let mut pop = |ready: &mut ReadyKeys| -> bool {
                let Some(key) = ready.pop() else { return false };
                let namespace = key.namespace().to_owned();
                others.remove(&namespace);
                for (waiting, turns) in &mut others {
                    let turns = turns.entry(namespace.clone()).or_default();
                    *turns += 1;
                    assert!(*turns <= 1, "{namespace} overtakes {waiting} twice");
                }
                for waiting in ready.keys.keys() {
                    others.entry(waiting.to_string()).or_default();
                }
                popped[namespace[3..].parse::<usize>().unwrap()].push(key);
                true
            };
            for (number, (namespace, pops)) in pushed.into_iter().enumerate() {
                let key = key(&format!("ns-{namespace}"), number);
                expected[namespace].push(key.clone());
                ready.push(key);
                for _ in 0..pops.saturating_sub(1) {
                    pop(&mut ready);
                }
            }
            while pop(&mut ready) {}
            prop_assert_eq!(popped, expected);
            prop_assert!(ready.is_empty());
        }
    }
}

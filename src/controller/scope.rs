//! Where the operator watches bindings: in the whole cluster, or in one namespace.
//!
//! Input: the namespaces of `--watch-namespace`. Output: the distinct [`WatchScope`]s.
//! Invariants: no namespace is in two scopes.

use std::collections::BTreeSet;

/// Where the operator watches bindings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WatchScope {
    /// In all namespaces.
    All,
    /// In this namespace.
    Namespace(String),
}

impl WatchScope {
    /// The scopes of the flag `--watch-namespace`. Without namespaces the operator watches the whole cluster.
    #[must_use]
    pub fn of(namespaces: &[String]) -> Vec<Self> {
        if namespaces.is_empty() {
            return vec![Self::All];
        }
        let distinct: BTreeSet<_> = namespaces.iter().cloned().collect();
        distinct.into_iter().map(Self::Namespace).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_a_namespace_once_that_is_given_twice() {
        assert_eq!(WatchScope::of(&[]), [WatchScope::All]);
        assert_eq!(
            WatchScope::of(&["a".to_owned(), "a".to_owned()]),
            [WatchScope::Namespace("a".to_owned())]
        );
    }
}

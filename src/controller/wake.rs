//! What wakes a binding, and the way there.
//!
//! In: names of bindings, from sources, pools and watches. Out: one stream for each watched scope, which the controller of that scope takes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use futures::Stream;
use tokio::sync::mpsc;

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
#[derive(Debug, Default)]
pub struct Wakes(Mutex<HashMap<Scope, mpsc::UnboundedSender<BindingRef>>>);

impl Wakes {
    /// The stream of a scope; it replaces an earlier one.
    pub fn stream(&self, scope: Scope) -> impl Stream<Item = BindingRef> + Send + use<> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(scope, sender);
        futures::stream::poll_fn(move |context| receiver.poll_recv(context))
    }

    /// Has `binding` reconciled soon. The controller folds several wakes of one binding into one.
    pub fn wake(&self, binding: &BindingRef) {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = table.get(&Scope::Namespace(binding.namespace().to_owned()));
        if let Some(sender) = own.or_else(|| table.get(&Scope::All)) {
            // A closed stream means that the process is ending.
            let _ = sender.send(binding.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[tokio::test]
    async fn a_wake_reaches_the_controller_of_its_namespace() {
        let wakes = Wakes::default();
        let mut a = std::pin::pin!(wakes.stream(Scope::Namespace("a".to_owned())));
        let mut b = std::pin::pin!(wakes.stream(Scope::Namespace("b".to_owned())));
        let in_b = BindingRef::new("b", "x");
        wakes.wake(&in_b);
        wakes.wake(&BindingRef::new("a", "y"));
        assert_eq!(b.next().await, Some(in_b));
        assert_eq!(a.next().await.unwrap().name(), "y");
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

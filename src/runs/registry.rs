//! The runs that each binding serves, by Prefect server.
//!
//! Input: selectors as bindings declare and drop them.
//! Output: the bindings that a run concerns.
//! Invariants: a lookup costs as much as it finds, however many bindings there are. A binding has one
//! server.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;

use super::selector::RunSelector;
use crate::{
    crd::BindingRef,
    prefect::{Connection, PendingRun},
};

/// The runs that bindings serve.
#[derive(Default)]
pub struct RunRegistry(Mutex<Declared>);

#[derive(Default)]
struct Declared {
    by_binding: HashMap<BindingRef, Served>,
    by_server: HashMap<Arc<Connection>, HashMap<RunSelector, HashSet<BindingRef>>>,
}

#[derive(PartialEq, Eq)]
struct Served {
    server: Arc<Connection>,
    selectors: BTreeSet<RunSelector>,
}

impl RunRegistry {
    /// Declares the runs that a binding serves, instead of those that it declared before.
    pub fn declare(
        &self,
        binding: &BindingRef,
        server: &Arc<Connection>,
        selectors: BTreeSet<RunSelector>,
    ) {
        let server = Arc::clone(server);
        let runs = Served { server, selectors };
        let mut declared = self.0.lock();
        if declared.by_binding.get(binding) == Some(&runs) {
            return;
        }
        declared.remove(binding);
        if !runs.selectors.is_empty() {
            declared.insert(binding, runs);
        }
    }

    /// Drops what a binding declared.
    pub fn remove(&self, binding: &BindingRef) {
        self.0.lock().remove(binding);
    }

    /// The bindings that a run of this server concerns.
    #[must_use]
    pub fn concerned(&self, server: &Arc<Connection>, run: &PendingRun) -> HashSet<BindingRef> {
        let declared = self.0.lock();
        let Some(by_selector) = declared.by_server.get(server) else {
            return HashSet::new();
        };
        let matching = RunSelector::matching(run);
        let found = matching.filter_map(|selector| by_selector.get(&selector));
        found.flatten().cloned().collect()
    }
}

impl Declared {
    fn insert(&mut self, binding: &BindingRef, runs: Served) {
        let by_selector = self.by_server.entry(Arc::clone(&runs.server)).or_default();
        for selector in &runs.selectors {
            let bindings = by_selector.entry(selector.clone()).or_default();
            bindings.insert(binding.clone());
        }
        self.by_binding.insert(binding.clone(), runs);
    }

    fn remove(&mut self, binding: &BindingRef) {
        let Some(runs) = self.by_binding.remove(binding) else {
            return;
        };
        let Some(by_selector) = self.by_server.get_mut(&runs.server) else {
            return;
        };
        for selector in &runs.selectors {
            if let Some(bindings) = by_selector.get_mut(selector) {
                bindings.remove(binding);
                if bindings.is_empty() {
                    by_selector.remove(selector);
                }
            }
        }
        if by_selector.is_empty() {
            self.by_server.remove(&runs.server);
        }
    }
}

impl std::fmt::Debug for RunRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunRegistry").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefect::connection::Auth;

    fn server(url: &str, key: &str) -> Arc<Connection> {
        Arc::new(Connection {
            api_url: url.parse().unwrap(),
            auth: Auth::Bearer(key.into()),
            headers: Vec::new(),
            ca: None,
        })
    }

    fn pools(names: &[&str]) -> BTreeSet<RunSelector> {
        let names = names.iter().map(|&name| name.to_owned());
        names.map(RunSelector::WorkPool).collect()
    }

    fn concerned(registry: &RunRegistry, server: &Arc<Connection>, pool: &str) -> Vec<BindingRef> {
        let work_pool = pool.to_owned();
        let found = registry.concerned(server, &PendingRun { work_pool });
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a_run_concerns_the_bindings_of_its_pool_and_server() {
        let registry = RunRegistry::default();
        let (here, there) = (server("http://a/api", "one"), server("http://b/api", "one"));
        let (a, b, c) = (
            BindingRef::new("flows", "a"),
            BindingRef::new("flows", "b"),
            BindingRef::new("other", "c"),
        );
        registry.declare(&a, &here, pools(&["k8s", "gpu"]));
        registry.declare(&b, &here, pools(&["k8s"]));
        registry.declare(&c, &there, pools(&["k8s"]));
        assert_eq!(concerned(&registry, &here, "k8s"), [a.clone(), b.clone()]);
        assert_eq!(concerned(&registry, &here, "gpu"), [a]);
        assert_eq!(concerned(&registry, &there, "k8s"), [c]);
        assert_eq!(concerned(&registry, &here, "none"), []);
        // The socket of other credentials reports the run to their bindings.
        let other = server("http://a/api", "two");
        assert_eq!(concerned(&registry, &other, "k8s"), []);
    }

    #[test]
    fn a_declaration_replaces_the_last_one() {
        let registry = RunRegistry::default();
        let (here, there) = (server("http://a/api", "one"), server("http://b/api", "one"));
        let a = BindingRef::new("flows", "a");
        registry.declare(&a, &here, pools(&["k8s", "gpu"]));
        registry.declare(&a, &here, pools(&["gpu"]));
        assert_eq!(concerned(&registry, &here, "k8s"), []);
        registry.declare(&a, &there, pools(&["gpu"]));
        assert_eq!(concerned(&registry, &here, "gpu"), []);
        assert_eq!(
            concerned(&registry, &there, "gpu"),
            std::slice::from_ref(&a)
        );
        registry.declare(&a, &there, BTreeSet::new());
        registry.declare(&a, &here, pools(&["k8s"]));
        registry.remove(&a);
        registry.remove(&a);
        let declared = registry.0.lock();
        assert!(declared.by_binding.is_empty() && declared.by_server.is_empty());
    }
}

//! The runs that each binding serves, by Prefect server.
//!
//! Input: what bindings declare and drop.
//! Output: the bindings that a run concerns.
//! Invariants: a lookup costs as much as it finds, however many bindings there are. A binding has one
//! server.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::selector::{IndexKey, RunSelector, index_keys};
use crate::{
    crd::BindingRef,
    prefect::{Connection, FlowRun},
};

/// The runs that bindings serve.
#[derive(Default)]
pub struct RunRegistry(Mutex<Declared>);

#[derive(Default)]
struct Declared {
    by_binding: HashMap<BindingRef, Declaration>,
    by_server: HashMap<Arc<Connection>, HashMap<IndexKey, HashSet<BindingRef>>>,
}

/// What a binding declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The server whose runs they are.
    pub server: Arc<Connection>,
    /// The runs.
    pub selectors: BTreeSet<RunSelector>,
    /// Whether the start of a run causes a read of the config.
    pub refreshes: bool,
}

struct Declaration {
    served: Served,
    content: Option<Arc<Content>>,
}

/// What the Secret of a binding holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Name of the Secret.
    pub secret: String,
    /// Its content hash.
    pub hash: String,
    /// Since when the Secret has this content.
    pub since: Option<Timestamp>,
}

/// A binding that serves a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// The binding.
    pub binding: BindingRef,
    /// What its Secret holds.
    pub content: Arc<Content>,
    /// The variables in which the run has to choose the Secret. Empty: it gets the Secret anyway.
    pub variables: BTreeSet<String>,
}

impl RunRegistry {
    /// Declares the runs that a binding serves, instead of those that it declared before.
    pub fn declare(&self, binding: &BindingRef, served: Served) {
        let mut declared = self.0.lock();
        let last = declared.by_binding.get(binding);
        if last.is_some_and(|last| last.served == served) {
            return;
        }
        let content = declared.remove(binding);
        if !served.selectors.is_empty() {
            declared.insert(binding, Declaration { served, content });
        }
    }

    /// Declares what the Secret of a binding holds, if the binding serves runs.
    pub fn set_content(&self, binding: &BindingRef, content: Option<Content>) {
        let mut declared = self.0.lock();
        if let Some(declaration) = declared.by_binding.get_mut(binding)
            && declaration.content.as_deref() != content.as_ref()
        {
            declaration.content = content.map(Arc::new);
        }
    }

    /// Drops what a binding declared.
    pub fn remove(&self, binding: &BindingRef) {
        self.0.lock().remove(binding);
    }

    /// The bindings whose configs a run of this server causes to be read.
    #[must_use]
    pub fn refreshed_by(&self, server: &Arc<Connection>, run: &FlowRun) -> HashSet<BindingRef> {
        let declared = self.0.lock();
        let matching = declared.matching(server, run);
        let refreshing = matching.filter(|(_, declaration)| declaration.served.refreshes);
        refreshing.map(|(binding, _)| binding.clone()).collect()
    }

    /// The bindings that serve a run of this server and have a Secret.
    #[must_use]
    pub fn serving(&self, server: &Arc<Connection>, run: &FlowRun) -> Vec<Serving> {
        let declared = self.0.lock();
        let matching = declared.matching(server, run);
        let serving = matching.filter_map(|(binding, declaration)| {
            Some(Serving {
                binding: binding.clone(),
                content: Arc::clone(declaration.content.as_ref()?),
                variables: declaration.served.variables(run),
            })
        });
        serving.collect()
    }
}

impl Served {
    /// The variables in which a run has to choose the Secret. Empty if one of the selectors does not
    /// ask for a choice.
    fn variables(&self, run: &FlowRun) -> BTreeSet<String> {
        let matching = self.selectors.iter().filter(|of| of.may_match(run));
        let variables = matching.map(|selector| match selector {
            RunSelector::Choice { variable, .. } => Some(variable.clone()),
            _ => None,
        });
        variables.collect::<Option<_>>().unwrap_or_default()
    }
}

impl Declared {
    /// The bindings that may serve a run.
    fn matching<'a>(
        &'a self,
        server: &Arc<Connection>,
        run: &'a FlowRun,
    ) -> impl Iterator<Item = (&'a BindingRef, &'a Declaration)> {
        let by_key = self.by_server.get(server);
        let found: HashSet<&BindingRef> = by_key.map_or_else(HashSet::new, |by_key| {
            let found = index_keys(run).filter_map(|key| by_key.get(&key));
            found.flatten().collect()
        });
        let declarations = found.into_iter().filter_map(|binding| {
            let declaration = self.by_binding.get(binding)?;
            Some((binding, declaration))
        });
        declarations.filter(|(_, declaration)| {
            let mut selectors = declaration.served.selectors.iter();
            selectors.any(|selector| selector.may_match(run))
        })
    }

    fn insert(&mut self, binding: &BindingRef, declaration: Declaration) {
        let served = &declaration.served;
        let by_key = self
            .by_server
            .entry(Arc::clone(&served.server))
            .or_default();
        for key in served.selectors.iter().filter_map(RunSelector::index_key) {
            by_key.entry(key).or_default().insert(binding.clone());
        }
        self.by_binding.insert(binding.clone(), declaration);
    }

    /// Removes what a binding declared. Returns the content.
    fn remove(&mut self, binding: &BindingRef) -> Option<Arc<Content>> {
        let Declaration { served, content } = self.by_binding.remove(binding)?;
        let by_key = self.by_server.get_mut(&served.server)?;
        for key in served.selectors.iter().filter_map(RunSelector::index_key) {
            if let Some(bindings) = by_key.get_mut(&key) {
                bindings.remove(binding);
                if bindings.is_empty() {
                    by_key.remove(&key);
                }
            }
        }
        if by_key.is_empty() {
            self.by_server.remove(&served.server);
        }
        content
    }
}

impl std::fmt::Debug for RunRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunRegistry").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

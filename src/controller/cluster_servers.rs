//! The `ClusterPrefectServer`s, the labels of namespaces, and which binding depends on which server.
//!
//! Input: what the watches deliver, and what bindings name.
//! Output: the server that a binding may use, or why it may not. A change enqueues the bindings that
//! depend on it, each once.
//! Invariants: it sends nothing. Nothing is decided before the servers are listed, and a namespace that
//! is not listed by name waits for the labels. A binding depends on a server before it is decided, so
//! that no change is missed.

pub mod read;
mod state;
pub mod watch;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::sync::watch as channel;

use crate::{
    crd::{BindingRef, ClusterPrefectServer, DopplerPrefectBindingSpec, PrefectSpec, ServerChoice},
    failure::Failure,
    reason::Reason,
    server_access::{
        Labels, Request, check_block, check_entry, check_namespace, check_request, selects_by_label,
    },
    upstream::poller::Enqueue,
};
pub use state::{Listing, Unusable};
use state::{State, is_changed};

/// All `ClusterPrefectServer`s.
pub struct ClusterServers {
    state: Mutex<State>,
    default: Option<String>,
    enqueue: Enqueue<BindingRef>,
    /// Whether a server selects namespaces by their labels.
    needs_labels: channel::Sender<bool>,
}

impl std::fmt::Debug for ClusterServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterServers").finish_non_exhaustive()
    }
}

impl ClusterServers {
    /// Without servers. `default` is the server of bindings that name none. `enqueue` receives the
    /// bindings and servers that a change affects.
    #[must_use]
    pub fn new(listing: Listing, default: Option<String>, enqueue: Enqueue<BindingRef>) -> Self {
        Self {
            state: Mutex::new(State {
                listing,
                servers: BTreeMap::new(),
                labels_listing: Listing::Pending,
                labels: HashMap::new(),
                dependants: HashMap::new(),
                named_by: HashMap::new(),
            }),
            default,
            enqueue,
            needs_labels: channel::Sender::new(false),
        }
    }

    /// How a binding names its server, by default the default server.
    ///
    /// # Errors
    /// If it names none, and the operator has no default.
    pub fn choice(&self, prefect: &PrefectSpec) -> Result<ServerChoice, Failure> {
        let default = || Some(ServerChoice::Shared(self.default.clone()?));
        prefect.choice().or_else(default).ok_or_else(|| {
            Failure::new(
                Reason::InvalidSpec,
                "spec.prefect names no server, and the operator has no default server: set spec.prefect.server or spec.prefect.serverRef, or set the operator's --default-prefect-server",
            )
        })
    }

    /// The server of this name, if a binding may use it as its spec says. From now on, the binding
    /// depends on the server.
    ///
    /// # Errors
    /// If there is none, or its lists do not allow it.
    pub fn for_binding(
        &self,
        key: &BindingRef,
        name: &str,
        spec: &DopplerPrefectBindingSpec,
    ) -> Result<Arc<ClusterPrefectServer>, Unusable> {
        let (decided, changed) = {
            let mut state = self.state.lock();
            let decided = state.decide(name, key.namespace(), |server, labels| {
                let request = Request {
                    namespace: key.namespace(),
                    labels,
                    spec,
                };
                check_request(server, &request)
            });
            let changed = state.depend(key, name, decided.is_ok());
            (decided, changed)
        };
        self.enqueue_servers(&changed);
        decided
    }

    /// The server of this name, if a namespace may use it at all.
    ///
    /// # Errors
    /// If there is none, or it does not list the namespace.
    pub fn for_namespace(
        &self,
        name: &str,
        namespace: &str,
    ) -> Result<Arc<ClusterPrefectServer>, Unusable> {
        let state = self.state.lock();
        state.decide(name, namespace, |server, labels| {
            check_namespace(server, namespace, labels)
        })
    }

    /// Checks a block, right before it is read.
    ///
    /// # Errors
    /// If there is no such server, or it does not list the block.
    pub fn check_block(&self, name: &str, namespace: &str, block: &str) -> Result<(), Unusable> {
        let state = self.state.lock();
        let decided = state.decide(name, namespace, |server, _| {
            check_block(server, namespace, block)
        });
        decided.map(|_| ())
    }

    /// Checks whether an entry may be removed from a pool for a binding of a namespace.
    ///
    /// # Errors
    /// If there is no such server, or it does not list the pool.
    pub fn check_entry(&self, name: &str, namespace: &str, pool: &str) -> Result<(), Unusable> {
        let state = self.state.lock();
        let decided = state.decide(name, namespace, |server, labels| {
            check_entry(server, namespace, labels, pool)
        });
        decided.map(|_| ())
    }

    /// The server of this name, also if no namespace may use it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<ClusterPrefectServer>> {
        self.state.lock().servers.get(name).cloned()
    }

    /// The binding names no server any more, or does not exist.
    pub fn leave(&self, key: &BindingRef) {
        let changed = self.state.lock().leave(key);
        self.enqueue_servers(&changed);
    }

    /// How many bindings use the server, and how many may not.
    #[must_use]
    pub fn count(&self, name: &str) -> (usize, usize) {
        let state = self.state.lock();
        let dependants = state.dependants.get(name).into_iter().flatten();
        let (used, refused): (Vec<bool>, Vec<bool>) =
            dependants.map(|(_, allowed)| *allowed).partition(|it| *it);
        (used.len(), refused.len())
    }

    /// Follows whether a server selects namespaces by their labels.
    #[must_use]
    pub fn needs_labels(&self) -> channel::Receiver<bool> {
        self.needs_labels.subscribe()
    }

    /// Handles a whole list of servers.
    pub fn on_listed(&self, servers: Vec<ClusterPrefectServer>) {
        let servers = servers.into_iter();
        let servers: BTreeMap<String, Arc<ClusterPrefectServer>> = servers
            .map(|server| (server.name_any(), Arc::new(server)))
            .collect();
        let affected = {
            let mut state = self.state.lock();
            let before = std::mem::replace(&mut state.servers, servers);
            let is_first =
                std::mem::replace(&mut state.listing, Listing::Listed) != Listing::Listed;
            let differs = |name: &&String| {
                let (was, is) = (before.get(*name), state.servers.get(*name));
                is_first || is_changed(was.map(|was| &**was), is.map(|is| &**is))
            };
            let known = state.dependants.keys().chain(before.keys());
            let changed = known.chain(state.servers.keys()).filter(differs);
            let changed: Vec<String> = changed.cloned().collect();
            state.affected_by(&changed)
        };
        self.follow(&affected);
    }

    /// Handles a watch event: the server exists.
    pub fn on_apply(&self, server: ClusterPrefectServer) {
        let name = server.name_any();
        let affected = {
            let mut state = self.state.lock();
            let server = Arc::new(server);
            let before = state.servers.insert(name.clone(), Arc::clone(&server));
            if is_changed(before.as_deref(), Some(&server)) {
                state.affected_by(&[name])
            } else {
                Vec::new()
            }
        };
        self.follow(&affected);
    }

    /// Handles a watch event: the server is deleted.
    pub fn on_delete(&self, name: &str) {
        let affected = {
            let mut state = self.state.lock();
            state.servers.remove(name);
            state.affected_by(&[name.to_owned()])
        };
        self.follow(&affected);
    }

    /// The servers cannot be listed. Servers that are known stay.
    pub fn on_unavailable(&self, listing: Listing) {
        let affected = {
            let mut state = self.state.lock();
            if state.listing == listing || state.listing == Listing::Listed {
                return;
            }
            state.listing = listing;
            let names: Vec<String> = state.dependants.keys().cloned().collect();
            state.affected_by(&names)
        };
        self.follow(&affected);
    }

    /// Handles a whole list of the labels of namespaces.
    pub fn on_labels_listed(&self, labels: HashMap<String, Labels>) {
        let affected = {
            let mut state = self.state.lock();
            let before = std::mem::replace(&mut state.labels, labels);
            let is_first =
                std::mem::replace(&mut state.labels_listing, Listing::Listed) != Listing::Listed;
            let State { labels, .. } = &*state;
            state.affected_by_labels(|namespace| {
                is_first || before.get(namespace) != labels.get(namespace)
            })
        };
        self.follow(&affected);
    }

    /// Handles a watch event: the labels of a namespace, or that it is deleted.
    pub fn on_labels(&self, namespace: &str, labels: Option<&Labels>) {
        let affected = {
            let mut state = self.state.lock();
            let before = match labels {
                Some(labels) => state.labels.insert(namespace.to_owned(), labels.clone()),
                None => state.labels.remove(namespace),
            };
            if before.as_ref() == labels {
                Vec::new()
            } else {
                state.affected_by_labels(|changed| changed == namespace)
            }
        };
        self.follow(&affected);
    }

    /// The labels of namespaces cannot be listed.
    pub fn on_labels_unavailable(&self) {
        let affected = {
            let mut state = self.state.lock();
            if state.labels_listing != Listing::Pending {
                return;
            }
            state.labels_listing = Listing::Forbidden;
            state.affected_by_labels(|_| true)
        };
        self.follow(&affected);
    }

    fn follow(&self, affected: &[BindingRef]) {
        let selects = {
            let state = self.state.lock();
            let mut servers = state.servers.values();
            servers.any(|server| selects_by_label(&server.spec))
        };
        self.needs_labels
            .send_if_modified(|needed| !std::mem::replace(needed, *needed || selects) && selects);
        for key in affected {
            (self.enqueue)(key);
        }
    }

    fn enqueue_servers(&self, names: &[String]) {
        for name in names {
            (self.enqueue)(&BindingRef::cluster_server(name));
        }
    }
}

#[cfg(test)]
mod tests;

//! What is known of servers and namespaces, and the bindings that depend on them. Pure.
//!
//! Input: servers, labels of namespaces, and what bindings name.
//! Output: decisions, and what a change affects.
//! Invariants: nothing is decided before the servers are listed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    crd::{BindingRef, ClusterPrefectServer, ClusterPrefectServerSpec},
    failure::Failure,
    reason::Reason,
    server_access::{Labels, NotAllowed, selects_by_label},
};

/// Whether the servers, or the labels of namespaces, are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// The operator does not read them.
    Disabled,
    /// They are not listed yet.
    Pending,
    /// They are listed.
    Listed,
    /// The operator has no permission to list them.
    Forbidden,
    /// The API server does not have the kind.
    NoKind,
}

/// Why a binding cannot use a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is not known yet. The binding is enqueued once it is.
    Pending,
    /// It may not, or there is none.
    Failed(Failure),
}

impl From<Unusable> for Failure {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Failed(failure) => failure,
            Unusable::Pending => Self::new(
                Reason::Pending,
                "the operator has not listed the ClusterPrefectServers yet",
            ),
        }
    }
}

/// What is known.
pub(super) struct State {
    pub(super) listing: Listing,
    pub(super) servers: BTreeMap<String, Arc<ClusterPrefectServer>>,
    pub(super) labels_listing: Listing,
    pub(super) labels: HashMap<String, Labels>,
    /// Bindings by the server that they name, and whether they may use it.
    pub(super) dependants: HashMap<String, HashMap<BindingRef, bool>>,
    pub(super) named_by: HashMap<BindingRef, String>,
}

/// Whether a server is another one, or has another spec. A write of its status does not count.
pub(super) fn is_changed(
    before: Option<&ClusterPrefectServer>,
    after: Option<&ClusterPrefectServer>,
) -> bool {
    let relevant = |server: &ClusterPrefectServer| {
        let meta = &server.metadata;
        (meta.uid.clone(), meta.generation)
    };
    before.map(relevant) != after.map(relevant)
}

impl State {
    pub(super) fn decide(
        &self,
        name: &str,
        namespace: &str,
        check: impl FnOnce(&ClusterPrefectServerSpec, Option<&Labels>) -> Result<(), NotAllowed>,
    ) -> Result<Arc<ClusterPrefectServer>, Unusable> {
        let Some(server) = self.servers.get(name) else {
            return Err(missing(self.listing, name));
        };
        let no_labels = Labels::new();
        let labels = match self.labels_listing {
            Listing::Listed => Some(self.labels.get(namespace).unwrap_or(&no_labels)),
            _ => None,
        };
        match check(&server.spec, labels) {
            Ok(()) => Ok(Arc::clone(server)),
            Err(NotAllowed::Namespace(_))
                if selects_by_label(&server.spec) && self.labels_listing == Listing::Pending =>
            {
                Err(Unusable::Pending)
            }
            Err(refused) => {
                let unread = selects_by_label(&server.spec)
                    && self.labels_listing == Listing::Forbidden
                    && matches!(refused, NotAllowed::Namespace(_));
                let note = if unread {
                    "; the operator has no permission to list namespaces, so its selector matches none"
                } else {
                    ""
                };
                Err(Unusable::Failed(Failure::new(
                    Reason::ServerNotAllowed,
                    format!("ClusterPrefectServer {name}: {refused}{note}"),
                )))
            }
        }
    }

    /// The servers whose number of bindings changes.
    pub(super) fn depend(&mut self, key: &BindingRef, name: &str, allowed: bool) -> Vec<String> {
        let mut changed = Vec::new();
        if self.named_by.get(key).is_some_and(|before| before != name) {
            changed = self.leave(key);
        }
        self.named_by.insert(key.clone(), name.to_owned());
        let dependants = self.dependants.entry(name.to_owned()).or_default();
        if dependants.insert(key.clone(), allowed) != Some(allowed) {
            changed.push(name.to_owned());
        }
        changed
    }

    pub(super) fn leave(&mut self, key: &BindingRef) -> Vec<String> {
        let Some(name) = self.named_by.remove(key) else {
            return Vec::new();
        };
        if let Some(dependants) = self.dependants.get_mut(&name) {
            dependants.remove(key);
            if dependants.is_empty() {
                self.dependants.remove(&name);
            }
        }
        vec![name]
    }

    /// These servers, and the bindings that depend on them.
    pub(super) fn affected_by(&self, names: &[String]) -> Vec<BindingRef> {
        let servers = names.iter().map(|name| BindingRef::cluster_server(name));
        let dependants = names.iter().filter_map(|name| self.dependants.get(name));
        let dependants = dependants.flat_map(HashMap::keys).cloned();
        let affected: BTreeSet<BindingRef> = servers.chain(dependants).collect();
        affected.into_iter().collect()
    }

    /// The bindings of namespaces with other labels whose server selects by label.
    pub(super) fn affected_by_labels(&self, is_changed: impl Fn(&str) -> bool) -> Vec<BindingRef> {
        let selecting = self.dependants.iter().filter(|(name, _)| {
            let server = self.servers.get(*name);
            server.is_some_and(|server| selects_by_label(&server.spec))
        });
        let dependants = selecting.flat_map(|(_, dependants)| dependants.keys());
        let changed = dependants.filter(|key| is_changed(key.namespace()));
        changed.cloned().collect()
    }
}

/// Why there is no server of this name.
fn missing(listing: Listing, name: &str) -> Unusable {
    let why = match listing {
        Listing::Pending => return Unusable::Pending,
        Listing::Listed => "it does not exist: create it, or correct spec.prefect.serverRef.name",
        Listing::Disabled => {
            "the operator does not read ClusterPrefectServers: set the chart value clusterServers.enabled, or its flag --cluster-servers"
        }
        Listing::Forbidden => {
            "the operator has no permission to list ClusterPrefectServers: grant it as the chart does with clusterServers.enabled"
        }
        Listing::NoKind => {
            "the API server does not have the kind: apply crds/clusterprefectservers.yaml"
        }
    };
    Unusable::Failed(Failure::new(
        Reason::ServerNotFound,
        format!("ClusterPrefectServer {name}: {why}"),
    ))
}

//! Everything that a reconcile needs.

use std::{sync::Arc, time::Duration};

use kube::{
    Client, Resource,
    runtime::reflector::{ObjectRef, Store},
};

use super::{
    binding_state::BindingStates,
    key_refs::KeyRefs,
    object_cache::ObjectCache,
    stored_binding::StoredBinding,
    work_queue::{BindingRef, WorkQueue},
};
use crate::{
    crd::BlockSpec,
    doppler::{ConfigKey, Snapshot},
    inject::Pools,
    metrics::Metrics,
    outbound::AllowedHosts,
    prefect::{BlockDocument, Connection, ConnectionInterner},
    report::Report,
    secret::{HashKey, SecretClient},
    upstream::poller::Pollers,
};

/// A block of a Prefect server, as it is read with these credentials.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// The server, and how it is reached.
    pub connection: Arc<Connection>,
    /// Slug of the block type.
    pub type_slug: String,
    /// Name of the block document.
    pub name: String,
}

impl BlockKey {
    /// The block that a binding names.
    #[must_use]
    pub fn new(connection: Arc<Connection>, block: &BlockSpec) -> Self {
        Self {
            connection,
            type_slug: block.type_slug.clone(),
            name: block.name.clone(),
        }
    }
}

/// The waits and limits that the flags set.
#[derive(Clone, Copy, Debug)]
pub struct ControllerSettings {
    /// Poll interval of bindings that set none.
    pub refresh_interval: Duration,
    /// For how long a failing upstream leaves a binding Ready.
    pub stale_after: Duration,
    /// How long a Secret outlives its pool entry.
    pub release_wait: Duration,
    /// How long a deleted binding waits for Prefect.
    pub release_timeout: Duration,
    /// Time limit of a step at the API server.
    pub kubernetes_timeout: Duration,
}

/// Blocks that are read.
pub type Blocks = Pollers<BindingRef, BlockKey, BlockDocument>;
/// Configs that are read.
pub type Configs = Pollers<BindingRef, ConfigKey, Snapshot>;

/// Everything that a reconcile needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Waits and limits.
    pub settings: ControllerSettings,
    /// Hosts that bindings may name as Prefect servers.
    pub prefect_hosts: AllowedHosts,
    /// Hosts that bindings may name as Doppler's API.
    pub doppler_hosts: AllowedHosts,
    /// Connections to Prefect servers that bindings share.
    pub connections: Arc<ConnectionInterner>,
    /// Blocks that are read.
    pub blocks: Blocks,
    /// Configs that are read.
    pub configs: Configs,
    /// Work pools that are looked at and edited.
    pub pools: Pools,
    /// Secrets and ConfigMaps, as the watches show them.
    pub objects: Arc<ObjectCache>,
    /// Values behind the keys that bindings name.
    pub key_refs: KeyRefs,
    /// Requests about Secrets.
    pub secrets: SecretClient,
    /// The installation's key of content hashes.
    pub hash_key: HashKey,
    /// What is remembered between reconciles.
    pub states: Arc<BindingStates>,
    /// The one place that tells.
    pub report: Report,
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
    /// Keys of bindings that wait for a reconcile.
    pub queue: Arc<WorkQueue>,
    /// Namespace of the operator itself.
    pub operator_namespace: String,
    /// The bindings of each scope.
    pub bindings: Vec<Store<StoredBinding>>,
}

impl Context {
    /// The binding is gone: nothing is read, remembered or counted for it any more.
    pub fn forget(&self, binding: &BindingRef) {
        self.blocks.unsubscribe(binding);
        self.configs.unsubscribe(binding);
        self.pools.remove_binding(binding);
        self.objects.untrack(binding);
        self.states.remove(binding);
        self.report.forget(binding);
        self.key_refs
            .retain(|object| self.objects.is_tracked(object));
    }

    /// The binding of this name, as its scope's store has it.
    #[must_use]
    pub fn stored(&self, binding: &BindingRef) -> Option<Arc<StoredBinding>> {
        let key = ObjectRef::new(binding.name()).within(binding.namespace());
        self.bindings.iter().find_map(|store| store.get(&key))
    }

    /// Whether a binding of this UID is there.
    #[must_use]
    pub fn binding_exists(&self, uid: &str) -> bool {
        self.bindings.iter().any(|store| {
            store
                .find(|binding| binding.meta().uid.as_deref() == Some(uid))
                .is_some()
        })
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

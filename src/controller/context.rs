//! What all reconciles share.
//!
//! Input: the parts that `process` builds from the flags.
//! Output: one [`Context`], the whole dependency injection of the controller.
//! Invariants: it holds no state of a single reconcile; that is the pass's.

use std::sync::Arc;

use kube::{
    Client, Resource,
    runtime::reflector::{ObjectRef, Store},
};

use super::{
    admission_policy::AdmissionPolicy,
    binding_state::BindingStates,
    cluster_servers::{ClusterServers, watch::ReferencedObjects},
    key_refs::KeyRefs,
    object_cache::ObjectCache,
    run_pods::RunPods,
    scope_state::{ScopeState, Unavailable},
    service_types::ServiceTypes,
    stored_binding::StoredBinding,
    work_queue::WorkQueue,
};
use crate::{
    args::BlockOverrides,
    crd::BindingRef,
    doppler::{Configs, Identities},
    inject::Pools,
    metrics::Metrics,
    outbound::{AllowedHosts, AllowedServers},
    prefect::{Blocks, ConnectionInterner},
    report::Report,
    restart::WorkloadClient,
    runs::RunRegistry,
    secret::{ForbiddenNames, HashKey, SecretClient},
    settings::ControllerSettings,
};

/// What all reconciles share.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// The limits that the flags set.
    pub settings: ControllerSettings,
    /// Allowed Prefect servers.
    pub prefect_servers: AllowedServers,
    /// The types of Services that bindings name as Prefect servers.
    pub service_types: ServiceTypes,
    /// Whether the API server has the admission policy for Jobs.
    pub admission_policy: AdmissionPolicy,
    /// Allowed hosts of Doppler's API.
    pub doppler_hosts: AllowedHosts,
    /// The identities whose tokens read configs.
    pub identities: Identities,
    /// Whether bindings may use a block's token for another config.
    pub block_overrides: BlockOverrides,
    /// Names that no Secret may have as a key.
    pub forbidden_names: ForbiddenNames,
    /// The `ClusterPrefectServer`s, and which binding depends on which of them.
    pub cluster_servers: Arc<ClusterServers>,
    /// The watches of the Secrets and ConfigMaps of `ClusterPrefectServer`s.
    pub referenced_objects: ReferencedObjects,
    /// Interned connections to Prefect servers.
    pub connections: Arc<ConnectionInterner>,
    /// Pollers of blocks.
    pub blocks: Blocks,
    /// Pollers of configs.
    pub configs: Configs,
    /// Workers of the work pools.
    pub pools: Pools,
    /// The flow runs that bindings serve.
    pub runs: Arc<RunRegistry>,
    /// The pods of flow runs that do not start. None unless the operator may read pods.
    pub run_pods: Option<Arc<RunPods>>,
    /// Cache of Secrets and ConfigMaps.
    pub objects: Arc<ObjectCache>,
    /// Cache of the values of referenced keys.
    pub key_refs: KeyRefs,
    /// Client for the workloads that restart.
    pub workloads: WorkloadClient,
    /// Client for Secrets.
    pub secrets: SecretClient,
    /// The installation's key for content hashes.
    pub hash_key: HashKey,
    /// State of the bindings between reconciles.
    pub states: Arc<BindingStates>,
    /// Reports outcomes.
    pub report: Report,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Keys of bindings that wait for a reconcile.
    pub queue: Arc<WorkQueue>,
    /// Namespace of the operator.
    pub operator_namespace: String,
    /// The bindings, one store per scope.
    pub bindings: Vec<Store<StoredBinding>>,
    /// How far the lists of each scope are.
    pub scopes: Vec<Arc<ScopeState>>,
}

impl Context {
    /// Drops everything that the operator holds for a deleted binding. What it left is cleaned up.
    pub fn forget(&self, binding: &BindingRef) {
        self.enqueue_orphans(binding);
        self.blocks.unsubscribe(binding);
        self.configs.unsubscribe(binding);
        self.pools.remove_binding(binding);
        self.runs.remove(binding);
        self.cluster_servers.leave(binding);
        self.objects.untrack(binding);
        if let Some(pods) = &self.run_pods {
            pods.untrack(binding);
        }
        self.states.remove(binding);
        self.report.forget(binding);
        self.key_refs
            .retain(|object| self.objects.is_tracked(object));
    }

    /// Enqueues the Secrets with a record of pool entries that a binding tracks, because the binding
    /// no longer exists.
    pub fn enqueue_orphans(&self, binding: &BindingRef) {
        for secret in self.objects.tracked_secrets_with_entries(binding) {
            self.queue
                .add(&BindingRef::orphan(binding.namespace(), &secret));
        }
    }

    /// The binding in the store of its scope.
    #[must_use]
    pub fn stored(&self, binding: &BindingRef) -> Option<Arc<StoredBinding>> {
        let key = ObjectRef::new(binding.name()).within(binding.namespace());
        self.bindings.iter().find_map(|store| store.get(&key))
    }

    /// Whether the caches show what exists in a namespace.
    #[must_use]
    pub fn is_listed(&self, namespace: &str) -> bool {
        let mut scopes = self.scopes.iter();
        scopes.any(|scope| scope.contains(namespace) && scope.progress().is_complete())
    }

    /// Why a namespace cannot be served.
    #[must_use]
    pub fn unavailable(&self, namespace: &str) -> Option<Unavailable> {
        let mut scopes = self.scopes.iter();
        scopes
            .find(|scope| scope.contains(namespace))
            .and_then(|scope| scope.progress().unavailable)
    }

    /// Whether a binding with this UID exists.
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

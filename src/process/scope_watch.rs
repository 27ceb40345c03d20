//! The watches of one scope, and when its bindings may be reconciled.
//!
//! Input: the API server's watches.
//! Output: keys in the work queue, and a signal once everything is listed.
//! Invariants: no key of the scope is queued before all Secrets and ConfigMaps of the scope are
//! listed. An earlier reconcile would try to create Secrets that exist.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use kube::{Client, runtime::reflector::Store};
use tokio::sync::watch as signal;
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{
        binding_state::BindingStates,
        object_cache::ObjectCache,
        scope::WatchScope,
        stored_binding::StoredBinding,
        watches::{BindingEvent, MetadataWatch, watch_bindings},
        work_queue::WorkQueue,
    },
    crd::BindingRef,
};

/// The watches of one scope.
pub(super) struct ScopeWatch {
    client: Client,
    scope: WatchScope,
    queue: Arc<WorkQueue>,
    states: Arc<BindingStates>,
    listed: signal::Sender<bool>,
}

impl ScopeWatch {
    /// The watches, and the signal that turns true once everything in the scope is listed.
    pub(super) fn new(
        client: Client,
        scope: WatchScope,
        queue: Arc<WorkQueue>,
        states: Arc<BindingStates>,
    ) -> (Self, signal::Receiver<bool>) {
        let (listed, all_listed) = signal::channel(false);
        let watches = Self {
            client,
            scope,
            queue,
            states,
            listed,
        };
        (watches, all_listed)
    }

    /// The store of bindings, and the task that watches until `shutdown`.
    pub(super) fn run(
        self,
        objects: &Arc<ObjectCache>,
        shutdown: CancellationToken,
    ) -> (
        Store<StoredBinding>,
        impl Future<Output = ()> + Send + use<>,
    ) {
        let Self {
            client,
            scope,
            queue,
            states,
            listed,
        } = self;
        let queued = Arc::new(AtomicBool::new(false));
        let on_event = {
            let (queue, states, queued) =
                (Arc::clone(&queue), Arc::clone(&states), Arc::clone(&queued));
            move |event: BindingEvent<'_>| match event {
                BindingEvent::Stored(binding) => states.observe_stored(binding),
                BindingEvent::SpecChanged(key) | BindingEvent::Deleted(key) => {
                    if queued.load(Ordering::Acquire) {
                        queue.add(&states.intern(key));
                    }
                }
            }
        };
        let (store, bindings) = watch_bindings(client.clone(), &scope, on_event, shutdown.clone());
        let metadata_watch = || {
            let (sender, receiver) = signal::channel(false);
            let watch = MetadataWatch {
                client: client.clone(),
                scope: scope.clone(),
                objects: Arc::clone(objects),
                listed: sender,
            };
            (watch, receiver)
        };
        let (secrets, mut secrets_listed) = metadata_watch();
        let (config_maps, mut config_maps_listed) = metadata_watch();
        let start = {
            let (store, shutdown) = (store.clone(), shutdown.clone());
            async move {
                let all_listed = async {
                    let _ = secrets_listed.wait_for(|listed| *listed).await;
                    let _ = config_maps_listed.wait_for(|listed| *listed).await;
                    // First the flag: an event between the two is queued twice at most.
                    queued.store(true, Ordering::Release);
                    for binding in store.state() {
                        queue.add(&states.intern(BindingRef::of(&*binding)));
                    }
                    let _ = store.wait_until_ready().await;
                    listed.send_replace(true);
                };
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = all_listed => {}
                }
            }
        };
        let watch = async move {
            tokio::join!(
                bindings,
                secrets.secrets(shutdown.clone()),
                config_maps.config_maps(shutdown),
                start,
            );
        };
        (store, watch)
    }
}

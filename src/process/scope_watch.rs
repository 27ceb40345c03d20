//! The watches of one scope, and when its bindings may be reconciled.
//!
//! Input: the API server's watches.
//! Output: keys in the work queue, and the state of the scope.
//! Invariants: no key of the scope is queued before all Secrets and ConfigMaps of the scope are
//! listed, or cannot be listed. An earlier reconcile would try to create Secrets that exist.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, runtime::reflector::Store};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{
        binding_state::BindingStates,
        object_cache::ObjectCache,
        run_pods::{RunPods, watch::RunPodWatch},
        scope_state::{ScopeState, Unavailable},
        stored_binding::StoredBinding,
        watches::{BindingEvent, MetadataWatch, watch_bindings},
        work_queue::WorkQueue,
    },
    crd::BindingRef,
};

/// Time limit of a read of a namespace.
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(20);

/// The watches of one scope.
pub(super) struct ScopeWatch {
    /// The API server.
    pub client: Client,
    /// The scope, and how far its lists are.
    pub state: Arc<ScopeState>,
    /// Gets the keys of the scope.
    pub queue: Arc<WorkQueue>,
    /// Shares the text of equal keys.
    pub states: Arc<BindingStates>,
    /// The pods to report. None unless the operator watches pods.
    pub run_pods: Option<Arc<RunPods>>,
}

impl ScopeWatch {
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
            state,
            queue,
            states,
            run_pods,
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
        let (store, bindings) = watch_bindings(
            client.clone(),
            Arc::clone(&state),
            on_event,
            shutdown.clone(),
        );
        let metadata_watch = || MetadataWatch {
            client: client.clone(),
            scope: Arc::clone(&state),
            objects: Arc::clone(objects),
        };
        let (secrets, config_maps) = (metadata_watch(), metadata_watch());
        let enqueue = {
            let (store, state) = (store.clone(), Arc::clone(&state));
            async move {
                let mut progress = state.subscribe();
                let mut before = (false, None);
                loop {
                    let now = *progress.borrow_and_update();
                    // Bindings are reconciled again when the scope can be served or no longer can.
                    let after = (now.is_complete(), now.unavailable);
                    if now.is_settled() && before != after {
                        before = after;
                        // First the flag: an event between the two is queued twice at most.
                        queued.store(true, Ordering::Release);
                        for binding in store.state() {
                            queue.add(&states.intern(BindingRef::of(&*binding)));
                        }
                    }
                    if progress.changed().await.is_err() {
                        return;
                    }
                }
            }
        };
        let pod_watch = run_pods.map(|pods| RunPodWatch {
            client: client.clone(),
            scope: Arc::clone(&state),
            bindings: store.clone(),
            pods,
        });
        let diagnosis = diagnose(client.clone(), state);
        let watch = async move {
            let pods = async {
                if let Some(pod_watch) = pod_watch {
                    pod_watch.run(shutdown.clone()).await;
                }
            };
            let until_shutdown = async {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    ((), ()) = async { tokio::join!(enqueue, diagnosis) } => {}
                }
            };
            tokio::join!(
                bindings,
                secrets.secrets(shutdown.clone()),
                config_maps.config_maps(shutdown.clone()),
                pods,
                until_shutdown,
            );
        };
        (store, watch)
    }
}

/// Finds out why lists are refused: reads the namespace after each refusal.
async fn diagnose(client: Client, state: Arc<ScopeState>) {
    let Some(namespace) = state.namespace() else {
        return;
    };
    let api: Api<Namespace> = Api::all(client);
    let mut progress = state.subscribe();
    let mut seen = 0;
    loop {
        seen = match progress.wait_for(|now| now.refusals != seen).await {
            Ok(now) => now.refusals,
            Err(_) => return,
        };
        let answer = timeout(NAMESPACE_TIMEOUT, api.get_metadata(namespace)).await;
        if let Ok(answer) = answer
            && let Some(why) = Unavailable::of(&answer)
        {
            state.on_unavailable(why);
        }
    }
}

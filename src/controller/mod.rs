//! The controller: what wakes a binding, and what is done then.
//!
//! In: watches, and wakes from sources and pools. Out: reconciles. In reading order: [`wake`] and [`watch`] (what wakes a binding), [`kept`] (as what it waits), [`reconcile`]
//! (the line), which reads as [`follow`] (block and config; [`reach`] is how, [`followed`] how far), [`put`] (the Secret), [`claims`] (the pools), `sync` (the Secret and its condition), `obsolete` (what is no longer asked for), [`record`] (the status); [`back`] (the
//! way back); and what they need: [`context`], [`objects`], [`references`], [`note`], [`memory`], [`managed`].

pub mod apply_secret;
pub mod binding_state;
pub mod cleanup;
pub mod connect;
pub mod context;
pub mod finalizer;
pub mod injection;
pub mod key_refs;
pub mod object_cache;
pub mod patch_status;
pub mod prefect_work_pools;
mod prune;
pub mod reconcile;
pub mod requeue;
pub mod resolution;
pub mod resolve;
mod secret;
pub mod stored_binding;
pub mod watches;
pub mod work_queue;

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use kube::runtime::{
    applier,
    controller::{Action, Config, Error, ReconcileRequest},
    reflector::{ObjectRef, Store},
};
use tokio_util::sync::CancellationToken;

use context::Context;
use reconcile::{ShuttingDown, reconcile};
use stored_binding::StoredBinding;
use work_queue::{BindingRef, WorkQueue};

/// Reconciles the bindings of a scope, as they come in its queue, until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    store: Store<StoredBinding>,
    queue: Arc<WorkQueue>,
    concurrency: u16,
    shutdown: CancellationToken,
) {
    let woken = stream::unfold(queue, |queue| async move {
        let who = queue.get().await;
        let object = ObjectRef::<StoredBinding>::new(who.name()).within(who.namespace());
        Some((Ok::<_, Infallible>(ReconcileRequest::from(object)), queue))
    });
    let config = Config::default().concurrency(concurrency);
    applier(
        |binding, context| Box::pin(reconcile(binding, context)),
        on_ending,
        Arc::clone(&context),
        store,
        woken.take_until(shutdown.cancelled_owned()),
        config,
    )
    .for_each(|done| {
        // One that is not there begins no reconcile.
        if let Err(Error::ObjectNotFound(object)) = done {
            let namespace = object.namespace.unwrap_or_default();
            context
                .queues
                .done(&BindingRef::new(&namespace, &object.name));
        }
        std::future::ready(())
    })
    .await;
}

fn on_ending(
    _binding: Arc<StoredBinding>,
    _error: &ShuttingDown,
    _context: Arc<Context>,
) -> Action {
    Action::requeue(Duration::from_mins(1))
}

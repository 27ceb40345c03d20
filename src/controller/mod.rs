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
pub mod scope;
mod secret;
pub mod stored_binding;
pub mod watches;
pub mod work_queue;

use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use context::Context;
use reconcile::reconcile;

/// Takes keys from the work queue and reconciles them, `concurrency` at a time, until `shutdown`. Reconciles that run then are finished.
pub async fn run(context: Arc<Context>, concurrency: usize, shutdown: CancellationToken) {
    let mut reconciles = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            key = context.queue.get(), if reconciles.len() < concurrency => {
                let context = &context;
                reconciles.push(Box::pin(async move {
                    let requeue_after = reconcile(context, &key).await;
                    (key, requeue_after)
                }));
            }
            Some((key, requeue_after)) = reconciles.next() => context.queue.done(&key, requeue_after),
        }
    }
    while reconciles.next().await.is_some() {}
}

//! The controller. Watches and pollers enqueue binding keys in one work queue for all scopes, and
//! [`run`] reconciles them. Start at [`reconcile`].
//!
//! Input: keys from the work queue.
//! Output: reconciles, up to `--concurrency` at a time.
//! Invariants: data runs one way, binding → block → config → Secret → injection → status, and so do
//! the modules: [`resolve`] and [`resolution`], [`secret`], [`apply_secret`] and [`files_secret`], [`injection`],
//! [`entry_record`], [`finalizer`], [`prune`], [`refresh`], [`patch_status`]; [`cleanup`] runs in reverse order, also for an [`orphan`].
//! Each takes a [`pass`]. [`work_queue`] and [`watches`] say what enqueues a binding. [`context`],
//! [`binding_state`], [`recorded_entries`], [`object_cache`], [`key_refs`], [`cluster_servers`], [`run_pods`], [`admission_policy`] and [`stored_binding`] hold what a pass reads.

pub mod admission_policy;
pub mod apply_secret;
pub mod binding_state;
pub mod cleanup;
mod cluster_server_status;
pub mod cluster_servers;
pub mod config_sources;
pub mod connect;
pub mod context;
pub mod credential;
mod delete_secret;
mod entry_record;
mod files_secret;
pub mod finalizer;
pub mod finalizer_error;
pub mod injection;
pub mod key_refs;
mod loss_guard;
pub mod object_cache;
mod orphan;
pub mod pass;
pub mod patch_status;
pub mod prefect_server;
pub mod prefect_work_pools;
mod prune;
pub mod reconcile;
pub mod recorded_entries;
pub mod recorded_orphan;
mod refresh;
pub mod repair_backoff;
pub mod requeue;
pub mod resolution;
pub mod resolve;
pub mod restart_state;
pub mod restarts;
pub mod run_pods;
pub mod scope;
pub mod scope_state;
mod secret;
mod served_runs;
pub mod service_types;
pub mod stored_binding;
pub mod watches;
pub mod work_queue;

use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use context::Context;
use reconcile::reconcile;

/// Takes keys from the work queue and reconciles them, `concurrency` at a time, until `shutdown`.
/// Running reconciles are finished.
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

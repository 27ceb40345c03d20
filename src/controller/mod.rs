//! The controller: what wakes a binding, and what is done then.
//!
//! In: watches, and wakes from sources and pools. Out: reconciles. In reading order: [`wake`] and [`watch`] (what wakes a binding), [`kept`] (as what it waits), [`reconcile`]
//! (the line), which reads as [`follow`] (block and config; [`reach`] is how, [`followed`] how far), [`put`] (the Secret), [`claims`] (the pools), `sync` (the Secret and its condition), `obsolete` (what is no longer asked for), [`record`] (the status); [`back`] (the
//! way back); and what they need: [`context`], [`objects`], [`references`], [`note`], [`memory`], [`managed`].

pub mod back;
pub mod claims;
pub mod clock;
pub mod context;
pub mod follow;
pub mod followed;
pub mod kept;
pub mod managed;
pub mod memory;
pub mod note;
pub mod objects;
mod obsolete;
pub mod put;
pub mod reach;
pub mod reconcile;
pub mod record;
pub mod references;
mod sync;
pub mod wake;
pub mod watch;

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use kube::runtime::{
    Controller,
    controller::{Action, Config},
    reflector::{ObjectRef, Store},
    watcher,
};
use tokio_util::sync::CancellationToken;

use context::Context;
use kept::Kept;
use reconcile::{Ending, reconcile};
use wake::BindingRef;

/// Reconciles the bindings of a scope until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    store: Store<Kept>,
    changed: impl Stream<Item = Result<Kept, watcher::Error>> + Send + 'static,
    woken: impl Stream<Item = BindingRef> + Send + 'static,
    concurrency: u16,
    shutdown: CancellationToken,
) {
    Controller::for_stream(changed, store)
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(woken.map(|who| ObjectRef::new(who.name()).within(who.namespace())))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, on_ending, context)
        .for_each(|_| std::future::ready(()))
        .await;
}

fn on_ending(_binding: Arc<Kept>, _error: &Ending, _context: Arc<Context>) -> Action {
    Action::requeue(Duration::from_mins(1))
}

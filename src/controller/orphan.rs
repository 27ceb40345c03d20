//! What a binding left that was deleted without its finalizer: a Secret, and pool entries that name
//! it.
//!
//! Input: a Secret with a record of entries, of a binding that no longer exists.
//! Output: the same cleanup as for a binding that is being deleted.
//! Invariants: nothing is removed before the API server has said that the binding does not exist. A
//! new binding of the same name that names the same Secret takes over both, and nothing is removed.

use std::time::Duration;

use futures::FutureExt;
use kube::{Api, Resource};
use tokio::time::{Instant, timeout};

use super::{
    cleanup::clean_orphan,
    context::Context,
    object_cache::{ObjectKey, ReferenceKind},
    pass::Pass,
    recorded_orphan::Orphan,
};
use crate::{
    crd::{BindingRef, DopplerPrefectBinding},
    reason::Reason,
};

/// Wait while the bindings are not listed yet.
const LIST_INTERVAL: Duration = Duration::from_secs(1);
/// How long an orphan waits for the list. After that, the API server is asked for its binding alone.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait while the binding may still exist.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Who is responsible for a Secret with a record of entries.
#[derive(Debug, PartialEq, Eq)]
enum Responsible {
    /// Its own binding, which may be about to go.
    Binding { is_deleted: bool },
    /// A new binding of the same name, which takes it over.
    Successor,
    /// No binding.
    NoBinding,
}

/// Cleans up after the binding of a Secret, if that no longer exists. Returns the wait before the
/// next attempt.
pub async fn reconcile_orphan(
    context: &Context,
    key: &BindingRef,
    secret: &str,
) -> Option<Duration> {
    let object = ObjectKey {
        kind: ReferenceKind::Secret,
        namespace: key.namespace().to_owned(),
        name: secret.to_owned(),
    };
    let cached = context.objects.get(&object);
    // A Secret that is deleted meanwhile leaves its entries in the pools.
    let known = context.states.read(key, |state| state.orphan.clone());
    let observed = cached.and_then(|cached| Orphan::of(&cached.observed));
    let Some(orphan) = observed.or_else(|| known.clone().map(|known| *known)) else {
        context.forget(key);
        return None;
    };
    if !is_listed(context, key) {
        return Some(LIST_INTERVAL);
    }
    let binding_key = BindingRef::new(key.namespace(), &orphan.binding);
    match responsible(context, &binding_key, &orphan, secret) {
        Responsible::Binding { is_deleted } => {
            let is_new = secret != orphan.binding
                && context.states.update(&binding_key, |state| {
                    state.recorded_secrets.insert(secret.to_owned())
                });
            if is_new {
                context.queue.add(&binding_key);
            }
            if is_deleted {
                // The watch may still have a binding that has given its entries up.
                return Some(RETRY_INTERVAL);
            }
            context.forget(key);
            return None;
        }
        Responsible::Successor => {
            context.forget(key);
            return None;
        }
        Responsible::NoBinding => {}
    }
    if exists(context, &binding_key, &orphan.uid).await != Some(false) {
        return Some(RETRY_INTERVAL);
    }
    let binding = orphan.deleted_binding(key.namespace(), secret);
    context.states.retain_uid(key, &orphan.uid);
    if known.is_none() {
        let message = format!(
            "binding {} was deleted without its finalizer: the operator removes its entries from the work pools, and then its Secret {secret}",
            orphan.binding
        );
        context.report.log(&binding, Reason::Deleting, &message);
    }
    context.states.update(key, |state| {
        state.injected_entries.extend(orphan.record.entries());
        state.orphan = Some(Box::new(orphan.clone()));
    });
    let mut pass = Pass::new(context, key, &binding, None);
    pass.entries.recorded.add_servers(orphan.record);
    if clean_orphan(&mut pass).await {
        context.forget(key);
        return None;
    }
    pass.requeue.wait()
}

/// Whether all bindings are listed. One namespace that cannot be listed does not stop the others.
fn is_listed(context: &Context, key: &BindingRef) -> bool {
    let mut stores = context.bindings.iter();
    if stores.all(|store| store.wait_until_ready().now_or_never().is_some()) {
        return true;
    }
    let since = context.states.update(key, |state| {
        *state.waiting_since.get_or_insert_with(Instant::now)
    });
    since.elapsed() > LIST_TIMEOUT
}

fn responsible(
    context: &Context,
    binding: &BindingRef,
    orphan: &Orphan,
    secret: &str,
) -> Responsible {
    let Some(stored) = context.stored(binding) else {
        return Responsible::NoBinding;
    };
    let meta = stored.meta();
    if meta.uid.as_deref() == Some(&orphan.uid) {
        let is_deleted = meta.deletion_timestamp.is_some();
        return Responsible::Binding { is_deleted };
    }
    let takes_over = meta.deletion_timestamp.is_none()
        && !orphan.record.retain
        && stored.parsable_part().secret_name() == secret;
    if takes_over {
        Responsible::Successor
    } else {
        Responsible::NoBinding
    }
}

/// Whether the API server has the binding of this UID. None if it does not say so.
async fn exists(context: &Context, binding: &BindingRef, uid: &str) -> Option<bool> {
    let api: Api<DopplerPrefectBinding> =
        Api::namespaced(context.client.clone(), binding.namespace());
    let metadata = api.get_metadata_opt(binding.name());
    match timeout(context.settings.kubernetes_timeout, metadata).await {
        Ok(Ok(found)) => {
            Some(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(uid)))
        }
        Ok(Err(_)) | Err(_) => None,
    }
}

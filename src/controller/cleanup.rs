//! Cleans up after a binding that is being deleted: removes the entries from the pools, waits until
//! workers have reloaded the templates, deletes the Secret, and removes the finalizer.
//!
//! Input: a binding with a deletion timestamp.
//! Output: these steps, from where an earlier pass stopped.
//! Invariants: an unreachable Prefect server does not block the deletion for ever. After the timeout
//! the Secret stays, because a run with old values is better than a run that cannot start.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::time::{Instant, timeout};

use super::{
    delete_secret::delete_secret,
    finalizer::remove_finalizer,
    injection::{self, Withdrawal},
    pass::Pass,
    resolve::connect,
};
use crate::{
    crd::{DeletionPolicy, injected::has_finalizer},
    reason::Reason,
};

/// Wait before a step that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Wait while the namespace cannot be listed, before the operator looks at it again.
const UNLISTED_INTERVAL: Duration = Duration::from_mins(1);
/// The shortest wait for the first result of a pool, which also enqueues the binding.
const FIRST_ATTEMPT: Duration = Duration::from_millis(200);

/// Does the next steps of the cleanup.
pub async fn cleanup(pass: &mut Pass<'_>) {
    let (context, binding) = (pass.context, pass.binding);
    if !has_finalizer(binding) {
        // No entry is recorded: garbage collection deletes the Secret.
        return;
    }
    context.blocks.unsubscribe(pass.key);
    context.configs.unsubscribe(pass.key);
    let terminating = namespace_is_terminating(pass).await;
    if !terminating && !context.is_listed(pass.key.namespace()) {
        // The operator would neither find the Secret nor the credentials. A list enqueues the binding.
        return pass.requeue.after(UNLISTED_INTERVAL);
    }
    let connection = match &binding.spec.prefect {
        Some(prefect) => connect(pass, prefect).await.ok(),
        None => None,
    };
    if let Withdrawal::Pending(pending) = injection::withdraw_all(pass, connection.as_ref()) {
        let timeout = context.settings.release_timeout;
        let remaining = timeout.saturating_sub(since_first_attempt(pass));
        if !remaining.is_zero() || !pending.was_attempted() {
            return pass
                .requeue
                .after(remaining.clamp(FIRST_ATTEMPT, RETRY_INTERVAL));
        }
        report_abandoned(pass, &pending, terminating);
        return remove_finalizer(pass).await;
    }
    if !terminating {
        let deletes = binding.spec.managed_secret.deletion_policy == DeletionPolicy::Delete;
        let wait = injection::remaining_wait(pass);
        if deletes && !wait.is_zero() {
            return pass.requeue.after(wait);
        }
        let entries = pass.entries.recorded.iter();
        let names: BTreeSet<&str> = entries
            .map(|entry| entry.secret.as_str())
            .chain([binding.secret_name()])
            .collect();
        for name in names {
            if delete_secret(pass, name).await.is_err() {
                return pass.requeue.after(RETRY_INTERVAL);
            }
        }
        injection::report_removed(pass);
    }
    remove_finalizer(pass).await;
}

/// How long this process has tried to clean up. The deletion may be much older, if no operator ran
/// meanwhile or the wall clock jumped.
fn since_first_attempt(pass: &Pass<'_>) -> Duration {
    let since = pass.update_state(|state| *state.cleanup_since.get_or_insert_with(Instant::now));
    since.elapsed()
}

/// Reports an entry that stays behind. A terminating namespace accepts no Event.
fn report_abandoned(pass: &Pass<'_>, pending: &injection::PendingRemoval, terminating: bool) {
    let message = format!(
        "the binding is deleted although {}",
        pending.abandoned_message(terminating)
    );
    pass.context.metrics.cleanups_abandoned.inc();
    let report = &pass.context.report;
    if terminating {
        report.log(pass.binding, Reason::CleanupAbandoned, &message);
    } else {
        report.emit(pass.binding, Reason::CleanupAbandoned, &message);
    }
}

/// Whether the namespace is being deleted: then nothing is written into it. False if the API server
/// does not say so.
async fn namespace_is_terminating(pass: &Pass<'_>) -> bool {
    let context = pass.context;
    let api: Api<Namespace> = Api::all(context.client.clone());
    let namespace = api.get_metadata(pass.key.namespace());
    let namespace = timeout(context.settings.kubernetes_timeout, namespace).await;
    matches!(namespace, Ok(Ok(namespace)) if namespace.metadata.deletion_timestamp.is_some())
}

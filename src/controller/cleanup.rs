//! Cleans up after a binding that is being deleted: removes the entries from the pools, waits until
//! workers have reloaded the templates, deletes the Secret, and removes the finalizer.
//!
//! Input: a binding with a deletion timestamp.
//! Output: these steps, from where an earlier pass stopped.
//! Invariants: an unreachable Prefect server does not block the deletion for ever. After the timeout
//! the Secret stays, because a run with old values is better than a run that cannot start.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{Api, Resource};
use tokio::time::timeout;

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
    let connection = match &binding.spec.prefect {
        Some(prefect) => connect(pass, prefect).await.ok(),
        None => None,
    };
    if let Withdrawal::Pending(pending) = injection::withdraw_all(pass, connection.as_ref()) {
        let timeout = context.settings.release_timeout;
        let remaining = timeout.saturating_sub(since_deletion(pass));
        if !remaining.is_zero() {
            return pass.requeue.after(remaining.min(RETRY_INTERVAL));
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

fn since_deletion(pass: &Pass<'_>) -> Duration {
    let Some(at) = &pass.binding.meta().deletion_timestamp else {
        return Duration::ZERO;
    };
    let passed = Timestamp::now().duration_since(at.0);
    Duration::try_from(passed).unwrap_or_default()
}

/// Reports an entry that stays behind. A terminating namespace accepts no Event.
fn report_abandoned(pass: &Pass<'_>, pending: &injection::PendingRemoval, terminating: bool) {
    let message = format!(
        "the binding is deleted although {}",
        pending.abandoned_message()
    );
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

//! Cleans up after a binding that is being deleted: removes the entries from the pools, waits until
//! workers have reloaded the templates, deletes the Secret, and removes the finalizer.
//!
//! Input: a binding with a deletion timestamp, or what a deleted binding left ([`super::orphan`]).
//! Output: these steps, from where an earlier pass stopped, and a status that says what the deletion
//! waits for.
//! Invariants: an unreachable Prefect server does not block the deletion for ever. After the timeout
//! the Secret stays, because a run with old values is better than a run that cannot start.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::time::{Instant, timeout};

use super::{
    delete_secret::delete_secret,
    files_secret::files_secret_names,
    finalizer,
    injection::{self, PendingRemoval, Withdrawal},
    pass::Pass,
    patch_status,
    resolve::{connect, server_of, track_objects},
};
use crate::{
    crd::DeletionPolicy,
    reason::Reason,
    status::{ConditionUpdate, INJECTED, Outcome},
};

/// Wait before a step that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Wait while the namespace cannot be listed, before the operator looks at it again.
const UNLISTED_INTERVAL: Duration = Duration::from_mins(1);
/// The shortest wait for the first result of a pool, which also enqueues the binding.
const FIRST_ATTEMPT: Duration = Duration::from_millis(200);
/// Wait before the entries of a binding that no longer exists are tried again.
const ORPHAN_INTERVAL: Duration = Duration::from_mins(1);

/// Does the next steps of the cleanup.
pub async fn cleanup(pass: &mut Pass<'_>) {
    let context = pass.context;
    if !pass.has_finalizer() && pass.entries.recorded.entries.is_empty() {
        // No entry is recorded: garbage collection deletes the Secret.
        return;
    }
    context.blocks.unsubscribe(pass.key);
    context.configs.unsubscribe(pass.key);
    context.runs.remove(pass.key);
    let server = server_of(pass).ok().flatten();
    track_objects(pass, server.as_ref());
    let terminating = namespace_is_terminating(pass).await;
    if !terminating && !context.is_listed(pass.key.namespace()) {
        // The operator would neither find the Secret nor the credentials. A list enqueues the binding.
        return pass.requeue.after(UNLISTED_INTERVAL);
    }
    match withdraw_all(pass, terminating).await {
        Withdrawal::Pending(pending) if pending.in_use().is_some() => {
            report_in_use(pass, &pending).await;
            return pass.requeue.after(RETRY_INTERVAL);
        }
        Withdrawal::Pending(pending) => {
            let remaining = remaining_time(pass);
            if !remaining.is_zero() || !pending.was_attempted() {
                let message = format!(
                    "the binding is being deleted: {}; {} after its first attempt the operator gives up, and leaves the entry and the Secret",
                    pending.waiting_message(),
                    seconds(context.settings.release_timeout)
                );
                report_deleting(pass, message).await;
                let wait = remaining.clamp(FIRST_ATTEMPT, RETRY_INTERVAL);
                return pass.requeue.after(wait);
            }
            report_abandoned(pass, &pending, terminating);
        }
        Withdrawal::Done if !terminating => {
            if !delete_secrets(pass).await {
                return;
            }
        }
        Withdrawal::Done => {}
    }
    if finalizer::remove(pass).await {
        context.forget(pass.key);
    } else if let Some(failure) = pass.finalizer_failure.take() {
        let message = format!("the binding is being deleted: {failure}");
        report_deleting(pass, message).await;
    }
}

/// Does the next steps for what a binding left that no longer exists. It never gives up, because
/// nothing waits for it. Returns whether all is done.
pub async fn clean_orphan(pass: &mut Pass<'_>) -> bool {
    let terminating = namespace_is_terminating(pass).await;
    match withdraw_all(pass, terminating).await {
        Withdrawal::Pending(pending) if pending.in_use().is_some() => {
            restart_timeout(pass);
            pass.requeue.after(RETRY_INTERVAL);
            false
        }
        Withdrawal::Pending(pending) => {
            let remaining = remaining_time(pass);
            if remaining.is_zero() && pending.was_attempted() {
                if pass.update_state(|state| !std::mem::replace(&mut state.abandoned, true)) {
                    report_abandoned(pass, &pending, terminating);
                }
                pass.requeue.after(ORPHAN_INTERVAL);
            } else {
                let wait = remaining.clamp(FIRST_ATTEMPT, RETRY_INTERVAL);
                pass.requeue.after(wait);
            }
            false
        }
        Withdrawal::Done => terminating || delete_secrets(pass).await,
    }
}

/// Removes all entries from their pools. In a terminating namespace no run can start.
async fn withdraw_all(pass: &mut Pass<'_>, terminating: bool) -> Withdrawal {
    let connection = match server_of(pass) {
        Ok(Some(server)) => connect(pass, &server).await.ok(),
        Ok(None) | Err(_) => None,
    };
    injection::connect_recorded(pass, connection.as_ref()).await;
    injection::withdraw_all(pass, connection.as_ref(), terminating)
}

/// The server answers, and only deployments that choose the Secret keep its name. The timeout of an
/// unreachable server begins after that.
fn restart_timeout(pass: &Pass<'_>) {
    pass.update_state(|state| state.cleanup_since = None);
}

/// Writes a status that says which deployments the deletion waits for.
async fn report_in_use(pass: &mut Pass<'_>, pending: &PendingRemoval) {
    restart_timeout(pass);
    let message = format!(
        "the binding is being deleted: {}",
        pending.in_use_message(pass)
    );
    report_deleting_with(pass, message, pending.in_use()).await;
}

/// Deletes the Secrets once the workers have reloaded the templates. Returns whether all are gone.
async fn delete_secrets(pass: &mut Pass<'_>) -> bool {
    let wait = injection::remaining_wait(pass);
    let entries = pass.entries.recorded.entries.iter();
    let names: BTreeSet<String> = entries
        .map(|entry| entry.secret.clone())
        .chain([pass.binding.secret_name().to_owned()])
        .chain(files_secret_names(pass))
        .collect();
    let deletes = |name: &String| pass.deletion_policy(name) == DeletionPolicy::Delete;
    if !wait.is_zero() && names.iter().any(deletes) {
        let release_wait = seconds(pass.context.settings.release_wait);
        let message = format!(
            "the binding is being deleted: no work pool has its entry any more, and the Secret is deleted {release_wait} after the last entry, when all workers have reloaded the template"
        );
        report_deleting(pass, message).await;
        pass.requeue.after(wait);
        return false;
    }
    for name in names {
        if let Err(error) = delete_secret(pass, &name).await {
            let message =
                format!("the binding is being deleted: Secret {name} cannot be deleted: {error}");
            report_deleting(pass, message).await;
            pass.requeue.after(RETRY_INTERVAL);
            return false;
        }
    }
    injection::report_removed(pass);
    true
}

/// The time until the operator gives up, from the first attempt of this process. The deletion may be
/// much older, if no operator ran meanwhile or the wall clock jumped.
fn remaining_time(pass: &Pass<'_>) -> Duration {
    let since = pass.update_state(|state| *state.cleanup_since.get_or_insert_with(Instant::now));
    let timeout = pass.context.settings.release_timeout;
    timeout.saturating_sub(since.elapsed())
}

/// Writes a status that says what the deletion waits for. A binding that no longer exists has none.
async fn report_deleting(pass: &mut Pass<'_>, message: String) {
    report_deleting_with(pass, message, None).await;
}

/// As [`report_deleting`], with a pool and the deployments that choose the Secret in it.
async fn report_deleting_with(
    pass: &mut Pass<'_>,
    message: String,
    in_use: Option<(&str, &[String])>,
) {
    if pass.key.orphaned_secret().is_some() {
        return;
    }
    let status = pass.last_status();
    let mut pools = status.map(|status| status.work_pools.clone());
    let mut named = pools.iter_mut().flatten();
    if let Some((name, used_by)) = in_use
        && let Some(pool) = named.find(|pool| pool.name == name)
    {
        pool.used_by = used_by.to_vec();
    }
    let prefect_version = status.and_then(|status| status.prefect_version.clone());
    let was_injected = status.is_some_and(|status| {
        let mut conditions = status.conditions.iter();
        conditions.any(|condition| condition.type_ == INJECTED)
    });
    let injected = was_injected.then(|| ConditionUpdate::False(Reason::Deleting, message.clone()));
    let outcome = Outcome {
        block: ConditionUpdate::Unchanged,
        secret: ConditionUpdate::Unchanged,
        injected,
        restarted: None,
        suspended: false,
        resolved: None,
        secret_name: pass.binding.secret_name().to_owned(),
        job_secret: injection::recorded_job_secret(pass),
        job_files: injection::recorded_job_files(pass),
        content: None,
        prefect_version,
        refreshed: None,
        pools: pools.unwrap_or_default(),
        entries: pass.entries.recorded.entries.iter().cloned().collect(),
        deleting: Some(message),
    };
    patch_status::patch(pass, &outcome).await;
}

/// Reports an entry that stays behind. A terminating namespace accepts no Event.
fn report_abandoned(pass: &Pass<'_>, pending: &PendingRemoval, terminating: bool) {
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

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

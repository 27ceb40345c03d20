//! Reconciles one binding: binding → block → config → Secret → injection → status.
//!
//! Input: a binding from the work queue.
//! Output: writes where something differs, the status, and when to reconcile again.
//! Invariants: pollers and the workers of the pools read the upstreams, this module does not. It
//! lists nothing, and at rest it only compares.

use std::{sync::Arc, time::Duration};

use kube::Resource;
use tokio::time::Instant;

use super::{
    cleanup::cleanup,
    cluster_server_status::reconcile_server,
    context::Context,
    entry_record, finalizer,
    injection::{self, FIRST_READ_WAIT, Injection, PROGRESS_WAIT},
    orphan::reconcile_orphan,
    pass::Pass,
    patch_status,
    prune::delete_renamed_secret,
    refresh,
    resolution::LastGood,
    resolve::resolve,
    restarts,
    scope_state::Unavailable,
    secret::{desired_secret, reconcile_secret},
    served_runs,
};
use crate::{
    crd::BindingRef,
    prefect::Connection,
    reason::Reason,
    status::{BLOCK_RESOLVED, ConditionUpdate, Outcome},
};

/// Brings everything of one binding to its desired state. Returns the wait before the next
/// reconcile, unless an event enqueues the binding earlier.
pub async fn reconcile(context: &Context, key: &BindingRef) -> Option<Duration> {
    if let Some(secret) = key.orphaned_secret() {
        return reconcile_orphan(context, key, secret).await;
    }
    if let Some(server) = key.cluster_server_name() {
        return reconcile_server(context, key, server).await;
    }
    let read = context
        .states
        .with_written_status(key, || context.stored(key));
    let Some((binding, written_status)) = read else {
        context.forget(key);
        return None;
    };
    let started = Instant::now();
    let parsed = binding.parse();
    let is_valid = parsed.is_ok();
    let binding = parsed.unwrap_or_else(|_| binding.parsable_part());
    let uid = binding.meta().uid.as_deref().unwrap_or_default();
    if context.states.retain_uid(key, uid) {
        // An earlier binding of the same name was deleted.
        context.enqueue_orphans(key);
    }
    let pass = Pass::new(context, key, &binding, written_status);
    let requeue_after = reconcile_binding(pass, is_valid).await;
    context.metrics.reconciles.inc();
    let seconds = started.elapsed().as_secs_f64();
    context.metrics.reconcile_seconds.observe(seconds);
    requeue_after
}

async fn reconcile_binding(mut pass: Pass<'_>, is_valid: bool) -> Option<Duration> {
    if pass.binding.meta().deletion_timestamp.is_some() {
        // The cleanup does not need the whole spec.
        cleanup(&mut pass).await;
        return pass.requeue.wait();
    }
    if !pass.context.is_listed(pass.key.namespace()) {
        report_unlisted(&mut pass).await;
        return pass.requeue.wait();
    }
    // A client that replaces the whole binding drops the finalizer.
    finalizer::ensure(&mut pass).await;
    if !is_valid {
        let wait = patch_status::report_invalid(&pass).await;
        pass.requeue.after(wait);
    } else if pass.binding.spec.suspend {
        suspend(&mut pass).await;
    } else {
        advance(&mut pass).await;
    }
    pass.requeue.wait()
}

/// From the spec to the status, through the Secret and its injection.
async fn advance(pass: &mut Pass<'_>) {
    let resolution = resolve(pass).await;
    served_runs::declare(pass, &resolution);
    if let Some(pods) = &pass.context.run_pods {
        pods.track(pass.key, pass.binding.secret_name());
    }
    refresh::demand(pass);
    if resolution.waits_for_first_answer() {
        // The answer enqueues the binding.
        return;
    }
    pass.requeue.after(resolution.requeue.wait());
    let values = resolution.last_good.as_ref();
    let desired = values.map(|values| desired_secret(pass, values));
    let newest = desired.as_ref().and_then(|desired| desired.as_ref().ok());
    let mut injection = Injection::observe(pass, &resolution, newest);
    if desired.is_some() && !pass.secret_exists() && injection.awaits_first_read(pass) {
        return pass.requeue.after(FIRST_READ_WAIT);
    }
    injection::connect_recorded(pass, resolution.connection.as_ref()).await;
    injection.withdraw_stale(pass);
    entry_record::inherit(pass);
    let restart_hash = restarts::wanted_hash(pass, newest);
    let secret = reconcile_secret(pass, &resolution, desired).await;
    served_runs::declare_content(pass, secret.content.as_ref());
    entry_record::write(pass).await;
    finalizer::ensure(pass).await;
    delete_renamed_secret(pass).await;
    injection.ensure(pass).await;
    let synced = matches!(secret.condition, ConditionUpdate::True(..));
    if synced && injection.is_in_progress(pass) {
        return pass.requeue.after(PROGRESS_WAIT);
    }
    let (injected, pools) = injection.condition(pass);
    let restarted = restarts::ensure(pass, restart_hash, &secret).await;
    let refreshed = refresh::answer(pass, &resolution, &secret);
    let outcome = Outcome {
        block: resolution.block_condition(pass.was_true(BLOCK_RESOLVED)),
        secret: secret.condition,
        injected,
        restarted,
        suspended: false,
        resolved: values.map(LastGood::resolved),
        secret_name: pass.binding.secret_name().to_owned(),
        job_secret: injection::job_secret(pass),
        job_files: injection::job_files(pass),
        content: secret.content,
        prefect_version: prefect_version(pass, resolution.connection.as_ref()),
        refreshed,
        pools,
        entries: pass.entries.required.iter().cloned().collect(),
        deleting: None,
    };
    patch_status::patch(pass, &outcome).await;
    finalizer::release(pass).await;
}

/// Reports a binding of a namespace that cannot be listed. Nothing is read or written for it, because
/// the caches do not show what exists there.
async fn report_unlisted(pass: &mut Pass<'_>) {
    let namespace = pass.key.namespace();
    let (reason, message) = match pass.context.unavailable(namespace) {
        Some(Unavailable::Terminating) => (
            Reason::NamespaceTerminating,
            format!("namespace {namespace} is being deleted"),
        ),
        // The namespace exists again: the lists that follow enqueue the binding.
        Some(Unavailable::Gone) | None => return,
        Some(Unavailable::Forbidden) => (
            Reason::NamespaceForbidden,
            format!(
                "the operator may not list the Secrets or ConfigMaps of namespace {namespace}: create the chart's Role there again with helm upgrade"
            ),
        ),
    };
    let (injected, pools) = injection::suspend(pass);
    let outcome = Outcome {
        block: if pass.was_true(BLOCK_RESOLVED) {
            ConditionUpdate::Unchanged
        } else {
            ConditionUpdate::Unknown(reason, message.clone())
        },
        secret: ConditionUpdate::False(reason, message),
        injected,
        restarted: restarts::unchanged(pass),
        suspended: false,
        resolved: None,
        secret_name: pass.binding.secret_name().to_owned(),
        job_secret: injection::recorded_job_secret(pass),
        job_files: injection::recorded_job_files(pass),
        content: None,
        prefect_version: prefect_version(pass, None),
        refreshed: None,
        pools,
        entries: pass.entries.recorded.entries.iter().cloned().collect(),
        deleting: None,
    };
    patch_status::patch(pass, &outcome).await;
}

/// The version of the Prefect server: the one that was read, or else that of the last status.
fn prefect_version(pass: &Pass<'_>, connection: Option<&Arc<Connection>>) -> Option<String> {
    pass.binding.spec.prefect.as_ref()?;
    let read = connection.and_then(|connection| pass.context.connections.version(connection));
    let last = || pass.last_status()?.prefect_version.clone();
    read.map(|version| version.to_string()).or_else(last)
}

/// Stops all reads for the binding. The Secret and its injection stay as they are.
async fn suspend(pass: &mut Pass<'_>) {
    pass.context.blocks.unsubscribe(pass.key);
    pass.context.configs.unsubscribe(pass.key);
    pass.context.runs.remove(pass.key);
    let (injected, pools) = injection::suspend(pass);
    let outcome = Outcome {
        block: ConditionUpdate::Unchanged,
        secret: ConditionUpdate::Unchanged,
        injected,
        restarted: restarts::unchanged(pass),
        suspended: true,
        resolved: None,
        secret_name: pass.binding.secret_name().to_owned(),
        job_secret: injection::recorded_job_secret(pass),
        job_files: injection::recorded_job_files(pass),
        content: None,
        prefect_version: prefect_version(pass, None),
        refreshed: None,
        pools,
        entries: pass.entries.recorded.entries.iter().cloned().collect(),
        deleting: None,
    };
    patch_status::patch(pass, &outcome).await;
}

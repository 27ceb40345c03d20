//! The way back: first the entry out of the pool, then the wait, then the Secret, then the finalizer.
//!
//! In: a binding that is being deleted. Out: the same order in reverse, whatever was interrupted. A Prefect server that stays unreachable does not
//! hold a binding for ever: then the Secret stays, since a run that starts on old values beats one that never starts.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Resource, ResourceExt};
use tokio::time::{Instant, timeout};

use super::{
    connect::connect,
    context::Context,
    finalizer::{self, InjectedEntry},
    injection::{Withdrawal, withdraw},
    object_cache::{ObjectKey, ReferenceKind},
    work_queue::BindingRef,
};
use crate::{
    crd::{DeletionPolicy, DopplerPrefectBinding},
    reason::Reason,
    secret::WriteError,
};

/// How often a server that does not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Cleans up behind a binding that is being deleted.
pub async fn cleanup(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
) -> Option<Duration> {
    if !finalizer::has_finalizer(binding) {
        // Garbage collection takes what is owned; nothing else is to be done.
        return None;
    }
    context.blocks.unsubscribe(who);
    context.configs.unsubscribe(who);
    let terminating = namespace_is_terminating(context, binding).await;
    let noted = finalizer::injected_entries(binding);
    let connection = match &binding.spec.prefect {
        Some(prefect) => connect(context, binding, prefect).await.ok(),
        None => None,
    };
    let mut waiting = Vec::new();
    for entry in &noted {
        match withdraw(context, binding, who, connection.as_ref(), entry) {
            Withdrawal::Done => {
                context.states.update(who, |remembered| {
                    remembered
                        .removed_since
                        .entry(entry.clone())
                        .or_insert_with(Instant::now)
                        .elapsed()
                });
            }
            Withdrawal::Pending(why) => waiting.push((entry, why)),
        }
    }
    context.pools.retain(who, &|at, pool, secret| {
        noted
            .iter()
            .any(|entry| entry.server == at && entry.pool == pool && entry.secret == secret)
    });
    if let Some((entry, why)) = waiting.first() {
        let left = context
            .settings
            .release_timeout
            .saturating_sub(since_deletion(binding));
        if !left.is_zero() {
            return Some(left.min(ASK_AGAIN));
        }
        report_abandoned(context, binding, entry, why, terminating);
        return remove_finalizer(context, binding, who).await;
    }
    if !terminating {
        let longest = wait_left(context, who, &noted);
        if !longest.is_zero()
            && binding.spec.managed_secret.deletion_policy == DeletionPolicy::Delete
        {
            return Some(longest);
        }
        let names: BTreeSet<&str> = noted
            .iter()
            .map(|entry| entry.secret.as_str())
            .chain([binding.secret_name()])
            .collect();
        for name in names {
            if delete_secret(context, binding, name).await.is_err() {
                return Some(ASK_AGAIN);
            }
        }
        for entry in &noted {
            let message = format!(
                "the entry for Secret {} was taken out of the template of work pool {}",
                entry.secret, entry.pool
            );
            context.report.emit(binding, Reason::PoolReleased, &message);
        }
    }
    remove_finalizer(context, binding, who).await
}

/// How long the entry that went out last still has to wait.
fn wait_left(context: &Context, who: &BindingRef, noted: &BTreeSet<InjectedEntry>) -> Duration {
    let out_since = context
        .states
        .read(who, |remembered| remembered.removed_since.clone());
    noted
        .iter()
        .filter_map(|entry| out_since.get(entry))
        .map(|since| {
            context
                .settings
                .release_wait
                .saturating_sub(since.elapsed())
        })
        .max()
        .unwrap_or_default()
}

fn since_deletion(binding: &DopplerPrefectBinding) -> Duration {
    let Some(at) = &binding.meta().deletion_timestamp else {
        return Duration::ZERO;
    };
    let passed = k8s_openapi::jiff::Timestamp::now().duration_since(at.0);
    Duration::try_from(passed).unwrap_or_default()
}

fn report_abandoned(
    context: &Context,
    binding: &DopplerPrefectBinding,
    entry: &InjectedEntry,
    why: &str,
    terminating: bool,
) {
    let message = format!(
        "the binding goes although work pool {} could not be cleaned ({why}); Secret {} stays: take the entry out of the pool's template, then delete the Secret",
        entry.pool, entry.secret
    );
    if terminating {
        context
            .report
            .log(binding, Reason::CleanupAbandoned, &message);
    } else {
        context
            .report
            .emit(binding, Reason::CleanupAbandoned, &message);
    }
}

async fn remove_finalizer(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
) -> Option<Duration> {
    let dropped = finalizer::patch_finalizer(
        context.client.clone(),
        binding,
        &BTreeSet::new(),
        context.settings.kubernetes_timeout,
    )
    .await;
    context.metrics.count_write("binding", dropped.is_ok());
    match dropped {
        Ok(()) => {
            context.forget(who);
            None
        }
        Err(finalizer::FinalizerError::Conflict) => Some(Duration::from_millis(500)),
        Err(error) => {
            context
                .report
                .log(binding, error.reason(), &error.to_string());
            Some(ASK_AGAIN)
        }
    }
}

/// Deletes the Secret if it is this binding's, or lets it stay behind if the policy is `Retain`.
///
/// # Errors
/// If the API server does not take it, or it changed meanwhile.
pub async fn delete_secret(
    context: &Context,
    binding: &DopplerPrefectBinding,
    name: &str,
) -> Result<(), WriteError> {
    let namespace = binding.namespace().unwrap_or_default();
    let key = ObjectKey {
        kind: ReferenceKind::Secret,
        namespace: namespace.clone(),
        name: name.to_owned(),
    };
    let Some(known) = context.objects.get(&key) else {
        return Ok(());
    };
    let uid = binding.meta().uid.as_deref().unwrap_or_default();
    if !known.observed.belongs_to(uid) {
        return Ok(());
    }
    let done = match binding.spec.managed_secret.deletion_policy {
        DeletionPolicy::Delete => context
            .secrets
            .delete(&namespace, name, &known.observed)
            .await
            .map(|()| None),
        DeletionPolicy::Retain => context
            .secrets
            .disown(&namespace, name, &known.observed, uid)
            .await
            .map(Some),
    };
    context.metrics.count_write("secret", done.is_ok());
    match done {
        Ok(Some(written)) => context.objects.observe(&key, written.observed, true),
        Ok(None) | Err(WriteError::NotFound) => context.objects.evict(&key),
        Err(WriteError::Conflict) => {
            if let Ok(Some(found)) = context.secrets.get(&namespace, name).await {
                context.objects.observe(&key, found.observed, false);
            }
            return Err(WriteError::Conflict);
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Whether the namespace is going away: then nothing is written into it. If that cannot be told, it is not.
async fn namespace_is_terminating(context: &Context, binding: &DopplerPrefectBinding) -> bool {
    let api: Api<Namespace> = Api::all(context.client.clone());
    let name = binding.namespace().unwrap_or_default();
    let namespace = timeout(context.settings.kubernetes_timeout, api.get_metadata(&name)).await;
    matches!(namespace, Ok(Ok(namespace)) if namespace.metadata.deletion_timestamp.is_some())
}

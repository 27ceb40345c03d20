//! Brings the Secret to the last good values, and computes the condition `SecretSynced`.
//!
//! Input: a binding and its resolution.
//! Output: the desired Secret, at most a few writes, the condition, and what the status says of the
//! content.
//! Invariants: content that would take most keys out of the Secret is refused until a later read
//! confirms it.

use kube::ResourceExt;
use tokio::time::Instant;

use super::{
    apply_secret::{Applied, apply_secret},
    entry_record,
    files_secret::write_files,
    loss_guard::refuse_loss,
    pass::Pass,
    resolution::{LastGood, Resolution, with_note},
};
use crate::{
    crd::{DeletionPolicy, DopplerPrefectBindingStatus, EntryRecord},
    failure::Failure,
    printable::count,
    reason::{Class, Reason},
    secret::{Desired, DesiredInput, desired, hash_key},
    status::{ConditionUpdate, SECRET_SYNCED, SecretContent, resolved_before},
};

/// The outcome of a reconcile for the Secret.
pub struct SecretOutcome {
    /// The condition `SecretSynced`.
    pub condition: ConditionUpdate,
    /// The content of the Secret. None if the Secret was not compared.
    pub content: Option<SecretContent>,
}

impl From<ConditionUpdate> for SecretOutcome {
    fn from(condition: ConditionUpdate) -> Self {
        Self {
            condition,
            content: None,
        }
    }
}

/// The Secret for the last good values, without an owner.
///
/// # Errors
/// If the values or their names do not fit into a Secret.
pub fn desired_secret(pass: &Pass<'_>, values: &LastGood) -> Result<Desired, Failure> {
    let input = DesiredInput {
        binding: pass.key.name(),
        binding_uid: pass.uid(),
        namespace: pass.key.namespace(),
        doppler: &pass.binding.spec.doppler,
        managed: &pass.binding.spec.managed_secret,
        forbidden: &pass.context.forbidden_names,
        key: &pass.context.hash_key,
    };
    Ok(desired(&input, &values.sources())?)
}

/// Brings the Secret to `desired`. Without last good values, only the condition may change.
pub async fn reconcile_secret(
    pass: &mut Pass<'_>,
    resolution: &Resolution,
    desired: Option<Result<Desired, Failure>>,
) -> SecretOutcome {
    let was_true = pass.was_true(SECRET_SYNCED);
    let desired = match desired {
        Some(Ok(desired)) => desired,
        Some(Err(failure)) => {
            pass.requeue.after(failure.retry_after);
            return ConditionUpdate::of_failure(&failure, true, was_true).into();
        }
        None => {
            let update = resolution.upstream_condition(was_true, pass.secret_exists());
            return update.unwrap_or(ConditionUpdate::Unchanged).into();
        }
    };
    // Garbage collection may delete the Secret with its binding only if no pool refers to it.
    let deletes = pass.deletion_policy(&desired.name) == DeletionPolicy::Delete;
    let record = entry_record::wanted(pass, &desired.name);
    let desired = desired.with_entries(record.as_ref().map(EntryRecord::to_text));
    let desired = if deletes && pass.entries.required.is_empty() {
        desired.with_owner(&pass.binding.name_any())
    } else {
        desired
    };
    let written = match write_secret(pass, resolution, &desired).await {
        Ok(condition) => write_files(pass, &desired)
            .await
            .map(|files| (condition, files)),
        Err(failure) => Err(failure),
    };
    match written {
        Ok((condition, files)) => {
            pass.update_state(|state| state.secret_failing_since = None);
            SecretOutcome {
                condition,
                content: Some(SecretContent {
                    key_count: desired.data.len(),
                    excluded_keys: desired.excluded_keys,
                    hash: desired.content_hash,
                    files,
                }),
            }
        }
        Err(failure) => {
            pass.requeue.after(failure.retry_after);
            let since = pass
                .update_state(|state| *state.secret_failing_since.get_or_insert_with(Instant::now));
            let transient = failure.reason.class() == Class::Retry
                && failure.reason != Reason::SecretContested
                && failure.reason != Reason::SecretForbidden
                && since.elapsed() < pass.grace_period();
            ConditionUpdate::of_failure(&failure, !transient, was_true).into()
        }
    }
}

/// Applies the Secret, and returns the condition of a Secret that holds `desired`.
async fn write_secret(
    pass: &mut Pass<'_>,
    resolution: &Resolution,
    desired: &Desired,
) -> Result<ConditionUpdate, Failure> {
    refuse_loss(pass, resolution, desired).await?;
    if desired.name == hash_key::SECRET_NAME && desired.namespace == pass.context.operator_namespace
    {
        let message = format!(
            "Secret {} holds the operator's own key: set spec.managedSecret.name to another name",
            desired.name
        );
        return Err(Failure::new(Reason::SecretForeign, message));
    }
    let written_before = pass.last_status().is_some_and(|status| {
        status.secret_name.as_deref() == Some(&desired.name)
            && status.content_hash.as_deref() == Some(&desired.content_hash)
    });
    match apply_secret(pass, desired, written_before).await {
        Ok(applied) => {
            let source = resolution.last_good.as_ref().map(|values| values.source);
            pass.update_state(|state| state.written_from = source);
            report_applied(pass, resolution, desired, applied);
            if applied == Applied::Updated
                && let Some(notified_at) = resolution.notified_at
            {
                let seconds = notified_at.elapsed().as_secs_f64();
                let metrics = &pass.context.metrics;
                metrics.notification_to_secret_seconds.observe(seconds);
            }
            Ok(synced_condition(pass, resolution, desired))
        }
        Err(failure) => {
            // No event follows when an administrator grants the right or changes the policy: each poll
            // tries again.
            if matches!(
                failure.reason,
                Reason::SecretForbidden | Reason::SecretRejected | Reason::QuotaExceeded
            ) {
                pass.requeue.after(pass.interval());
            }
            Err(failure)
        }
    }
}

/// The condition of a Secret that holds `desired`: whether its values are the newest, and whether
/// other clients leave it alone.
fn synced_condition(
    pass: &mut Pass<'_>,
    resolution: &Resolution,
    desired: &Desired,
) -> ConditionUpdate {
    let was_true = pass.was_true(SECRET_SYNCED);
    let repair_backoff = pass.read_state(|state| state.repair_backoff);
    if let Some(quiet_in) = repair_backoff.contested_for(Instant::now()) {
        pass.requeue.after(quiet_in);
        let message = format!(
            "another client keeps changing Secret {0}; the operator restored it; find the client with kubectl -n {1} get secret {0} --show-managed-fields -o yaml",
            desired.name, desired.namespace
        );
        return ConditionUpdate::False(Reason::SecretContested, message);
    }
    let upstream = resolution.upstream_condition(was_true, true);
    if resolution.failure.is_some() && pass.last_status().is_some_and(was_upstream_failure) {
        // A transient failure does not end a reported failure: only an answer does.
        return upstream.unwrap_or(ConditionUpdate::Unchanged);
    }
    upstream.unwrap_or_else(|| {
        let message = format!(
            "Secret {} holds the {} that Doppler last returned",
            desired.name,
            count(desired.data.len(), "key")
        );
        let message = with_note(&message, desired.proxy_note().as_deref());
        let message = with_note(&message, desired.rename_note.as_deref());
        let message = with_note(&message, resolution.values_note.as_deref());
        ConditionUpdate::True(Reason::Synced, message)
    })
}

/// Whether the condition `SecretSynced` is False because of an upstream.
fn was_upstream_failure(status: &DopplerPrefectBindingStatus) -> bool {
    status.conditions.iter().any(|condition| {
        condition.type_ == SECRET_SYNCED
            && condition.status == "False"
            && Reason::ALL
                .iter()
                .any(|reason| reason.as_str() == condition.reason && reason.is_upstream_failure())
    })
}

fn report_applied(pass: &Pass<'_>, resolution: &Resolution, desired: &Desired, applied: Applied) {
    let old = pass.last_status().and_then(resolved_before);
    let new = resolution
        .last_good
        .as_ref()
        .map(|values| values.resolved().to_string());
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        let message = format!("project and config changed from {old} to {new}");
        pass.emit(Reason::SourceChanged, &message);
    }
    let (name, keys) = (&desired.name, count(desired.data.len(), "key"));
    match applied {
        Applied::Unchanged | Applied::MetadataUpdated => {}
        Applied::Created => pass.emit(
            Reason::SecretCreated,
            &format!("the operator wrote Secret {name} with {keys}"),
        ),
        Applied::Updated => pass.emit(
            Reason::SecretUpdated,
            &format!("the operator wrote new content to Secret {name}, which has {keys}"),
        ),
        Applied::Repaired => pass.emit(
            Reason::SecretRepaired,
            &format!("another client changed or deleted Secret {name}; the operator restored it"),
        ),
    }
}

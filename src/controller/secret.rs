//! From the last good values to the Secret, and what the condition `SecretSynced` says of it.
//!
//! In: a binding and its last good values. Out: the Secret as it should be, put, and told. An answer that would empty a Secret is refused until
//! it has been seen twice.

use std::time::Duration;

use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use super::{
    apply_secret::{Applied, ApplyError, apply_secret},
    context::Context,
    requeue::soonest,
    resolution::{LastGood, Resolution, with_note},
    work_queue::BindingRef,
};
use crate::{
    crd::{DopplerPrefectBinding, DopplerPrefectBindingStatus},
    reason::{Class, Reason},
    secret::{Desired, DesiredInput, desired},
    status::{ConditionUpdate, SECRET_SYNCED, SecretContent, is_true},
};

/// The Secret that the last good values make, without its owner.
pub(super) fn desired_secret(
    context: &Context,
    binding: &DopplerPrefectBinding,
    last: &LastGood,
) -> Result<Desired, (Reason, String)> {
    let input = DesiredInput {
        binding: &binding.name_any(),
        binding_uid: binding.meta().uid.as_deref().unwrap_or_default(),
        namespace: &binding.namespace().unwrap_or_default(),
        doppler: &binding.spec.doppler,
        managed: &binding.spec.managed_secret,
        project: &last.project,
        config: &last.config,
        key: &context.hash_key,
    };
    desired(&input, last.snapshot.values()).map_err(|error| (error.reason(), error.to_string()))
}

pub(super) async fn reconcile_secret(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &Resolution,
    desired: &Desired,
    before: Option<&DopplerPrefectBindingStatus>,
    again: &mut Option<Duration>,
) -> (ConditionUpdate, Option<SecretContent>) {
    let was_true = before.is_some_and(|status| is_true(status, SECRET_SYNCED));
    let holds = SecretContent {
        key_count: desired.data.len(),
        excluded_keys: desired.excluded_keys.clone(),
        hash: desired.content_hash.clone(),
    };
    let held_keys = before
        .filter(|status| status.secret_name.as_deref() == Some(&desired.name))
        .and_then(|status| status.key_count)
        .unwrap_or(0);
    if desired.data.is_empty() && held_keys > 0 && followed.consecutive_reads < 2 {
        let interval = binding
            .spec
            .interval()
            .unwrap_or(context.settings.refresh_interval);
        *again = soonest(*again, Some(interval.mul_f64(1.2)));
        let message = format!(
            "the answer for project and config would leave Secret {} without any key; it is refused until the next poll says the same",
            desired.name
        );
        context.report.emit(binding, Reason::EmptyAnswer, &message);
        return (
            if was_true {
                ConditionUpdate::Unchanged
            } else {
                ConditionUpdate::False(Reason::EmptyAnswer, message)
            },
            None,
        );
    }
    if desired.name == crate::secret::hash_key::SECRET_NAME
        && desired.namespace == context.operator_namespace
    {
        let message = format!(
            "Secret {} holds the operator's own key: set spec.managedSecret.name to another name",
            desired.name
        );
        return (ConditionUpdate::False(Reason::SecretForeign, message), None);
    }
    let had = before.is_some_and(|status| {
        status.secret_name.as_deref() == Some(&desired.name)
            && status.content_hash.as_deref() == Some(&desired.content_hash)
    });
    let adopt = binding.spec.managed_secret.adopt;
    let done = apply_secret(context, who, desired, adopt, had, &|uid| {
        context.binding_exists(uid)
    })
    .await;
    match done {
        Ok(done) => {
            report_applied(context, binding, desired, done, followed, before);
            if done == Applied::Updated
                && let Some(told_at) = followed.notified_at
            {
                let seconds = told_at.elapsed().as_secs_f64();
                context
                    .metrics
                    .notification_to_secret_seconds
                    .observe(seconds);
            }
            let step = synced_condition(context, who, followed, desired, before, again);
            (step, Some(holds))
        }
        Err(ApplyError {
            reason,
            message,
            requeue_after: wait,
        }) => {
            // Nobody tells that a right was given: it is tried again at each poll, if that is sooner.
            let poll = (reason == Reason::SecretForbidden).then(|| {
                let own = binding.spec.interval();
                own.unwrap_or(context.settings.refresh_interval)
            });
            *again = soonest(*again, soonest(wait, poll));
            let passing = reason.class() == Class::Retry
                && reason != Reason::SecretContested
                && reason != Reason::SecretForbidden;
            let step = if passing && was_true {
                ConditionUpdate::Unchanged
            } else {
                ConditionUpdate::False(reason, message)
            };
            (step, None)
        }
    }
}

/// The Secret is as it should be: is it as new as it should be, and left alone?
fn synced_condition(
    context: &Context,
    who: &BindingRef,
    followed: &Resolution,
    desired: &Desired,
    before: Option<&DopplerPrefectBindingStatus>,
    again: &mut Option<Duration>,
) -> ConditionUpdate {
    let was_true = before.is_some_and(|status| is_true(status, SECRET_SYNCED));
    let drift = context
        .states
        .read(who, |remembered| remembered.repair_backoff);
    if let Some(quiet_in) = drift.contested_for(Instant::now()) {
        *again = soonest(*again, Some(quiet_in));
        let message = format!(
            "somebody keeps changing Secret {0}; it was put back; find who writes it with kubectl get secret {0} --show-managed-fields -o yaml",
            desired.name
        );
        return ConditionUpdate::False(Reason::SecretContested, message);
    }
    if followed.failure.is_some() && before.is_some_and(was_upstream_failure) {
        // What was refused is not taken back by a failure that may pass: only an answer does that.
        return followed
            .upstream_condition(was_true)
            .unwrap_or(ConditionUpdate::Unchanged);
    }
    followed.upstream_condition(was_true).unwrap_or_else(|| {
        let keys = desired.data.len();
        ConditionUpdate::True(
            Reason::Synced,
            with_note(
                &format!(
                    "Secret {} holds the {keys} keys that Doppler last gave",
                    desired.name
                ),
                followed.values_note.as_deref(),
            ),
        )
    })
}

/// Whether the condition says that an upstream gave nothing newer.
fn was_upstream_failure(status: &DopplerPrefectBindingStatus) -> bool {
    status.conditions.iter().any(|condition| {
        condition.type_ == SECRET_SYNCED
            && condition.status == "False"
            && Reason::ALL
                .iter()
                .any(|reason| reason.as_str() == condition.reason && reason.is_upstream_failure())
    })
}

fn report_applied(
    context: &Context,
    binding: &DopplerPrefectBinding,
    desired: &Desired,
    done: Applied,
    followed: &Resolution,
    before: Option<&DopplerPrefectBindingStatus>,
) {
    let old =
        before.and_then(|status| Some((status.project.as_deref()?, status.config.as_deref()?)));
    if let (Some((project, config)), Some(last)) = (old, &followed.last_good)
        && (project, config) != (&*last.project, &*last.config)
    {
        let message = format!(
            "project and config changed from {project}/{config} to {}/{}",
            last.project, last.config
        );
        context
            .report
            .emit(binding, Reason::SourceChanged, &message);
    }
    let name = &desired.name;
    match done {
        Applied::Unchanged | Applied::MetadataUpdated => {}
        Applied::Created => context.report.emit(
            binding,
            Reason::SecretCreated,
            &format!("Secret {name} was written with {} keys", desired.data.len()),
        ),
        Applied::Updated => context.report.emit(
            binding,
            Reason::SecretUpdated,
            &format!(
                "Secret {name} was given new content, {} keys",
                desired.data.len()
            ),
        ),
        Applied::Repaired => context.report.emit(
            binding,
            Reason::SecretRepaired,
            &format!("Secret {name} was changed or deleted by somebody, and was put back"),
        ),
    }
}

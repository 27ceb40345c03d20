//! From the last good values to the Secret, and what the condition `SecretSynced` says of it.
//!
//! In: a binding and its last good values. Out: the Secret as it should be, put, and told. An answer that would empty a Secret is refused until
//! it has been seen twice.

use std::time::Duration;

use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use super::{
    apply_secret::{Obstacle, Put, put},
    context::Context,
    requeue::earlier,
    resolution::{Followed, Last, with_aside},
    work_queue::BindingRef,
};
use crate::{
    crd::{DopplerPrefectBinding, DopplerPrefectBindingStatus},
    reason::{Class, Reason},
    secret::{Desired, Input, desired},
    status::{Content, SECRET_SYNCED, Step, is_true},
};

/// The Secret that the last good values make, without its owner.
pub(super) fn make(
    context: &Context,
    binding: &DopplerPrefectBinding,
    last: &Last,
) -> Result<Desired, (Reason, String)> {
    let input = Input {
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

pub(super) async fn secret_step(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &Followed,
    desired: &Desired,
    before: Option<&DopplerPrefectBindingStatus>,
    again: &mut Option<Duration>,
) -> (Step, Option<Content>) {
    let was_true = before.is_some_and(|status| is_true(status, SECRET_SYNCED));
    let holds = Content {
        keys: desired.data.len(),
        held_back: desired.held_back.clone(),
        hash: desired.content_hash.clone(),
    };
    let held_keys = before
        .filter(|status| status.secret_name.as_deref() == Some(&desired.name))
        .and_then(|status| status.keys)
        .unwrap_or(0);
    if desired.data.is_empty() && held_keys > 0 && followed.seen < 2 {
        let interval = binding
            .spec
            .interval()
            .unwrap_or(context.settings.refresh_interval);
        *again = earlier(*again, Some(interval.mul_f64(1.2)));
        let message = format!(
            "the answer for project and config would leave Secret {} without any key; it is refused until the next poll says the same",
            desired.name
        );
        context.report.tell(binding, Reason::EmptyAnswer, &message);
        return (
            if was_true {
                Step::AsBefore
            } else {
                Step::Failed(Reason::EmptyAnswer, message)
            },
            None,
        );
    }
    if desired.name == crate::secret::hash_key::NAME
        && desired.namespace == context.operator_namespace
    {
        let message = format!(
            "Secret {} holds the operator's own key: set spec.managedSecret.name to another name",
            desired.name
        );
        return (Step::Failed(Reason::SecretForeign, message), None);
    }
    let had = before.is_some_and(|status| {
        status.secret_name.as_deref() == Some(&desired.name)
            && status.content_hash.as_deref() == Some(&desired.content_hash)
    });
    let adopt = binding.spec.managed_secret.adopt;
    let done = put(context, who, desired, adopt, had, &|uid| context.lives(uid)).await;
    match done {
        Ok(done) => {
            tell_put(context, binding, desired, done, followed, before);
            if done == Put::Updated
                && let Some(told_at) = followed.told_at
            {
                let seconds = told_at.elapsed().as_secs_f64();
                context.metrics.push_to_secret_seconds.observe(seconds);
            }
            let step = after_put(context, who, followed, desired, before, again);
            (step, Some(holds))
        }
        Err(Obstacle {
            reason,
            message,
            again: wait,
        }) => {
            // Nobody tells that a right was given: it is tried again at each poll, if that is sooner.
            let poll = (reason == Reason::SecretForbidden).then(|| {
                let own = binding.spec.interval();
                own.unwrap_or(context.settings.refresh_interval)
            });
            *again = earlier(*again, earlier(wait, poll));
            let passing = reason.class() == Class::Retry
                && reason != Reason::SecretContested
                && reason != Reason::SecretForbidden;
            let step = if passing && was_true {
                Step::AsBefore
            } else {
                Step::Failed(reason, message)
            };
            (step, None)
        }
    }
}

/// The Secret is as it should be: is it as new as it should be, and left alone?
fn after_put(
    context: &Context,
    who: &BindingRef,
    followed: &Followed,
    desired: &Desired,
    before: Option<&DopplerPrefectBindingStatus>,
    again: &mut Option<Duration>,
) -> Step {
    let was_true = before.is_some_and(|status| is_true(status, SECRET_SYNCED));
    let drift = context.memory.look(who, |remembered| remembered.drift);
    if let Some(quiet_in) = drift.contested(Instant::now()) {
        *again = earlier(*again, Some(quiet_in));
        let message = format!(
            "somebody keeps changing Secret {0}; it was put back; find who writes it with kubectl get secret {0} --show-managed-fields -o yaml",
            desired.name
        );
        return Step::Failed(Reason::SecretContested, message);
    }
    if followed.trouble.is_some() && before.is_some_and(was_stopped_upstream) {
        // What was refused is not taken back by a failure that may pass: only an answer does that.
        return followed.secret_step(was_true).unwrap_or(Step::AsBefore);
    }
    followed.secret_step(was_true).unwrap_or_else(|| {
        let keys = desired.data.len();
        Step::Done(
            Reason::Synced,
            with_aside(
                &format!(
                    "Secret {} holds the {keys} keys that Doppler last gave",
                    desired.name
                ),
                followed.of_values.as_deref(),
            ),
        )
    })
}

/// Whether the condition says that an upstream gave nothing newer.
fn was_stopped_upstream(status: &DopplerPrefectBindingStatus) -> bool {
    status.conditions.iter().any(|condition| {
        condition.type_ == SECRET_SYNCED
            && condition.status == "False"
            && Reason::ALL
                .iter()
                .any(|reason| reason.as_str() == condition.reason && reason.is_of_an_upstream())
    })
}

fn tell_put(
    context: &Context,
    binding: &DopplerPrefectBinding,
    desired: &Desired,
    done: Put,
    followed: &Followed,
    before: Option<&DopplerPrefectBindingStatus>,
) {
    let old =
        before.and_then(|status| Some((status.project.as_deref()?, status.config.as_deref()?)));
    if let (Some((project, config)), Some(last)) = (old, &followed.last)
        && (project, config) != (&*last.project, &*last.config)
    {
        let message = format!(
            "project and config changed from {project}/{config} to {}/{}",
            last.project, last.config
        );
        context
            .report
            .tell(binding, Reason::SourceChanged, &message);
    }
    let name = &desired.name;
    match done {
        Put::Current | Put::Relabelled => {}
        Put::Created => context.report.tell(
            binding,
            Reason::SecretCreated,
            &format!("Secret {name} was written with {} keys", desired.data.len()),
        ),
        Put::Updated => context.report.tell(
            binding,
            Reason::SecretUpdated,
            &format!(
                "Secret {name} was given new content, {} keys",
                desired.data.len()
            ),
        ),
        Put::Repaired => context.report.tell(
            binding,
            Reason::SecretRepaired,
            &format!("Secret {name} was changed or deleted by somebody, and was put back"),
        ),
    }
}

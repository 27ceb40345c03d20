//! The Secret is brought to what it should be.
//!
//! In: the desired Secret. Out: what was done, or what is in the way. At most a few requests, and none when the watch shows that all is as it
//! should be. A write that lost a race is judged again from what is there now.

use std::time::Duration;

use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use super::{
    context::Context,
    object_cache::{ObjectKey, ReferenceKind},
    work_queue::BindingRef,
};
use crate::{
    crd::DopplerPrefectBinding,
    reason::Reason,
    secret::{
        Claimant, Decision, Desired, Target, UpdateReason, WriteError, decide,
        decide::decide_content,
    },
};

/// Rounds of looking and writing before a race is left to a later reconcile.
const ROUNDS: usize = 4;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing had to be done.
    Unchanged,
    /// It was written for the first time, or taken over.
    Created,
    /// It was given new content.
    Updated,
    /// Labels, annotations or owner were set right.
    MetadataUpdated,
    /// It was put back after somebody changed or deleted it.
    Repaired,
}

/// What is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyError {
    /// Its reason.
    pub reason: Reason,
    /// One sentence: what is, and what to do.
    pub message: String,
    /// When to look again, if nothing happens before.
    pub requeue_after: Option<Duration>,
}

/// Whether a binding of this UID is still there.
pub type BindingExists<'a> = &'a (dyn Fn(&str) -> bool + Send + Sync);

/// Brings the Secret to `desired`. `had` says that this binding has written it before; `lives` tells whether the binding that a Secret names is there.
///
/// # Errors
/// If something is in the way.
pub async fn apply_secret(
    context: &Context,
    who: &BindingRef,
    desired: &Desired,
    adopt: bool,
    had: bool,
    lives: BindingExists<'_>,
) -> Result<Applied, ApplyError> {
    let key = ObjectKey {
        kind: ReferenceKind::Secret,
        namespace: desired.namespace.clone(),
        name: desired.name.clone(),
    };
    for _ in 0..ROUNDS {
        let known = context.objects.get(&key);
        let facts = known.as_ref().map(|known| &*known.observed);
        let asker = Claimant {
            known_good: known
                .as_ref()
                .filter(|known| known.verified)
                .map(|known| &*known.observed.resource_version),
            adopt,
            // Looked up only for somebody else's: it costs a walk over all bindings.
            recorded_binding_exists: facts
                .and_then(|facts| facts.binding_uid.as_ref())
                .filter(|uid| **uid != *desired.binding_uid)
                .is_some_and(|uid| lives(&uid.to_string())),
        };
        let mut verdict = decide(
            facts.map_or(Target::Absent, Target::Present),
            desired,
            &asker,
        );
        let adopting = matches!(
            verdict,
            Decision::Update {
                reason: UpdateReason::Adopt,
                ..
            }
        );
        if verdict == Decision::Verify || adopting {
            let Some(found) = context
                .secrets
                .get(&desired.namespace, &desired.name)
                .await
                .map_err(|error| apply_error(&error))?
            else {
                context.objects.evict(&key);
                continue;
            };
            let moved =
                facts.is_none_or(|facts| facts.resource_version != found.observed.resource_version);
            let right = found.data_equals(&desired.data);
            if let Some(error) = found.update_blocker() {
                return Err(apply_error(&error));
            }
            let version = found.observed.resource_version.to_string();
            let looked_at = decide_content(&found.observed, right);
            context
                .objects
                .observe(&key, found.observed, right && !adopting);
            if moved {
                continue;
            }
            if !adopting {
                if right {
                    context.objects.mark_verified(&key, &version);
                }
                verdict = looked_at;
            }
        }
        let outcome = match verdict {
            Decision::UpToDate | Decision::Verify => return Ok(Applied::Unchanged),
            Decision::Create => {
                if had && let Some(wait) = repair_delay(context, who) {
                    return Err(contested(desired, wait));
                }
                let applied = if had {
                    Applied::Repaired
                } else {
                    Applied::Created
                };
                context
                    .secrets
                    .create(desired)
                    .await
                    .map(|written| (written, applied))
            }
            Decision::Update { reason: why, .. } => {
                let Some(known) = &known else { continue };
                if why == UpdateReason::Drift
                    && let Some(wait) = repair_delay(context, who)
                {
                    return Err(contested(desired, wait));
                }
                let applied = match why {
                    UpdateReason::Adopt => Applied::Created,
                    UpdateReason::Content => Applied::Updated,
                    UpdateReason::Metadata => Applied::MetadataUpdated,
                    UpdateReason::Drift => Applied::Repaired,
                };
                let current = context.objects.get(&key).unwrap_or_else(|| known.clone());
                context
                    .secrets
                    .update(desired, &current.observed)
                    .await
                    .map(|written| (written, applied))
            }
            Decision::Foreign { owner } => return Err(foreign(desired, owner.as_deref())),
            Decision::Claimed { by } => return Err(claimed(desired, &by)),
            Decision::Terminating => {
                let message = format!(
                    "Secret {} is being deleted; it is written again once it is gone",
                    desired.name
                );
                return Err(ApplyError {
                    reason: Reason::KubernetesError,
                    message,
                    requeue_after: Some(Duration::from_secs(30)),
                });
            }
        };
        context.metrics.count_write("secret", outcome.is_ok());
        match outcome {
            Ok((written, applied)) => {
                context.objects.observe(&key, written.observed, true);
                if applied == Applied::Repaired {
                    context.states.update(who, |remembered| {
                        remembered.repair_backoff.record_repair(Instant::now());
                    });
                }
                return Ok(applied);
            }
            Err(WriteError::Exists | WriteError::Conflict) => {
                match context.secrets.get(&desired.namespace, &desired.name).await {
                    Ok(Some(found)) => {
                        if found.observed.belongs_to(&desired.binding_uid)
                            && let Some(error) = found.update_blocker()
                        {
                            return Err(apply_error(&error));
                        }
                        context.objects.observe(&key, found.observed, false);
                    }
                    Ok(None) => context.objects.evict(&key),
                    Err(error) => return Err(apply_error(&error)),
                }
            }
            Err(WriteError::NotFound) if known.is_some() => context.objects.evict(&key),
            Err(error) => return Err(apply_error(&error)),
        }
    }
    Err(ApplyError {
        reason: Reason::KubernetesError,
        message: format!(
            "Secret {} kept changing while it was written; it is tried again",
            desired.name
        ),
        requeue_after: Some(Duration::from_secs(2)),
    })
}

/// How long a repair has to wait, since somebody keeps changing the Secret.
fn repair_delay(context: &Context, who: &BindingRef) -> Option<Duration> {
    let drift = context
        .states
        .read(who, |remembered| remembered.repair_backoff);
    let wait = drift.delay(Instant::now());
    (!wait.is_zero()).then_some(wait)
}

fn contested(desired: &Desired, wait: Duration) -> ApplyError {
    ApplyError {
        reason: Reason::SecretContested,
        message: format!(
            "somebody keeps changing Secret {}; it is put back with growing waits; find who writes it with kubectl get secret {0} --show-managed-fields -o yaml",
            desired.name
        ),
        requeue_after: Some(wait),
    }
}

pub(crate) fn foreign(desired: &Desired, owner: Option<&str>) -> ApplyError {
    let name = &desired.name;
    let message = match owner {
        Some(owner) => format!(
            "Secret {name} is there and belongs to {owner}; it is left as it is: set spec.managedSecret.name to another name"
        ),
        None => format!(
            "Secret {name} is there and is not this operator's; it is left as it is: set spec.managedSecret.name to another name, delete that Secret, or set spec.managedSecret.adopt to true"
        ),
    };
    ApplyError {
        reason: Reason::SecretForeign,
        message,
        requeue_after: None,
    }
}

pub(crate) fn claimed(desired: &Desired, by: &str) -> ApplyError {
    let name = &desired.name;
    ApplyError {
        reason: Reason::SecretClaimed,
        message: format!(
            "Secret {name} is written by binding {by}: set spec.managedSecret.name to another name, or delete that binding, and this one takes it"
        ),
        requeue_after: None,
    }
}

fn apply_error(error: &WriteError) -> ApplyError {
    let again = match error.reason() {
        Reason::KubernetesError => Some(Duration::from_secs(5)),
        Reason::SecretForbidden => Some(Duration::from_mins(1)),
        Reason::NamespaceTerminating | Reason::SecretTooLarge => Some(Duration::from_mins(5)),
        _ => None,
    };
    ApplyError {
        reason: error.reason(),
        message: error.to_string(),
        requeue_after: again,
    }
}

/// Whether the binding's own Secret is there.
#[must_use]
pub fn secret_exists(context: &Context, binding: &DopplerPrefectBinding) -> bool {
    let key = ObjectKey {
        kind: ReferenceKind::Secret,
        namespace: binding.namespace().unwrap_or_default(),
        name: binding.secret_name().to_owned(),
    };
    context.objects.get(&key).is_some_and(|known| {
        let uid = binding.meta().uid.as_deref();
        !known.observed.terminating && uid.is_some_and(|uid| known.observed.belongs_to(uid))
    })
}

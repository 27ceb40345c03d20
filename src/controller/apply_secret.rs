//! The Secret is brought to what it should be.
//!
//! In: the desired Secret. Out: what was done, or what is in the way. At most a few requests, and none when the watch shows that all is as it
//! should be. A write that lost a race is judged again from what is there now.

use std::time::Duration;

use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use super::{
    context::Context,
    object_cache::{Kind, ObjectKey},
    work_queue::BindingRef,
};
use crate::{
    crd::DopplerPrefectBinding,
    reason::Reason,
    secret::{Asker, Desired, Target, Verdict, Why, WriteError, decide::judge_content, judge},
};

/// Rounds of looking and writing before a race is left to a later reconcile.
const ROUNDS: usize = 4;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Nothing had to be done.
    Current,
    /// It was written for the first time, or taken over.
    Created,
    /// It was given new content.
    Updated,
    /// Labels, annotations or owner were set right.
    Relabelled,
    /// It was put back after somebody changed or deleted it.
    Repaired,
}

/// What is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Its reason.
    pub reason: Reason,
    /// One sentence: what is, and what to do.
    pub message: String,
    /// When to look again, if nothing happens before.
    pub again: Option<Duration>,
}

/// Whether a binding of this UID is still there.
pub type Lives<'a> = &'a (dyn Fn(&str) -> bool + Send + Sync);

/// Brings the Secret to `desired`. `had` says that this binding has written it before; `lives` tells whether the binding that a Secret names is there.
///
/// # Errors
/// If something is in the way.
pub async fn put(
    context: &Context,
    who: &BindingRef,
    desired: &Desired,
    adopt: bool,
    had: bool,
    lives: Lives<'_>,
) -> Result<Put, Obstacle> {
    let key = ObjectKey {
        kind: Kind::Secret,
        namespace: desired.namespace.clone(),
        name: desired.name.clone(),
    };
    for _ in 0..ROUNDS {
        let known = context.objects.known(&key);
        let facts = known.as_ref().map(|known| &*known.facts);
        let asker = Asker {
            known_good: known
                .as_ref()
                .filter(|known| known.verified)
                .map(|known| &*known.facts.resource_version),
            adopt,
            // Looked up only for somebody else's: it costs a walk over all bindings.
            claimant_lives: facts
                .and_then(|facts| facts.binding_uid.as_ref())
                .filter(|uid| **uid != *desired.binding_uid)
                .is_some_and(|uid| lives(&uid.to_string())),
        };
        let mut verdict = judge(facts.map_or(Target::Absent, Target::There), desired, &asker);
        let adopting = matches!(
            verdict,
            Verdict::Update {
                why: Why::Adopt,
                ..
            }
        );
        if verdict == Verdict::Verify || adopting {
            let Some(found) = context
                .secrets
                .get(&desired.namespace, &desired.name)
                .await
                .map_err(|error| obstacle(&error))?
            else {
                context.objects.lose(&key);
                continue;
            };
            let moved =
                facts.is_none_or(|facts| facts.resource_version != found.facts.resource_version);
            let right = found.holds(&desired.data);
            if let Some(error) = found.obstacle() {
                return Err(obstacle(&error));
            }
            let version = found.facts.resource_version.to_string();
            let looked_at = judge_content(&found.facts, right);
            context.objects.learn(&key, found.facts, right && !adopting);
            if moved {
                continue;
            }
            if !adopting {
                if right {
                    context.objects.verify(&key, &version);
                }
                verdict = looked_at;
            }
        }
        let outcome = match verdict {
            Verdict::Current | Verdict::Verify => return Ok(Put::Current),
            Verdict::Create => {
                if had && let Some(wait) = hold(context, who) {
                    return Err(contested(desired, wait));
                }
                let put = if had { Put::Repaired } else { Put::Created };
                context
                    .secrets
                    .create(desired)
                    .await
                    .map(|written| (written, put))
            }
            Verdict::Update { why, .. } => {
                let Some(known) = &known else { continue };
                if why == Why::Drift
                    && let Some(wait) = hold(context, who)
                {
                    return Err(contested(desired, wait));
                }
                let put = match why {
                    Why::Adopt => Put::Created,
                    Why::Content => Put::Updated,
                    Why::Metadata => Put::Relabelled,
                    Why::Drift => Put::Repaired,
                };
                let current = context.objects.known(&key).unwrap_or_else(|| known.clone());
                context
                    .secrets
                    .update(desired, &current.facts)
                    .await
                    .map(|written| (written, put))
            }
            Verdict::Foreign { owner } => return Err(foreign(desired, owner.as_deref())),
            Verdict::Claimed { by } => return Err(claimed(desired, &by)),
            Verdict::Terminating => {
                let message = format!(
                    "Secret {} is being deleted; it is written again once it is gone",
                    desired.name
                );
                return Err(Obstacle {
                    reason: Reason::KubernetesError,
                    message,
                    again: Some(Duration::from_secs(30)),
                });
            }
        };
        context.metrics.wrote("secret", outcome.is_ok());
        match outcome {
            Ok((written, put)) => {
                context.objects.learn(&key, written.facts, true);
                if put == Put::Repaired {
                    context
                        .memory
                        .change(who, |remembered| remembered.drift.repaired(Instant::now()));
                }
                return Ok(put);
            }
            Err(WriteError::Exists | WriteError::Conflict) => {
                match context.secrets.get(&desired.namespace, &desired.name).await {
                    Ok(Some(found)) => {
                        if found.facts.belongs_to(&desired.binding_uid)
                            && let Some(error) = found.obstacle()
                        {
                            return Err(obstacle(&error));
                        }
                        context.objects.learn(&key, found.facts, false);
                    }
                    Ok(None) => context.objects.lose(&key),
                    Err(error) => return Err(obstacle(&error)),
                }
            }
            Err(WriteError::NotFound) if known.is_some() => context.objects.lose(&key),
            Err(error) => return Err(obstacle(&error)),
        }
    }
    Err(Obstacle {
        reason: Reason::KubernetesError,
        message: format!(
            "Secret {} kept changing while it was written; it is tried again",
            desired.name
        ),
        again: Some(Duration::from_secs(2)),
    })
}

/// How long a repair has to wait, since somebody keeps changing the Secret.
fn hold(context: &Context, who: &BindingRef) -> Option<Duration> {
    let drift = context.memory.look(who, |remembered| remembered.drift);
    let wait = drift.wait(Instant::now());
    (!wait.is_zero()).then_some(wait)
}

fn contested(desired: &Desired, wait: Duration) -> Obstacle {
    Obstacle {
        reason: Reason::SecretContested,
        message: format!(
            "somebody keeps changing Secret {}; it is put back with growing waits; find who writes it with kubectl get secret {0} --show-managed-fields -o yaml",
            desired.name
        ),
        again: Some(wait),
    }
}

fn foreign(desired: &Desired, owner: Option<&str>) -> Obstacle {
    let name = &desired.name;
    let message = match owner {
        Some(owner) => format!(
            "Secret {name} is there and belongs to {owner}; it is left as it is: set spec.managedSecret.name to another name"
        ),
        None => format!(
            "Secret {name} is there and is not this operator's; it is left as it is: set spec.managedSecret.name to another name, delete that Secret, or set spec.managedSecret.adopt to true"
        ),
    };
    Obstacle {
        reason: Reason::SecretForeign,
        message,
        again: None,
    }
}

fn claimed(desired: &Desired, by: &str) -> Obstacle {
    let name = &desired.name;
    Obstacle {
        reason: Reason::SecretClaimed,
        message: format!(
            "Secret {name} is written by binding {by}: set spec.managedSecret.name to another name, or delete that binding, and this one takes it"
        ),
        again: None,
    }
}

fn obstacle(error: &WriteError) -> Obstacle {
    let again = match error.reason() {
        Reason::KubernetesError => Some(Duration::from_secs(5)),
        Reason::SecretForbidden => Some(Duration::from_mins(1)),
        Reason::NamespaceTerminating | Reason::SecretTooLarge => Some(Duration::from_mins(5)),
        _ => None,
    };
    Obstacle {
        reason: error.reason(),
        message: error.to_string(),
        again,
    }
}

/// Whether the binding's own Secret is there.
#[must_use]
pub fn in_place(context: &Context, binding: &DopplerPrefectBinding) -> bool {
    let key = ObjectKey {
        kind: Kind::Secret,
        namespace: binding.namespace().unwrap_or_default(),
        name: binding.secret_name().to_owned(),
    };
    context.objects.known(&key).is_some_and(|known| {
        let uid = binding.meta().uid.as_deref();
        !known.facts.terminating && uid.is_some_and(|uid| known.facts.belongs_to(uid))
    })
}

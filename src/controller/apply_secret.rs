//! Brings a Secret to its desired state: decides, writes, and decides again after a lost race.
//!
//! Input: the desired Secret, and the observed one in the object cache.
//! Output: what was written, or the failure.
//! Invariants: no request while the cache shows the desired state, at most a few otherwise, and
//! writes at a bounded rate. The
//! operator never overwrites a Secret that is not its own, unless the binding adopts it.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    binding_state::WRITES,
    object_cache::{CachedObject, ObjectKey, ReferenceKind},
    pass::Pass,
};
use crate::{
    crd::DeletionPolicy,
    failure::Failure,
    reason::Reason,
    secret::{
        Adoption, Claimant, Decision, Desired, Target, UpdateReason, WriteError, WrittenSecret,
        decide,
        decide::{decide_content, succeeds},
        metadata::ADOPT,
    },
};

/// Attempts in one reconcile, before a later one goes on.
const MAX_ATTEMPTS: usize = 4;
/// Wait after the last attempt.
const RACE_WAIT: Duration = Duration::from_secs(2);
/// Wait while the API server deletes a Secret of that name. Its deletion is an event, too.
const TERMINATING_WAIT: Duration = Duration::from_secs(30);

/// Wait while the pool entries of a deleted binding are removed. The deletion of its Secret is an
/// event, too.
const ORPHAN_WAIT: Duration = Duration::from_secs(30);

/// What was done to the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing: it is as desired.
    Unchanged,
    /// The operator created it, adopted it, or took it over.
    Created,
    /// The operator wrote new content.
    Updated,
    /// The operator corrected labels, annotations or the owner.
    MetadataUpdated,
    /// The operator restored it after another client changed or deleted it.
    Repaired,
}

/// Brings the Secret to `desired`. `written_before` says that the operator has written this content
/// for the binding: then a missing Secret was deleted by another client.
///
/// # Errors
/// If the Secret is not the binding's, is contested, or cannot be written.
pub async fn apply_secret(
    pass: &Pass<'_>,
    desired: &Desired,
    written_before: bool,
) -> Result<Applied, Failure> {
    let apply = Apply {
        pass,
        desired,
        written_before,
        object: ObjectKey {
            kind: ReferenceKind::Secret,
            namespace: desired.namespace.clone(),
            name: desired.name.clone(),
        },
    };
    for _ in 0..MAX_ATTEMPTS {
        if let Some(applied) = apply.attempt().await? {
            return Ok(applied);
        }
    }
    let message = format!(
        "Secret {} kept changing while the operator wrote it; the operator tries again",
        desired.name
    );
    Err(after(RACE_WAIT, Reason::KubernetesError, message))
}

struct Apply<'a> {
    pass: &'a Pass<'a>,
    desired: &'a Desired,
    written_before: bool,
    object: ObjectKey,
}

impl Apply<'_> {
    /// Decides and writes once. None if the Secret changed meanwhile: then the cache holds the newer
    /// one.
    async fn attempt(&self) -> Result<Option<Applied>, Failure> {
        let (context, desired) = (self.pass.context, self.desired);
        let cached = context.objects.get(&self.object);
        let decision = self.decide(cached.as_ref());
        let Some(decision) = self.verify(decision, cached.as_ref()).await? else {
            return Ok(None);
        };
        let (written, applied) = match decision {
            Decision::UpToDate | Decision::Verify => return Ok(Some(Applied::Unchanged)),
            Decision::Create => {
                let applied = if self.written_before {
                    self.check_repair_backoff()?;
                    Applied::Repaired
                } else {
                    Applied::Created
                };
                self.check_pace()?;
                (context.secrets.create(desired).await, applied)
            }
            Decision::Update { reason, .. } => {
                let applied = match reason {
                    UpdateReason::Adopt => Applied::Created,
                    UpdateReason::Content => Applied::Updated,
                    UpdateReason::Metadata => Applied::MetadataUpdated,
                    UpdateReason::Drift => {
                        self.check_repair_backoff()?;
                        Applied::Repaired
                    }
                };
                // `verify` may have observed a newer version.
                let Some(current) = context.objects.get(&self.object).or(cached.clone()) else {
                    return Ok(None);
                };
                self.check_pace()?;
                let adopted = (reason == UpdateReason::Adopt)
                    .then(|| self.adopted(&current))
                    .flatten();
                let desired = adopted.as_ref().unwrap_or(desired);
                let written = context.secrets.update(desired, &current.observed).await;
                (written, applied)
            }
            Decision::Foreign {
                owner,
                lacks_consent,
            } => {
                let binding = self.pass.key.name();
                let consents = lacks_consent.then_some(binding);
                return Err(foreign(desired, owner.as_deref(), consents));
            }
            Decision::Orphaned { by } => return Err(orphaned(desired, &by)),
            Decision::Claimed { by } => return Err(claimed(desired, &by)),
            Decision::Terminating => return Err(terminating(desired)),
        };
        self.after_write(written, applied, cached.is_some()).await
    }

    fn decide(&self, cached: Option<&CachedObject>) -> Decision {
        let (pass, desired) = (self.pass, self.desired);
        let observed = cached.map(|cached| &*cached.observed);
        let claimant = Claimant {
            known_good: cached
                .filter(|cached| cached.verified)
                .map(|cached| &*cached.observed.resource_version),
            adopt: Adoption::of(
                pass.binding.spec.managed_secret.adopt,
                pass.context.settings.adopt_without_consent,
            ),
            name: pass.key.name(),
            // Only for the Secret of another binding, because it searches all bindings.
            recorded_binding_exists: observed
                .and_then(|observed| observed.binding_uid.as_ref())
                .filter(|uid| **uid != *desired.binding_uid)
                .is_some_and(|uid| pass.context.binding_exists(&uid.to_string())),
        };
        let target = observed.map_or(Target::Absent, Target::Present);
        decide(target, desired, &claimant)
    }

    /// The desired Secret with the mark of its adoption. None for one that an earlier binding of the
    /// same name left.
    fn adopted(&self, current: &CachedObject) -> Option<Desired> {
        let (pass, desired) = (self.pass, self.desired);
        let left_by_us = succeeds(&current.observed, pass.uid(), pass.key.name());
        let policy = pass.deletion_policy(&desired.name);
        let deletes = policy == DeletionPolicy::Delete;
        (!left_by_us).then(|| desired.clone().as_adopted(deletes))
    }

    /// Reads the Secret where its metadata does not suffice. None if the cache was stale.
    async fn verify(
        &self,
        decision: Decision,
        cached: Option<&CachedObject>,
    ) -> Result<Option<Decision>, Failure> {
        let adopting = matches!(
            decision,
            Decision::Update {
                reason: UpdateReason::Adopt,
                ..
            }
        );
        if decision != Decision::Verify && !adopting {
            return Ok(Some(decision));
        }
        let (context, desired) = (self.pass.context, self.desired);
        let fetched = context.secrets.get(&desired.namespace, &desired.name).await;
        let Some(fetched) = fetched.map_err(|error| write_failure(self.desired, &error))? else {
            context.objects.evict(&self.object);
            return Ok(None);
        };
        if let Some(error) = fetched.update_blocker(desired.type_) {
            return Err(write_failure(self.desired, &error));
        }
        let stale = cached.is_none_or(|cached| {
            cached.observed.resource_version != fetched.observed.resource_version
        });
        let matches = fetched.data_equals(&desired.data);
        let version = fetched.observed.resource_version.to_string();
        let verified = decide_content(&fetched.observed, matches);
        let objects = &context.objects;
        objects.observe(&self.object, fetched.observed, matches && !adopting);
        if stale {
            return Ok(None);
        }
        if adopting {
            return Ok(Some(decision));
        }
        if matches {
            objects.mark_verified(&self.object, &version);
        }
        Ok(Some(verified))
    }

    /// Records a write. None if it lost a race.
    async fn after_write(
        &self,
        written: Result<WrittenSecret, WriteError>,
        applied: Applied,
        was_cached: bool,
    ) -> Result<Option<Applied>, Failure> {
        let (pass, objects) = (self.pass, &self.pass.context.objects);
        pass.context.metrics.count_write("secret", written.is_ok());
        match written {
            Ok(written) => {
                objects.observe(&self.object, written.observed, true);
                if applied == Applied::Repaired {
                    pass.update_state(|state| state.repair_backoff.record_repair(Instant::now()));
                }
                return Ok(Some(applied));
            }
            Err(WriteError::Exists | WriteError::Conflict) => self.observe_again().await?,
            Err(WriteError::NotFound) if was_cached => objects.evict(&self.object),
            Err(error) => return Err(write_failure(self.desired, &error)),
        }
        Ok(None)
    }

    async fn observe_again(&self) -> Result<(), Failure> {
        let (context, desired) = (self.pass.context, self.desired);
        match context.secrets.get(&desired.namespace, &desired.name).await {
            Ok(Some(fetched)) => {
                if fetched.observed.belongs_to(&desired.binding_uid)
                    && let Some(error) = fetched.update_blocker(desired.type_)
                {
                    return Err(write_failure(self.desired, &error));
                }
                let objects = &context.objects;
                objects.observe(&self.object, fetched.observed, false);
            }
            Ok(None) => context.objects.evict(&self.object),
            Err(error) => return Err(write_failure(self.desired, &error)),
        }
        Ok(())
    }

    /// Delays a write if there were many. The reconcile after the wait writes what is newest then.
    fn check_pace(&self) -> Result<(), Failure> {
        let now = Instant::now();
        let pace = self
            .pass
            .update_state(|state| state.secret_writes.take(WRITES, now));
        pace.map_err(|wait| {
            let message = format!(
                "the values of Secret {} change too often; the operator writes the newest ones every {} s",
                self.desired.name,
                WRITES.period.as_secs()
            );
            after(wait, Reason::KubernetesError, message)
        })
    }

    /// Delays a repair while another client keeps changing the Secret.
    fn check_repair_backoff(&self) -> Result<(), Failure> {
        let backoff = self.pass.read_state(|state| state.repair_backoff);
        let delay = backoff.delay(Instant::now());
        if delay.is_zero() {
            return Ok(());
        }
        let message = format!(
            "another client keeps changing Secret {0}; the operator restores it with backoff; find the client with kubectl -n {1} get secret {0} --show-managed-fields -o yaml",
            self.desired.name, self.desired.namespace
        );
        Err(after(delay, Reason::SecretContested, message))
    }
}

/// The failure of a binding whose Secret belongs to another owner. `lacks_consent` is the name of the
/// binding, if only the consent of the Secret's owner is missing for the adoption.
#[must_use]
pub fn foreign(desired: &Desired, owner: Option<&str>, lacks_consent: Option<&str>) -> Failure {
    let name = &desired.name;
    let message = match (owner, lacks_consent) {
        (Some(owner), _) => format!(
            "Secret {name} belongs to {owner}; the operator leaves it as it is: set spec.managedSecret.name to another name"
        ),
        (None, Some(binding)) => format!(
            "Secret {name} exists, and the operator does not manage it; before the binding adopts it, which replaces all its values, the owner of the Secret has to consent: kubectl -n {} annotate secret {name} {ADOPT}={binding}",
            desired.namespace
        ),
        (None, None) => format!(
            "Secret {name} exists, and the operator does not manage it; the operator leaves it as it is: set spec.managedSecret.name to another name, delete that Secret, or set spec.managedSecret.adopt to true and annotate the Secret with {ADOPT} and the name of the binding"
        ),
    };
    Failure::new(Reason::SecretForeign, message)
}

/// The failure of a binding whose Secret another binding writes.
#[must_use]
pub fn claimed(desired: &Desired, by: &str) -> Failure {
    let message = format!(
        "binding {by} writes Secret {}: set spec.managedSecret.name to another name, or delete that binding, and this one takes over the Secret",
        desired.name
    );
    Failure::new(Reason::SecretClaimed, message)
}

/// The failure of a binding whose Secret a deleted binding left, because it lost its finalizer.
#[must_use]
pub fn orphaned(desired: &Desired, by: &str) -> Failure {
    let message = format!(
        "the deleted binding {by} left Secret {0}, and the operator removes its pool entries before this binding gets the Secret: wait for it, or set spec.managedSecret.name to another name",
        desired.name
    );
    after(ORPHAN_WAIT, Reason::SecretClaimed, message)
}

fn terminating(desired: &Desired) -> Failure {
    let message = format!(
        "the API server is deleting Secret {}; the operator writes it again after that",
        desired.name
    );
    after(TERMINATING_WAIT, Reason::KubernetesError, message)
}

fn after(wait: Duration, reason: Reason, message: String) -> Failure {
    Failure {
        reason,
        message,
        retry_after: Some(wait),
    }
}

fn write_failure(desired: &Desired, error: &WriteError) -> Failure {
    let retry_after = match error.reason() {
        Reason::KubernetesError => Some(Duration::from_secs(5)),
        // No event follows when an administrator grants the right or changes the policy.
        Reason::SecretForbidden | Reason::SecretRejected | Reason::QuotaExceeded => {
            Some(Duration::from_mins(1))
        }
        Reason::NamespaceTerminating | Reason::SecretTooLarge => Some(Duration::from_mins(5)),
        _ => None,
    };
    Failure {
        reason: error.reason(),
        message: format!("Secret {}: {error}", desired.name),
        retry_after,
    }
}

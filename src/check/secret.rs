//! Whether the operator could write the Secret.
//!
//! Input: the desired Secret, and the Secret that exists.
//! Output: findings, by the controller's own decision ([`decide`]), and by a dry run at the API server.
//! Invariants: stores nothing; a Secret belongs to a binding by the UID of the binding, never by
//! its name.

use kube::ResourceExt;

use super::{api_server::binding_uid, context::CheckContext, findings::Findings};
use crate::{
    controller::apply_secret::{claimed, foreign, orphaned},
    crd::DopplerPrefectBinding,
    printable::count,
    secret::{
        Adoption, Claimant, Decision, Desired, ObservedSecret, Target, UpdateReason, WriteError,
        decide,
    },
};

const TOPIC: &str = "Secret";

/// Adds what the operator would do with the Secret.
pub(super) async fn check_secret(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    desired: &Desired,
    findings: &mut Findings,
) {
    let name = &desired.name;
    let fetched = match context.secrets.get(&desired.namespace, name).await {
        Ok(Some(fetched)) => fetched,
        Ok(None) => {
            let keys = count(desired.data.len(), "key");
            findings.ok(TOPIC, &format!("{name} would be created with {keys}"));
            return dry_run(context, desired, None, findings).await;
        }
        Err(error) => {
            findings.fail(TOPIC, &format!("{}: {name}: {error}", error.reason()));
            return;
        }
    };
    let recorded_binding_exists =
        match recorded_binding_exists(context, &fetched.observed, desired).await {
            Ok(exists) => exists,
            Err(why) => {
                findings.note(
                    TOPIC,
                    &format!("{name} exists; whether this binding may write it is unknown: {why}"),
                );
                return;
            }
        };
    let binding_name = binding.name_any();
    let claimant = Claimant {
        known_good: None,
        adopt: Adoption::of(
            binding.spec.managed_secret.adopt,
            context.adopt_without_consent,
        ),
        recorded_binding_exists,
        name: &binding_name,
    };
    let decision = decide(Target::Present(&fetched.observed), desired, &claimant);
    match decision {
        Decision::Foreign {
            owner,
            lacks_consent,
        } => {
            let consents = lacks_consent.then_some(binding_name.as_str());
            let failure = foreign(desired, owner.as_deref(), consents);
            findings.fail(TOPIC, &format!("{}: {}", failure.reason, failure.message));
        }
        Decision::Claimed { by } => {
            let failure = claimed(desired, &by);
            findings.fail(TOPIC, &format!("{}: {}", failure.reason, failure.message));
        }
        Decision::Orphaned { by } => {
            let failure = orphaned(desired, &by);
            findings.fail(TOPIC, &format!("{}: {}", failure.reason, failure.message));
        }
        Decision::Terminating => findings.note(
            TOPIC,
            &format!("{name} is being deleted; the operator would create it again afterwards"),
        ),
        decision => {
            if let Some(error) = fetched.update_blocker(desired.type_) {
                findings.fail(TOPIC, &format!("{}: {name}: {error}", error.reason()));
            } else if let Decision::Update {
                reason: UpdateReason::Adopt,
                ..
            } = decision
            {
                findings.ok(TOPIC, &format!("{name} exists and would be adopted"));
                dry_run(context, desired, Some(&fetched.observed), findings).await;
            } else if fetched.data_equals(&desired.data) {
                findings.ok(TOPIC, &format!("{name} is up to date"));
            } else {
                let keys = count(desired.data.len(), "key");
                findings.ok(TOPIC, &format!("{name} would be updated to {keys}"));
                dry_run(context, desired, Some(&fetched.observed), findings).await;
            }
        }
    }
}

/// Asks the API server whether its policies, webhooks and quotas admit the Secret, with the permissions
/// of the user.
async fn dry_run(
    context: &CheckContext,
    desired: &Desired,
    observed: Option<&ObservedSecret>,
    findings: &mut Findings,
) {
    let Err(error) = context.secrets.dry_run(desired, observed).await else {
        return findings.ok(TOPIC, "the API server admits it");
    };
    match &error {
        WriteError::Forbidden { verb, namespace } => findings.note(
            TOPIC,
            &format!(
                "you have no permission to {verb} Secrets in namespace {namespace}, so the check did not ask whether policies and quotas admit it"
            ),
        ),
        WriteError::NoDryRun { .. } => findings.note(
            TOPIC,
            &format!("{error}, so the check did not ask whether policies and quotas admit it"),
        ),
        _ => findings.fail(
            TOPIC,
            &format!("{}: {}: {error}", error.reason(), desired.name),
        ),
    }
}

/// Whether the binding in the Secret's annotation still exists. A binding of the same name with
/// another UID is another binding.
async fn recorded_binding_exists(
    context: &CheckContext,
    observed: &ObservedSecret,
    desired: &Desired,
) -> Result<bool, String> {
    let (Some(uid), Some(name)) = (&observed.binding_uid, &observed.binding) else {
        return Ok(false);
    };
    if *uid == *desired.binding_uid {
        return Ok(true);
    }
    let found = binding_uid(context, &desired.namespace, name).await?;
    Ok(found.is_some_and(|found| *uid == *found))
}

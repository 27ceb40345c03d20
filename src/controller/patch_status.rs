//! Writes the status of a binding if it differs from the last one, and reports the change.
//!
//! Input: the outcome of a reconcile.
//! Output: at most one request, and a report of the changed conditions.
//! Invariants: at rest it sends nothing, and however often an outcome changes, it writes at a bounded
//! rate; the last outcome is always written. A status is never written to another binding of the
//! same name. A refused status is reported and tried again with backoff; meanwhile the conditions
//! alone are written, if they are accepted.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{PartialObjectMeta, Request},
};
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::{
    binding_state::{RefusedStatus, WRITES, WrittenStatus},
    context::Context,
    pass::Pass,
};
use crate::{
    crd::{DopplerPrefectBinding, DopplerPrefectBindingStatus},
    kubernetes::{json_patch, metadata_only},
    printable::one_line,
    reason::Reason,
    status::{Outcome, READY, conditions_only, status},
    upstream::backoff::{Backoff, jittered},
};

/// Waits while the API server does not answer.
const OUTAGE_BACKOFF: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(30));
/// Waits while the API server refuses a status.
const REFUSED_BACKOFF: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(5));
/// Longest part of the API server's answer in a message, in bytes.
const MAX_ANSWER_BYTES: usize = 1024;
/// What the API server answers if a `test` of a JSON Patch fails: the binding has another UID.
const TEST_FAILED: &str = "the server rejected our request due to an error in our request";

/// Writes the status for `outcome` if it differs from the last one. A failed write is tried again.
pub async fn patch(pass: &mut Pass<'_>, outcome: &Outcome) {
    let (context, binding) = (pass.context, pass.binding);
    let before = pass.last_status();
    let after = status(before, binding.meta().generation, outcome, &now());
    if before == Some(&after) {
        pass.update_state(|state| state.refused_status = None);
        context.report.status_changed(binding, before, &after);
        return;
    }
    let fingerprint = fingerprint(outcome, binding.meta().generation);
    if let Some(wait) = wait_for_refused(pass, fingerprint) {
        return pass.requeue.after(wait);
    }
    let now = Instant::now();
    if let Err(wait) = pass.update_state(|state| state.status_writes.take(WRITES, now)) {
        return pass.requeue.after(wait);
    }
    let Err(error) = write_and_keep(pass, after.clone()).await else {
        pass.update_state(|state| state.refused_status = None);
        return;
    };
    let failures = match &error {
        // The binding was deleted, or replaced by another one: its own event follows.
        StatusError::Gone => return,
        StatusError::Unreachable => {
            let failures = count_failure(pass, fingerprint, OUTAGE_BACKOFF);
            pass.requeue.after(wait_for_refused(pass, fingerprint));
            return tracing::debug!(failures, "the API server did not accept a status");
        }
        StatusError::Refused(_) => count_failure(pass, fingerprint, REFUSED_BACKOFF),
    };
    pass.requeue.after(wait_for_refused(pass, fingerprint));
    let message = error.to_string();
    if context.unavailable(pass.key.namespace()).is_some()
        || binding.meta().deletion_timestamp.is_some()
    {
        // One line reports the whole namespace. A namespace that is being deleted loses its Role before
        // its bindings.
        return tracing::debug!("{message}");
    }
    if failures == 1 {
        pass.emit(Reason::StatusRefused, &message);
    } else {
        context.report.log(binding, Reason::StatusRefused, &message);
    }
    // The API server may refuse one field only, such as a state that an older CRD does not know.
    let short = conditions_only(after);
    if pass.last_status() != Some(&short) {
        let _ = write_and_keep(pass, short).await;
    }
}

/// The remaining wait, if a status of this outcome was refused before.
fn wait_for_refused(pass: &Pass<'_>, fingerprint: u64) -> Option<Duration> {
    let refused = pass.read_state(|state| state.refused_status)?;
    let wait = refused.retry_at.saturating_duration_since(Instant::now());
    (refused.outcome == fingerprint && !wait.is_zero()).then_some(wait)
}

/// Counts a failed write, and returns how many failed in a row. Another outcome is tried at once, but
/// does not reset the count.
fn count_failure(pass: &Pass<'_>, fingerprint: u64, backoff: Backoff) -> u32 {
    pass.update_state(|state| {
        let failed = state.refused_status.map_or(0, |refused| refused.failures);
        let failures = failed.saturating_add(1);
        state.refused_status = Some(RefusedStatus {
            outcome: fingerprint,
            failures,
            retry_at: Instant::now() + jittered(backoff.delay(failures), 0.1),
        });
        failures
    })
}

/// Identifies an outcome. The status itself holds times.
fn fingerprint(outcome: &Outcome, generation: Option<i64>) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{outcome:?}").hash(&mut hasher);
    generation.hash(&mut hasher);
    hasher.finish()
}

/// Writes a status, reports the change, and keeps it until the watch delivers it.
async fn write_and_keep(
    pass: &Pass<'_>,
    after: DopplerPrefectBindingStatus,
) -> Result<(), StatusError> {
    let (context, binding) = (pass.context, pass.binding);
    let written = write(context, binding, &after).await;
    context.metrics.count_write("status", written.is_ok());
    let version = written?;
    let before = pass.last_status();
    context.report.status_changed(binding, before, &after);
    let written = WrittenStatus {
        status: Arc::new(after),
        version: version.into(),
    };
    pass.update_state(|state| state.status = Some(written));
    // The watch may have delivered the status before the response arrived.
    if let Some(stored) = context.stored(pass.key) {
        context.states.observe_stored(&stored);
    }
    Ok(())
}

/// Writes a condition that says that the binding is invalid, which an older CRD may have admitted.
/// Everything else of the binding stays as it is. Returns when to try again, after a failed write.
pub async fn report_invalid(pass: &Pass<'_>) -> Option<Duration> {
    let (context, binding) = (pass.context, pass.binding);
    let message = "the operator cannot parse this binding: apply the CRD of this version, then correct the fields that kubectl apply rejects";
    let condition = Condition {
        type_: READY.to_owned(),
        status: "False".to_owned(),
        reason: Reason::InvalidSpec.to_string(),
        message: message.to_owned(),
        observed_generation: binding.meta().generation,
        last_transition_time: now(),
    };
    context.report.emit(binding, Reason::InvalidSpec, message);
    let mut after = pass.last_status().cloned().unwrap_or_default();
    after.conditions = vec![condition];
    let written = write(context, binding, &after).await;
    context.metrics.count_write("status", written.is_ok());
    match written {
        Ok(_) | Err(StatusError::Gone) => None,
        Err(error) => {
            let message = error.to_string();
            context.report.log(binding, Reason::StatusRefused, &message);
            Some(REFUSED_BACKOFF.delay(u32::MAX))
        }
    }
}

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The binding no longer exists, or another one has its name.
    #[error("the binding no longer exists")]
    Gone,
    /// The API server refuses this status.
    #[error(
        "the API server refuses the status of the binding ({0}); the operator tries again with backoff"
    )]
    Refused(String),
    /// The API server did not answer, or is overloaded.
    #[error(
        "the API server did not accept the status of the binding; the operator tries again with backoff"
    )]
    Unreachable,
}

impl StatusError {
    fn of(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Unreachable;
        };
        let has_causes = status
            .details
            .as_ref()
            .is_some_and(|details| !details.causes.is_empty());
        match status.code {
            // A webhook chooses its status code itself.
            _ if status.message.starts_with("admission webhook ") => Self::refused(&status),
            404 => Self::Gone,
            422 if !has_causes && status.message == TEST_FAILED => Self::Gone,
            400..=428 | 430..=499 => Self::refused(&status),
            _ => Self::Unreachable,
        }
    }

    fn refused(status: &kube::core::Status) -> Self {
        let answer = one_line(&status.message, MAX_ANSWER_BYTES);
        Self::Refused(format!("{} {}: {answer}", status.code, status.reason))
    }
}

#[derive(Serialize)]
struct StatusOperation<'a, T> {
    op: &'a str,
    path: &'a str,
    value: T,
}

/// Replaces the whole status, and returns the binding's new version. The response holds metadata
/// only.
async fn write(
    context: &Context,
    binding: &DopplerPrefectBinding,
    status: &impl Serialize,
) -> Result<String, StatusError> {
    let limit = context.settings.kubernetes_timeout;
    write_status(&context.client, binding, status, limit).await
}

/// Replaces the whole status, and returns the binding's new version.
///
/// # Errors
/// If the API server refuses it, or does not answer.
pub async fn write_status(
    client: &Client,
    binding: &DopplerPrefectBinding,
    status: &impl Serialize,
    limit: Duration,
) -> Result<String, StatusError> {
    let patch = (
        StatusOperation {
            op: "test",
            path: "/metadata/uid",
            value: binding.uid(),
        },
        StatusOperation {
            op: "add",
            path: "/status",
            value: status,
        },
    );
    let namespace = binding.namespace().unwrap_or_default();
    let request = Request::new(DopplerPrefectBinding::url_path(&(), Some(&namespace)))
        .patch_subresource(
            "status",
            &binding.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .map_err(|_| StatusError::Gone)?;
    let request = json_patch(metadata_only(request));
    let response = client.request::<PartialObjectMeta<DopplerPrefectBinding>>(request);
    match timeout(limit, response).await {
        Ok(Ok(written)) => Ok(written.metadata.resource_version.unwrap_or_default()),
        Ok(Err(error)) => Err(StatusError::of(error)),
        Err(_) => Err(StatusError::Unreachable),
    }
}

/// The current time in whole seconds, as Kubernetes writes it.
#[must_use]
pub fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[cfg(test)]
mod tests;

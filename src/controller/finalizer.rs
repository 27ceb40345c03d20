//! Adds the finalizer to a binding before a pool has its entry, and removes it after the last entry
//! is removed.
//!
//! Input: a binding, and the entries that are recorded or required.
//! Output: at most one patch.
//! Invariants: a client that replaces the whole binding drops the finalizer; it is added again as
//! long as an entry is recorded. The finalizers of others stay.

use std::time::Duration;

use kube::{
    Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{PartialObjectMeta, Request},
};
use tokio::time::timeout;

use super::{binding_state::WrittenMark, finalizer_error::FinalizerError, pass::Pass};
use crate::{
    crd::{DopplerPrefectBinding, finalizer::finalizer_patch},
    failure::Failure,
    kubernetes::{json_patch, metadata_only},
};

/// Wait after a conflict: the watch delivers the newer binding within it.
const CONFLICT_WAIT: Duration = Duration::from_millis(500);
/// Wait after another failed write.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Wait after a failed write for a binding that is being deleted.
const REMOVE_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Adds or removes the finalizer. Returns the binding's new version.
///
/// # Errors
/// If the binding changed meanwhile, or the API server rejects the patch or does not answer.
pub async fn patch_finalizer(
    client: &Client,
    binding: &DopplerPrefectBinding,
    present: bool,
    limit: Duration,
) -> Result<String, FinalizerError> {
    let namespace = binding.namespace().unwrap_or_default();
    let request = Request::new(DopplerPrefectBinding::url_path(&(), Some(&namespace)))
        .patch(
            &binding.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&finalizer_patch(binding, present)),
        )
        .map_err(|_| FinalizerError::Unreachable)?;
    let request = json_patch(metadata_only(request));
    let response = client.request::<PartialObjectMeta<DopplerPrefectBinding>>(request);
    match timeout(limit, response).await {
        Ok(Ok(patched)) => Ok(patched.metadata.resource_version.unwrap_or_default()),
        Ok(Err(error)) => Err(FinalizerError::of(&error)),
        Err(_) => Err(FinalizerError::Unreachable),
    }
}

/// Adds the finalizer if entries are required and the binding does not have it.
pub async fn ensure(pass: &mut Pass<'_>) {
    if !pass.entries.required.is_empty() && !pass.has_finalizer() {
        patch(pass, true).await;
    }
}

/// Removes the finalizer once no entry is recorded any more.
pub async fn release(pass: &mut Pass<'_>) {
    if !pass.has_finalizer() || !pass.entries.required.is_empty() {
        return;
    }
    pass.read_entries();
    if pass.entries.recorded.entries.is_empty() {
        patch(pass, false).await;
    } else {
        // The status that still lists an entry could not be written yet.
        pass.requeue.after(RETRY_INTERVAL);
    }
}

async fn patch(pass: &mut Pass<'_>, present: bool) {
    match write(pass, present).await {
        Ok(version) => {
            let version = version.into();
            let written = WrittenMark { present, version };
            pass.update_state(|state| state.finalizer = Some(written));
        }
        Err(error) => {
            pass.update_state(|state| state.finalizer = None);
            pass.requeue.after(match error {
                FinalizerError::Conflict => CONFLICT_WAIT,
                _ => RETRY_INTERVAL,
            });
        }
    }
}

/// Removes the finalizer from a binding that is being deleted. Returns whether the binding may cease
/// to exist now.
pub async fn remove(pass: &mut Pass<'_>) -> bool {
    if !pass.has_finalizer() {
        return true;
    }
    match write(pass, false).await {
        Ok(_) => return true,
        Err(FinalizerError::Conflict) => pass.requeue.after(CONFLICT_WAIT),
        Err(_) => pass.requeue.after(REMOVE_RETRY_INTERVAL),
    }
    false
}

/// Sends the patch, counts it, and logs an error other than a conflict. The pass keeps the error for
/// the status.
async fn write(pass: &mut Pass<'_>, present: bool) -> Result<String, FinalizerError> {
    let (context, binding) = (pass.context, pass.binding);
    let limit = context.settings.kubernetes_timeout;
    let written = patch_finalizer(&context.client, binding, present, limit).await;
    context.metrics.count_write("binding", written.is_ok());
    pass.finalizer_failure = None;
    if let Err(error) = &written
        && !matches!(error, FinalizerError::Conflict)
    {
        let failure = Failure::new(error.reason(), error.to_string());
        context
            .report
            .log(binding, failure.reason, &failure.message);
        pass.finalizer_failure = Some(failure);
    }
    written
}

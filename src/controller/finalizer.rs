//! Writes the finalizer of a binding together with the annotation that records its pool entries.
//!
//! Input: a binding and the entries to record.
//! Output: one patch that changes annotation and finalizer together.
//! Invariants: an entry is recorded before it is injected, and the record is removed after the entry
//! is removed, so that a crash, a rename or another server leaves nothing behind.

use std::{collections::BTreeSet, time::Duration};

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use tokio::time::timeout;

use super::pass::Pass;
pub use crate::crd::injected::{InjectedEntry, has_finalizer, injected_entries};
use crate::{
    crd::{DopplerPrefectBinding, injected::finalizer_patch},
    reason::Reason,
};

/// Wait after a conflict: the watch delivers the newer binding within it.
const CONFLICT_WAIT: Duration = Duration::from_millis(500);
/// Wait after another failed write.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Wait after a failed write for a binding that is being deleted.
const REMOVE_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The binding could not be patched.
#[derive(Debug, thiserror::Error)]
pub enum FinalizerError {
    /// The binding changed meanwhile, or is deleted: a newer event follows.
    #[error("the binding changed while the operator wrote its finalizer; the operator tries again")]
    Conflict,
    /// The API server rejected the patch.
    #[error(
        "the API server rejected the finalizer (status {0}): grant the operator's service account `patch` on dopplerprefectbindings"
    )]
    Refused(u16),
    /// The API server did not answer.
    #[error(
        "the API server did not answer when the operator set the finalizer; the operator tries again"
    )]
    Unreachable,
}

impl FinalizerError {
    /// Its reason.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::KubernetesError
    }
}

/// Sets annotation and finalizer to `entries` in one patch. Without entries, it removes both.
///
/// # Errors
/// If the binding changed meanwhile, or the API server rejects the patch or does not answer.
pub async fn patch_finalizer(
    client: Client,
    binding: &DopplerPrefectBinding,
    entries: &BTreeSet<InjectedEntry>,
    limit: Duration,
) -> Result<(), FinalizerError> {
    let patch = finalizer_patch(binding, entries);
    let api: Api<DopplerPrefectBinding> =
        Api::namespaced(client, &binding.namespace().unwrap_or_default());
    let name = binding.name_any();
    let params = PatchParams::default();
    let patched = timeout(
        limit,
        api.patch_metadata(&name, &params, &Patch::Merge(&patch)),
    )
    .await;
    match patched {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
            Err(FinalizerError::Conflict)
        }
        Ok(Err(kube::Error::Api(status))) => Err(FinalizerError::Refused(status.code)),
        Ok(Err(_)) | Err(_) => Err(FinalizerError::Unreachable),
    }
}

/// Records `entries` beside those that are recorded already.
pub async fn record(pass: &mut Pass<'_>, entries: &BTreeSet<InjectedEntry>) {
    if !entries.is_subset(&pass.entries.recorded) {
        let all = pass.entries.recorded.union(entries).cloned().collect();
        patch(pass, all).await;
    }
}

/// Removes the record of entries that are no longer required.
pub async fn retain_required(pass: &mut Pass<'_>) {
    let (recorded, required) = (&pass.entries.recorded, &pass.entries.required);
    if required != recorded && required.is_subset(recorded) {
        patch(pass, required.clone()).await;
    }
}

async fn patch(pass: &mut Pass<'_>, entries: BTreeSet<InjectedEntry>) {
    match write(pass, &entries).await {
        Ok(()) => {
            pass.update_state(|state| state.injected_entries = Some(entries.clone()));
            pass.entries.recorded = entries;
        }
        Err(error) => {
            // The next pass reads the annotation from the watch again.
            pass.update_state(|state| state.injected_entries = None);
            pass.requeue.after(match error {
                FinalizerError::Conflict => CONFLICT_WAIT,
                FinalizerError::Refused(_) | FinalizerError::Unreachable => RETRY_INTERVAL,
            });
        }
    }
}

/// Removes annotation and finalizer from a binding that is being deleted: it ceases to exist.
pub async fn remove_finalizer(pass: &mut Pass<'_>) {
    match write(pass, &BTreeSet::new()).await {
        Ok(()) => pass.context.forget(pass.key),
        Err(FinalizerError::Conflict) => pass.requeue.after(CONFLICT_WAIT),
        Err(_) => pass.requeue.after(REMOVE_RETRY_INTERVAL),
    }
}

/// Sends the patch, counts it, and logs an error other than a conflict.
async fn write(pass: &Pass<'_>, entries: &BTreeSet<InjectedEntry>) -> Result<(), FinalizerError> {
    let (context, binding) = (pass.context, pass.binding);
    let limit = context.settings.kubernetes_timeout;
    let written = patch_finalizer(context.client.clone(), binding, entries, limit).await;
    context.metrics.count_write("binding", written.is_ok());
    if let Err(error) = &written
        && !matches!(error, FinalizerError::Conflict)
    {
        let message = error.to_string();
        context.report.log(binding, error.reason(), &message);
    }
    written
}

//! Writes the finalizer of a binding together with the annotation that records its pool entries.
//!
//! Input: a binding and the entries to record.
//! Output: one patch that changes annotation and finalizer together.
//! Invariants: the operator records an entry before it patches the pool, and removes the record after it
//! has removed the entry, so that a crash, a rename or another server leaves nothing behind.

use std::{collections::BTreeSet, time::Duration};

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use tokio::time::timeout;

pub use crate::crd::injected::{InjectedEntry, has_finalizer, injected_entries};
use crate::{
    crd::{DopplerPrefectBinding, injected::finalizer_patch},
    reason::Reason,
};

/// The binding could not be patched.
#[derive(Debug, thiserror::Error)]
pub enum FinalizerError {
    /// It changed meanwhile, or is gone: a newer event follows.
    #[error("the binding changed while its finalizer was written; it is tried again")]
    Conflict,
    /// The API server refused.
    #[error(
        "the API server refused to set the finalizer (status {0}); give the operator's service account `patch` on dopplerprefectbindings"
    )]
    Refused(u16),
    /// It did not answer.
    #[error("the API server could not be reached to set the finalizer")]
    Unreachable,
}

impl FinalizerError {
    /// Its reason.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::KubernetesError
    }
}

/// Sets annotation and finalizer to `entries`, in one patch: both go when there are none.
///
/// # Errors
/// If the binding changed meanwhile, or the API server does not take it.
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

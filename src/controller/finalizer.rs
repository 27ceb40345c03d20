//! The note on a binding of the pool entries that the operator may have written, beside its finalizer.
//!
//! In: the binding's metadata. Out: the entries that are noted, and the one patch that changes annotation and finalizer together. It is written
//! before a pool is patched and cleared after the entry is out, so that a crash, a rename or a changed server leaves nothing behind.

use std::{collections::BTreeSet, time::Duration};

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    crd::{DopplerPrefectBinding, FINALIZER, INJECTED_ANNOTATION},
    reason::Reason,
};

/// A pool entry that the operator may have written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InjectedEntry {
    /// URL of the Prefect server's API.
    pub server: String,
    /// Name of the work pool.
    pub pool: String,
    /// Name of the Secret in the entry.
    pub secret: String,
}

/// What is noted on a binding. A note that does not parse counts as empty: it can only have been changed by hand.
#[must_use]
pub fn injected_entries(binding: &DopplerPrefectBinding) -> BTreeSet<InjectedEntry> {
    binding
        .annotations()
        .get(INJECTED_ANNOTATION)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Whether the binding carries our finalizer.
#[must_use]
pub fn has_finalizer(binding: &DopplerPrefectBinding) -> bool {
    binding
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

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
    let finalizers: Vec<&str> = binding
        .finalizers()
        .iter()
        .map(String::as_str)
        .filter(|finalizer| *finalizer != FINALIZER)
        .chain((!entries.is_empty()).then_some(FINALIZER))
        .collect();
    let text = if entries.is_empty() {
        None
    } else {
        serde_json::to_string(entries).ok()
    };
    let patch = json!({"metadata": {
        "resourceVersion": binding.resource_version(),
        "uid": binding.uid(),
        "finalizers": finalizers,
        "annotations": {INJECTED_ANNOTATION: text},
    }});
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_as_it_was_written() {
        let entry = InjectedEntry {
            server: "http://s.p.svc:4200/api".to_owned(),
            pool: "k8s".to_owned(),
            secret: "a".to_owned(),
        };
        let mut binding =
            DopplerPrefectBinding::new("b", crate::crd::DopplerPrefectBindingSpec::default());
        assert!(injected_entries(&binding).is_empty());
        let text = serde_json::to_string(&BTreeSet::from([entry.clone()])).unwrap();
        binding
            .annotations_mut()
            .insert(INJECTED_ANNOTATION.to_owned(), text);
        assert_eq!(injected_entries(&binding), BTreeSet::from([entry]));
        binding
            .annotations_mut()
            .insert(INJECTED_ANNOTATION.to_owned(), "[broken".to_owned());
        assert!(injected_entries(&binding).is_empty());
    }
}

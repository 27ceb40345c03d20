//! The finalizer of a binding, and the annotation that records the pool entries.
//!
//! Input: a binding's metadata, and the entries to record.
//! Output: the recorded entries, and the one patch that changes annotation and finalizer together.
//! Invariants: pure; the finalizer is present exactly while the annotation records an entry.

use std::collections::BTreeSet;

use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::binding::DopplerPrefectBinding;

/// Finalizer on a binding while a work pool may refer to its Secret.
pub const FINALIZER: &str = "doppler-prefect.dev/injected";
/// Annotation on a binding that records the pool entries that the operator may have written.
pub const INJECTED_ANNOTATION: &str = "doppler-prefect.dev/injected";

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

/// The entries that a binding records. An annotation that does not parse counts as empty, because
/// only a user can have changed it.
#[must_use]
pub fn injected_entries(binding: &DopplerPrefectBinding) -> BTreeSet<InjectedEntry> {
    binding
        .annotations()
        .get(INJECTED_ANNOTATION)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Whether the binding has the operator's finalizer.
#[must_use]
pub fn has_finalizer(binding: &DopplerPrefectBinding) -> bool {
    binding
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

/// The merge patch that records `entries` and sets the finalizer. Without entries, it removes both.
#[must_use]
pub fn finalizer_patch(
    binding: &DopplerPrefectBinding,
    entries: &BTreeSet<InjectedEntry>,
) -> Value {
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
    json!({"metadata": {
        "resourceVersion": binding.resource_version(),
        "uid": binding.uid(),
        "finalizers": finalizers,
        "annotations": {INJECTED_ANNOTATION: text},
    }})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::DopplerPrefectBindingSpec;

    fn entry() -> InjectedEntry {
        InjectedEntry {
            server: "http://s.p.svc:4200/api".to_owned(),
            pool: "k8s".to_owned(),
            secret: "a".to_owned(),
        }
    }

    fn binding() -> DopplerPrefectBinding {
        DopplerPrefectBinding::new("b", DopplerPrefectBindingSpec::default())
    }

    #[test]
    fn reads_recorded_entries_and_ignores_a_broken_annotation() {
        let mut binding = binding();
        assert!(injected_entries(&binding).is_empty());
        let text = serde_json::to_string(&BTreeSet::from([entry()])).unwrap();
        binding
            .annotations_mut()
            .insert(INJECTED_ANNOTATION.to_owned(), text);
        assert_eq!(injected_entries(&binding), BTreeSet::from([entry()]));
        binding
            .annotations_mut()
            .insert(INJECTED_ANNOTATION.to_owned(), "[broken".to_owned());
        assert!(injected_entries(&binding).is_empty());
    }

    #[test]
    fn patch_sets_annotation_and_finalizer_together() {
        let mut binding = binding();
        binding.finalizers_mut().push("theirs".to_owned());
        let patch = finalizer_patch(&binding, &BTreeSet::from([entry()]));
        assert_eq!(
            patch["metadata"]["finalizers"],
            json!(["theirs", FINALIZER])
        );
        assert!(patch["metadata"]["annotations"][INJECTED_ANNOTATION].is_string());

        binding.finalizers_mut().push(FINALIZER.to_owned());
        assert!(has_finalizer(&binding));
        let patch = finalizer_patch(&binding, &BTreeSet::new());
        assert_eq!(patch["metadata"]["finalizers"], json!(["theirs"]));
        assert!(patch["metadata"]["annotations"][INJECTED_ANNOTATION].is_null());
    }
}

//! The finalizer of a binding, which guards its pool entries.
//!
//! Input: a binding's metadata.
//! Output: whether the binding has the finalizer, and the patch that adds or removes it.
//! Invariants: pure; the finalizers of others stay. What the operator wrote to a pool is recorded
//! where the author of a binding cannot write: see [`EntryRecord`](super::EntryRecord).

use kube::ResourceExt;
use serde_json::{Value, json};

use super::binding::DopplerPrefectBinding;

/// Finalizer on a binding while a work pool may refer to its Secret.
pub const FINALIZER: &str = "doppler-prefect.dev/injected";

/// Whether the binding has the operator's finalizer.
#[must_use]
pub fn has_finalizer(binding: &DopplerPrefectBinding) -> bool {
    binding
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

/// The JSON Patch that adds or removes the finalizer.
///
/// It applies only to this binding, and only if its finalizers have not changed. A list that is
/// empty cannot be tested, so the resourceVersion guards it.
#[must_use]
pub fn finalizer_patch(binding: &DopplerPrefectBinding, present: bool) -> Value {
    let current = binding.finalizers();
    let others = current.iter().map(String::as_str);
    let wanted: Vec<&str> = others
        .filter(|finalizer| *finalizer != FINALIZER)
        .chain(present.then_some(FINALIZER))
        .collect();
    let guard = if current.is_empty() {
        json!({"op": "replace", "path": "/metadata/resourceVersion", "value": binding.resource_version()})
    } else {
        json!({"op": "test", "path": "/metadata/finalizers", "value": current})
    };
    json!([
        {"op": "test", "path": "/metadata/uid", "value": binding.uid()},
        guard,
        {"op": "add", "path": "/metadata/finalizers", "value": wanted},
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::DopplerPrefectBindingSpec;

    #[test]
    fn patch_keeps_the_finalizers_of_others_and_is_guarded() {
        let mut binding = DopplerPrefectBinding::new("b", DopplerPrefectBindingSpec::default());
        binding.metadata.resource_version = Some("7".to_owned());
        let patch = finalizer_patch(&binding, true);
        assert_eq!(patch[1]["path"], "/metadata/resourceVersion");
        assert_eq!(patch[1]["value"], "7");
        assert_eq!(patch[2]["value"], json!([FINALIZER]));

        binding.finalizers_mut().push("theirs".to_owned());
        let patch = finalizer_patch(&binding, true);
        assert_eq!(
            patch[1],
            json!({"op": "test", "path": "/metadata/finalizers", "value": ["theirs"]})
        );
        assert_eq!(patch[2]["value"], json!(["theirs", FINALIZER]));

        binding.finalizers_mut().push(FINALIZER.to_owned());
        assert!(has_finalizer(&binding));
        let patch = finalizer_patch(&binding, false);
        assert_eq!(patch[2]["value"], json!(["theirs"]));
    }
}

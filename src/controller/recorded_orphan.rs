//! A Secret with a record of pool entries, and the binding that it names. Pure.
//!
//! Input: the metadata of a Secret.
//! Output: [`Orphan`], and the binding as far as its cleanup needs it.
//! Invariants: without a binding and a record there is none.

use kube::api::ObjectMeta;

use crate::{
    crd::{DeletionPolicy, DopplerPrefectBinding, DopplerPrefectBindingSpec, EntryRecord},
    secret::ObservedSecret,
};

/// A Secret with a record of pool entries, and the binding that it names.
#[derive(Clone, Debug, PartialEq)]
pub struct Orphan {
    /// Name of the binding.
    pub binding: String,
    /// UID of the binding.
    pub uid: String,
    /// The entries.
    pub record: EntryRecord,
}

impl Orphan {
    /// What the metadata of a Secret says. None without a binding or a record.
    #[must_use]
    pub fn of(observed: &ObservedSecret) -> Option<Self> {
        Some(Self {
            binding: observed.binding.as_deref()?.to_owned(),
            uid: observed.binding_uid.as_ref()?.to_string(),
            record: observed.entry_record()?,
        })
    }

    /// The binding as far as its cleanup needs it.
    #[must_use]
    pub fn deleted_binding(&self, namespace: &str, secret: &str) -> DopplerPrefectBinding {
        let mut spec = DopplerPrefectBindingSpec::default();
        spec.managed_secret.name = Some(secret.to_owned());
        spec.managed_secret.deletion_policy = Some(if self.record.retain {
            DeletionPolicy::Retain
        } else {
            DeletionPolicy::Delete
        });
        let mut binding = DopplerPrefectBinding::new(&self.binding, spec);
        binding.metadata = ObjectMeta {
            name: Some(self.binding.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(self.uid.clone()),
            ..ObjectMeta::default()
        };
        binding
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn observed(annotations: &serde_json::Value) -> ObservedSecret {
        let metadata =
            json!({"name": "s", "namespace": "flows", "uid": "x", "annotations": annotations});
        ObservedSecret::from_metadata(&serde_json::from_value(metadata).unwrap())
    }

    #[test]
    fn knows_the_binding_of_a_secret_with_a_record() {
        let record = json!({
            "secret": "flows/s", "retain": true,
            "servers": [{"url": "http://a/api", "pools": ["k"]}],
        });
        let all = json!({
            "doppler-prefect.dev/binding": "b",
            "doppler-prefect.dev/binding-uid": "u",
            "doppler-prefect.dev/work-pool-entries": record.to_string(),
        });
        let orphan = Orphan::of(&observed(&all)).unwrap();
        let binding = orphan.deleted_binding("flows", "s");
        assert_eq!(binding.secret_name(), "s");
        assert_eq!(binding.metadata.uid.as_deref(), Some("u"));
        let policy = binding.spec.managed_secret.deletion_policy(false);
        assert_eq!(policy, DeletionPolicy::Retain);
        for missing in all.as_object().unwrap().keys() {
            let mut annotations = all.clone();
            annotations.as_object_mut().unwrap().remove(missing);
            assert_eq!(Orphan::of(&observed(&annotations)), None, "{missing}");
        }
    }
}

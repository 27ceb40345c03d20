//! A binding as the store keeps it: what it is looked up and told apart by, and the rest as text.
//!
//! In: a binding from the watch. Out: [`Kept`], which is read again for each reconcile. At rest a binding is only kept; as text it takes half of what
//! its fields would, of which most are empty, and reading it costs less than a reconcile by far.

use std::{borrow::Cow, fmt};

use kube::{
    Resource,
    api::ObjectMeta,
    core::{NamespaceResourceScope, error_boundary::InvalidObject},
};
use serde::{Deserialize, Deserializer, Serialize};

use super::watch::Guarded;
use crate::crd::{
    BindingRef, DopplerPrefectBinding, DopplerPrefectBindingSpec, DopplerPrefectBindingStatus,
    INJECTED_ANNOTATION,
};

/// A binding, or what is left of one that cannot be read. Its text may hold an API key that stands in the spec: `Debug` shows the name only.
#[derive(Clone)]
pub struct Kept {
    metadata: ObjectMeta,
    /// Spec and status. Nothing of one that cannot be read.
    text: Option<Box<str>>,
}

#[derive(Serialize)]
struct Said<'a> {
    spec: &'a DopplerPrefectBindingSpec,
    status: &'a Option<DopplerPrefectBindingStatus>,
}

#[derive(Deserialize)]
struct Read {
    spec: DopplerPrefectBindingSpec,
    status: Option<DopplerPrefectBindingStatus>,
}

impl Kept {
    /// What is kept of a binding.
    #[must_use]
    pub fn of(binding: Guarded) -> Self {
        match binding.0 {
            Ok(binding) => Self {
                text: serde_json::to_string(&Said {
                    spec: &binding.spec,
                    status: &binding.status,
                })
                .ok()
                .map(Into::into),
                metadata: reduced(binding.metadata),
            },
            Err(InvalidObject { metadata, .. }) => Self {
                metadata: reduced(metadata),
                text: None,
            },
        }
    }

    /// The binding, with as much of its metadata as is kept.
    ///
    /// # Errors
    /// If it could not be read when it came.
    pub fn read(&self) -> Result<DopplerPrefectBinding, Unreadable> {
        let text = self.text.as_deref().ok_or(Unreadable)?;
        let Read { spec, status } = serde_json::from_str(text).map_err(|_| Unreadable)?;
        Ok(DopplerPrefectBinding {
            metadata: self.metadata.clone(),
            spec,
            status,
        })
    }
}

/// A binding that an older CRD may have let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the binding cannot be read")]
pub struct Unreadable;

/// Labels, owners and annotations of others are of no use here, and `last-applied-configuration` would hold the whole binding again.
fn reduced(metadata: ObjectMeta) -> ObjectMeta {
    let annotations = metadata.annotations.map(|mut annotations| {
        annotations.retain(|name, _| name == INJECTED_ANNOTATION);
        annotations
    });
    ObjectMeta {
        annotations: annotations.filter(|annotations| !annotations.is_empty()),
        deletion_timestamp: metadata.deletion_timestamp,
        finalizers: metadata.finalizers,
        generation: metadata.generation,
        name: metadata.name,
        namespace: metadata.namespace,
        resource_version: metadata.resource_version,
        uid: metadata.uid,
        ..ObjectMeta::default()
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&BindingRef::of(self)).finish()
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Guarded::deserialize(deserializer).map(Self::of)
    }
}

impl Resource for Kept {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        DopplerPrefectBinding::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        DopplerPrefectBinding::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        DopplerPrefectBinding::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        DopplerPrefectBinding::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::DeserializeGuard;
    use serde_json::json;

    fn guarded(spec: &serde_json::Value) -> Guarded {
        let binding = json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
            "metadata": {
                "name": "b", "namespace": "flows", "uid": "u", "resourceVersion": "7", "generation": 3, "finalizers": ["f"],
                "labels": {"a": "b"}, "annotations": {INJECTED_ANNOTATION: "[]", "other": "x"},
                "managedFields": [{"manager": "kubectl"}],
            },
            "spec": spec,
            "status": {"observedGeneration": 3, "keys": 4},
        });
        serde_json::from_value(binding).unwrap()
    }

    #[test]
    fn what_a_reconcile_needs_comes_back_and_the_rest_does_not() {
        let spec = json!({"doppler": {"project": "p"}, "suspend": true});
        let DeserializeGuard(Ok(binding)) = guarded(&spec) else {
            panic!("unreadable")
        };
        let kept = Kept::of(guarded(&spec));
        let read = kept.read().unwrap();
        assert_eq!((&read.spec, &read.status), (&binding.spec, &binding.status));
        assert_eq!(read.metadata, *kept.meta());
        let meta = kept.meta();
        assert_eq!(
            (meta.name.as_deref(), meta.namespace.as_deref()),
            (Some("b"), Some("flows"))
        );
        assert_eq!((meta.uid.as_deref(), meta.generation), (Some("u"), Some(3)));
        assert_eq!(meta.finalizers.as_deref(), Some(&["f".to_owned()][..]));
        let annotations = meta.annotations.clone().unwrap_or_default();
        assert_eq!(
            annotations.into_keys().collect::<Vec<_>>(),
            [INJECTED_ANNOTATION]
        );
        assert!(meta.labels.is_none() && meta.managed_fields.is_none());
    }

    #[test]
    fn a_key_in_the_spec_is_not_shown() {
        let server = json!({"name": "s", "apiKey": {"value": "canary"}});
        let kept = Kept::of(guarded(&json!({"prefect": {"server": server}})));
        let shown = format!("{kept:?} {kept:#?}");
        assert!(
            shown.contains("flows/b") && !shown.contains("canary"),
            "{shown}"
        );
        assert!(kept.text.is_some_and(|text| text.contains("canary")));
    }

    #[test]
    fn one_that_cannot_be_read_is_still_known_by_name() {
        let kept = Kept::of(guarded(&json!({"suspend": "maybe"})));
        assert_eq!(kept.read().err(), Some(Unreadable));
        assert_eq!(kept.meta().name.as_deref(), Some("b"));
    }
}

//! A binding as the store keeps it: its identity, and the rest as text.
//!
//! In: a binding as the API server sends it. Out: [`StoredBinding`], which is read for each reconcile, and only then. At rest a binding is only kept; as text it
//! takes half of what its fields would, of which most are empty, and reading it costs less than a reconcile by far.

use std::{borrow::Cow, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, api::ObjectMeta, core::NamespaceResourceScope};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::crd::{BindingRef, DopplerPrefectBinding, INJECTED_ANNOTATION};

/// A binding, or what is left of one that cannot be read. Its text may hold an API key that stands in the spec: `Debug` shows the name only.
#[derive(Clone)]
pub struct StoredBinding {
    metadata: ObjectMeta,
    /// As the API server sent it.
    spec: Option<Box<str>>,
    /// As the API server sent it.
    status: Option<Box<str>>,
}

/// As much of a binding as is kept.
#[derive(Deserialize)]
struct Sent {
    metadata: Metadata,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
}

/// As much of its metadata. Labels, owners and managed fields are of no use here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    annotations: Option<Annotations>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generation: Option<i64>,
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    uid: Option<String>,
}

/// Ours. `last-applied-configuration` would hold the whole binding again.
#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "doppler-prefect.dev/injected")]
    injected: Option<String>,
}

impl StoredBinding {
    /// The binding, with as much of its metadata as is kept.
    ///
    /// # Errors
    /// If it is not one as this version knows them.
    pub fn parse(&self) -> Result<DopplerPrefectBinding, InvalidBinding> {
        let spec = self.spec.as_deref().ok_or(InvalidBinding)?;
        let status = self.status.as_deref().map(serde_json::from_str);
        Ok(DopplerPrefectBinding {
            metadata: self.metadata.clone(),
            spec: serde_json::from_str(spec).map_err(|_| InvalidBinding)?,
            status: status.transpose().map_err(|_| InvalidBinding)?,
        })
    }
}

/// A binding that an older CRD may have let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the binding cannot be read")]
pub struct InvalidBinding;

impl<'de> Deserialize<'de> for StoredBinding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Sent {
            metadata,
            spec,
            status,
        } = Sent::deserialize(deserializer)?;
        let injected = metadata.annotations.and_then(|ours| ours.injected);
        Ok(Self {
            metadata: ObjectMeta {
                annotations: injected.map(|note| [(INJECTED_ANNOTATION.to_owned(), note)].into()),
                deletion_timestamp: metadata.deletion_timestamp,
                finalizers: metadata.finalizers,
                generation: metadata.generation,
                name: metadata.name,
                namespace: metadata.namespace,
                resource_version: metadata.resource_version,
                uid: metadata.uid,
                ..ObjectMeta::default()
            },
            spec: spec.map(Into::into),
            status: status.map(Into::into),
        })
    }
}

impl fmt::Debug for StoredBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&BindingRef::of(self)).finish()
    }
}

impl Resource for StoredBinding {
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
    use kube::core::WatchEvent;
    use serde_json::json;

    fn sent(spec: &serde_json::Value) -> String {
        let binding = json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
            "metadata": {
                "name": "b", "namespace": "flows", "uid": "u", "resourceVersion": "7", "generation": 3, "finalizers": ["f"],
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"a": "b"}, "annotations": {INJECTED_ANNOTATION: "[]", "other": "x"},
                "managedFields": [{"manager": "kubectl"}],
            },
            "spec": spec,
            "status": {"observedGeneration": 3, "keys": 4},
        });
        binding.to_string()
    }

    fn kept(spec: &serde_json::Value) -> StoredBinding {
        serde_json::from_str(&sent(spec)).unwrap()
    }

    #[test]
    fn what_a_reconcile_needs_comes_back_and_the_rest_does_not() {
        let spec = json!({"doppler": {"project": "p"}, "suspend": true});
        let binding: DopplerPrefectBinding = serde_json::from_str(&sent(&spec)).unwrap();
        let kept = kept(&spec);
        let read = kept.parse().unwrap();
        assert_eq!((&read.spec, &read.status), (&binding.spec, &binding.status));
        assert_eq!(read.metadata, *kept.meta());
        let note = [(INJECTED_ANNOTATION.to_owned(), "[]".to_owned())];
        let as_kept = ObjectMeta {
            annotations: Some(note.into()),
            labels: None,
            managed_fields: None,
            ..binding.metadata
        };
        assert_eq!(*kept.meta(), as_kept);
    }

    /// As [`WatchEvent`] has them, and only if the type comes first, as the API server sends it.
    #[test]
    fn one_is_kept_from_a_watch_as_from_a_list() {
        let event = format!(r#"{{"type":"ADDED","object":{}}}"#, sent(&json!({})));
        let event: WatchEvent<StoredBinding> = serde_json::from_str(&event).unwrap();
        let WatchEvent::Added(kept) = event else {
            panic!("{event:?}")
        };
        assert!(kept.parse().is_ok());
    }

    #[test]
    fn a_key_in_the_spec_is_not_shown() {
        let server = json!({"name": "s", "apiKey": {"value": "canary"}});
        let kept = kept(&json!({"prefect": {"server": server}}));
        let shown = format!("{kept:?} {kept:#?}");
        assert!(
            shown.contains("flows/b") && !shown.contains("canary"),
            "{shown}"
        );
        assert!(kept.spec.is_some_and(|text| text.contains("canary")));
    }

    #[test]
    fn one_that_cannot_be_read_is_still_known_by_name() {
        for spec in [json!({"suspend": "maybe"}), json!(null), json!(3)] {
            let kept = kept(&spec);
            assert_eq!(kept.parse().err(), Some(InvalidBinding), "{spec}");
            assert_eq!(kept.meta().name.as_deref(), Some("b"));
        }
    }
}

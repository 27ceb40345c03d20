//! A binding as the store keeps it: its metadata, and spec and status as text.
//!
//! Input: a binding as the API server sends it.
//! Output: [`StoredBinding`], which each reconcile parses. The text takes half the memory of the
//! parsed fields, most of which are empty, and parsing costs far less than a reconcile.
//! Invariants: a binding that cannot be parsed is still stored, so that its status can say so.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, api::ObjectMeta};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json, value::RawValue};

use crate::crd::{
    BindingRef, DeletionPolicy, DopplerPrefectBinding, DopplerPrefectBindingSpec,
    DopplerPrefectBindingStatus, InjectedEntry, SELECTS_JOBS_LABEL, only_refresh,
};

/// A binding of the store. Its text may contain an inline API key, so `Debug` prints only the name.
#[derive(Clone, Resource)]
#[resource(inherit = DopplerPrefectBinding)]
pub struct StoredBinding {
    metadata: ObjectMeta,
    /// As the API server sent it.
    spec: Option<Box<str>>,
    /// As the API server sent it.
    status: Option<Box<str>>,
}

/// The parts of a binding that are stored.
#[derive(Deserialize)]
struct RawBinding {
    metadata: Metadata,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
}

/// The parts of its metadata that are stored. Nothing needs owners, managed fields, and most labels and
/// annotations; `last-applied-configuration` would contain the binding again.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generation: Option<i64>,
    labels: Option<Labels>,
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    uid: Option<String>,
}

/// The label that is stored.
#[derive(Deserialize)]
struct Labels {
    #[serde(rename = "doppler-prefect.dev/selects-jobs")]
    selects_jobs: Option<String>,
}

impl StoredBinding {
    /// The binding, with the stored parts of its metadata.
    ///
    /// A status that this version cannot parse, as after a rollback, counts as none: the next
    /// reconcile writes it again.
    ///
    /// # Errors
    /// If this version cannot parse the spec.
    pub fn parse(&self) -> Result<DopplerPrefectBinding, InvalidBinding> {
        let spec = self.spec.as_deref().ok_or(InvalidBinding)?;
        Ok(DopplerPrefectBinding {
            metadata: self.metadata.clone(),
            spec: serde_json::from_str(spec).map_err(|_| InvalidBinding)?,
            status: self.parsed_status(),
        })
    }

    /// The binding with the fields of its spec that can be parsed, for the cleanup of one whose spec
    /// cannot. A deletion policy that cannot be parsed keeps the Secret.
    #[must_use]
    pub fn parsable_part(&self) -> DopplerPrefectBinding {
        let text = self.spec.as_deref().unwrap_or_default();
        let mut fields: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        let is_valid = |name: &str, value: &Value| {
            serde_json::from_value::<DopplerPrefectBindingSpec>(json!({name: value})).is_ok()
        };
        let keeps_secret = fields
            .get("managedSecret")
            .is_some_and(|value| !is_valid("managedSecret", value));
        fields.retain(|name, value| is_valid(name, value));
        let spec = serde_json::from_value(Value::Object(fields));
        let mut spec: DopplerPrefectBindingSpec = spec.unwrap_or_default();
        if keeps_secret {
            spec.managed_secret.deletion_policy = Some(DeletionPolicy::Retain);
        }
        DopplerPrefectBinding {
            metadata: self.metadata.clone(),
            spec,
            status: self.parsed_status(),
        }
    }

    /// The status. Of one that this version cannot parse, the recorded entries still count.
    fn parsed_status(&self) -> Option<DopplerPrefectBindingStatus> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Entries {
            injected_entries: Vec<InjectedEntry>,
        }
        let text = self.status.as_deref()?;
        serde_json::from_str(text).ok().or_else(|| {
            let Entries { injected_entries } = serde_json::from_str(text).ok()?;
            Some(DopplerPrefectBindingStatus {
                injected_entries,
                ..DopplerPrefectBindingStatus::default()
            })
        })
    }
}

/// A binding that an older CRD may have admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the binding cannot be parsed")]
pub struct InvalidBinding;

impl<'de> Deserialize<'de> for StoredBinding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RawBinding {
            metadata,
            spec,
            status,
        } = RawBinding::deserialize(deserializer)?;
        Ok(Self {
            metadata: ObjectMeta {
                annotations: metadata.annotations.and_then(only_refresh),
                deletion_timestamp: metadata.deletion_timestamp,
                finalizers: metadata.finalizers,
                generation: metadata.generation,
                labels: metadata.labels.and_then(|labels| {
                    let value = labels.selects_jobs?;
                    Some([(SELECTS_JOBS_LABEL.to_owned(), value)].into())
                }),
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
        f.debug_tuple("StoredBinding")
            .field(&BindingRef::of(self))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::WatchEvent;

    fn raw(spec: &serde_json::Value) -> String {
        let binding = json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
            "metadata": {
                "name": "b", "namespace": "flows", "uid": "u", "resourceVersion": "7", "generation": 3, "finalizers": ["f"],
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"a": "b", SELECTS_JOBS_LABEL: "true"},
                "annotations": {"other": "x", "doppler-prefect.dev/refresh": "now"},
                "managedFields": [{"manager": "kubectl"}],
            },
            "spec": spec,
            "status": {"observedGeneration": 3, "keyCount": 4},
        });
        binding.to_string()
    }

    fn stored(spec: &serde_json::Value) -> StoredBinding {
        serde_json::from_str(&raw(spec)).unwrap()
    }

    #[test]
    fn keeps_only_what_a_reconcile_needs() {
        let spec = json!({"doppler": {"project": "p"}, "suspend": true});
        let binding: DopplerPrefectBinding = serde_json::from_str(&raw(&spec)).unwrap();
        let stored = stored(&spec);
        let read = stored.parse().unwrap();
        assert_eq!((&read.spec, &read.status), (&binding.spec, &binding.status));
        assert_eq!(read.metadata, *stored.meta());
        let refresh = ("doppler-prefect.dev/refresh".to_owned(), "now".to_owned());
        let expected = ObjectMeta {
            annotations: Some(BTreeMap::from([refresh])),
            labels: Some([(SELECTS_JOBS_LABEL.to_owned(), "true".to_owned())].into()),
            managed_fields: None,
            ..binding.metadata
        };
        assert_eq!(*stored.meta(), expected);
    }

    /// `RawValue` needs the type of a [`WatchEvent`] first, as the API server sends it.
    #[test]
    fn deserializes_from_a_watch_event() {
        let event = format!(r#"{{"type":"ADDED","object":{}}}"#, raw(&json!({})));
        let event: WatchEvent<StoredBinding> = serde_json::from_str(&event).unwrap();
        let WatchEvent::Added(stored) = event else {
            panic!("{event:?}")
        };
        assert!(stored.parse().is_ok());
    }

    #[test]
    fn debug_prints_no_inline_key() {
        let server = json!({"name": "s", "apiKey": {"value": "canary"}});
        let stored = stored(&json!({"prefect": {"server": server}}));
        let shown = format!("{stored:?} {stored:#?}");
        assert!(
            shown.contains("flows/b") && !shown.contains("canary"),
            "{shown}"
        );
        assert!(stored.spec.is_some_and(|text| text.contains("canary")));
    }

    #[test]
    fn a_status_that_cannot_be_parsed_counts_as_none() {
        let text = raw(&json!({})).replace("\"observedGeneration\":3", "\"observedGeneration\":[]");
        let stored: StoredBinding = serde_json::from_str(&text).unwrap();
        assert_eq!(stored.parse().unwrap().status, None);
        let entry = r#""injectedEntries":[{"server":"http://s/api","pool":"k","secret":"s"}],"#;
        let text = text.replace(
            "\"observedGeneration\"",
            &format!("{entry}\"observedGeneration\""),
        );
        let stored: StoredBinding = serde_json::from_str(&text).unwrap();
        let status = stored.parse().unwrap().status.unwrap();
        assert_eq!(
            status.injected_entries.len(),
            1,
            "what is recorded still counts"
        );
    }

    #[test]
    fn cleanup_keeps_the_fields_that_can_be_parsed() {
        let retain = json!({"name": "s", "deletionPolicy": "Retain"});
        let spec = json!({"suspend": "maybe", "managedSecret": retain});
        let kept = stored(&spec).parsable_part().spec.managed_secret;
        assert_eq!(kept.name.as_deref(), Some("s"));
        assert_eq!(kept.deletion_policy, Some(DeletionPolicy::Retain));
        let spec = json!({"managedSecret": {"deletionPolicy": "Later"}});
        let kept = stored(&spec).parsable_part().spec.managed_secret;
        assert_eq!(kept.deletion_policy, Some(DeletionPolicy::Retain));
    }

    #[test]
    fn a_spec_that_cannot_be_parsed_leaves_metadata_for_the_cleanup() {
        let binding = stored(&json!({"suspend": "maybe"})).parsable_part();
        assert_eq!(binding.spec, DopplerPrefectBindingSpec::default());
        assert_eq!(binding.metadata.finalizers, Some(vec!["f".to_owned()]));
    }

    #[test]
    fn an_invalid_binding_keeps_its_name() {
        for spec in [json!({"suspend": "maybe"}), json!(null), json!(3)] {
            let stored = stored(&spec);
            assert_eq!(stored.parse().err(), Some(InvalidBinding), "{spec}");
            assert_eq!(stored.meta().name.as_deref(), Some("b"));
        }
    }
}

//! What the metadata of an existing Secret shows.
//!
//! Input: `ObjectMeta`, from a metadata watch or from the response to a write.
//! Output: an [`ObservedSecret`], small enough to be cached for every Secret of the operator.
//! Invariants: never sees `data`; the managed fields show whether another client changed them.
//! Drops everything else, above all `last-applied-configuration`, which carries values.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde_json::Value;

use super::metadata::{ADOPTED, BINDING, BINDING_UID};
use crate::crd::{ENTRIES_ANNOTATION, EntryRecord, MANAGED_BY, MANAGED_BY_LABEL, Uid};

/// The part of a Secret's metadata that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // independent observations, not the states of a machine
pub struct ObservedSecret {
    /// UID of the Secret.
    pub uid: Uid,
    /// Its version.
    pub resource_version: Box<str>,
    /// UID of the binding in its annotation.
    pub binding_uid: Option<Uid>,
    /// Name of that binding.
    pub binding: Option<Box<str>>,
    /// The record of the pool entries that name it, as text. Empty if it is not a record of this
    /// Secret.
    pub entries: Option<Box<str>>,
    /// Whether it has the operator's label.
    pub has_managed_by_label: bool,
    /// Its controller, unless that is the binding in its annotation.
    pub controller: Option<Box<Controller>>,
    /// UIDs of all owner references, in order.
    pub owner_uids: Box<[Uid]>,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether it has a map of labels.
    pub has_labels: bool,
    /// Whether it has a map of annotations.
    pub has_annotations: bool,
    /// What the managed fields show about `data`.
    pub data: DataOwnership,
    /// Fingerprints of all labels and annotations, sorted.
    fingerprints: Box<[u64]>,
    /// Labels and annotations that the operator's field manager owns, except those of
    /// `doppler-prefect.dev` and the operator's own label.
    managed_metadata: Box<[MetadataKey]>,
}

/// The controller of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Kind and name, such as `Certificate web`.
    pub text: Box<str>,
    /// UID.
    pub uid: Uid,
}

/// Key of a label or an annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataKey {
    /// A label.
    Label(Box<str>),
    /// An annotation.
    Annotation(Box<str>),
}

/// Who owns `data`, by the managed fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataOwnership {
    /// Only the operator's own updates own keys. The value is their [`fingerprint_of_names`].
    Ours(u64),
    /// Another client owns a part, possibly with the desired value. Only the data itself shows it.
    Unknown,
}

impl ObservedSecret {
    /// Extracts the observed state from an object's metadata.
    #[must_use]
    pub fn from_metadata(metadata: &ObjectMeta) -> Self {
        let annotation = |key: &str| {
            let annotations = metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(key)).map(String::as_str)
        };
        let binding_uid = annotation(BINDING_UID);
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        let fields = metadata.managed_fields.as_deref().unwrap_or_default();
        Self {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            resource_version: metadata
                .resource_version
                .as_deref()
                .unwrap_or_default()
                .into(),
            binding_uid: binding_uid.map(Uid::from),
            binding: annotation(BINDING).map(Into::into),
            entries: annotation(ENTRIES_ANNOTATION).map(|text| {
                let namespace = metadata.namespace.as_deref().unwrap_or_default();
                let name = metadata.name.as_deref().unwrap_or_default();
                let record = EntryRecord::parse(text, namespace, name);
                record.map_or("", |_| text).into()
            }),
            has_managed_by_label: metadata
                .labels
                .as_ref()
                .and_then(|all| all.get(MANAGED_BY_LABEL))
                .is_some_and(|value| value == MANAGED_BY),
            controller: owners
                .iter()
                .find(|owner| owner.controller == Some(true))
                .filter(|owner| Some(owner.uid.as_str()) != binding_uid)
                .map(|owner| {
                    Box::new(Controller {
                        text: format!("{} {}", owner.kind, owner.name).into(),
                        uid: owner.uid.as_str().into(),
                    })
                }),
            owner_uids: owners
                .iter()
                .map(|owner| owner.uid.as_str().into())
                .collect(),
            terminating: metadata.deletion_timestamp.is_some(),
            has_labels: metadata.labels.is_some(),
            has_annotations: metadata.annotations.is_some(),
            data: data_ownership(fields),
            fingerprints: fingerprints(metadata),
            managed_metadata: managed_metadata(metadata, fields),
        }
    }

    /// Whether its annotation names the binding of this UID.
    #[must_use]
    pub fn belongs_to(&self, binding_uid: &str) -> bool {
        self.binding_uid
            .as_ref()
            .is_some_and(|uid| uid == binding_uid)
    }

    /// The record of the pool entries that name it. None without one, and for a text that the
    /// operator does not write.
    #[must_use]
    pub fn entry_record(&self) -> Option<EntryRecord> {
        let text = self.entries.as_deref()?;
        EntryRecord::parse_valid(text)
    }

    /// Whether a binding adopted it.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.has_annotation(ADOPTED, "true")
    }

    /// Whether it has an owner reference to the object of this UID.
    #[must_use]
    pub fn is_owned_by(&self, uid: &str) -> bool {
        let uid = Uid::from(uid);
        self.owner_uids.contains(&uid)
    }

    /// Whether it has an owner reference to the binding in its annotation.
    #[must_use]
    pub fn is_owned_by_recorded_binding(&self) -> bool {
        let claimant = self.binding_uid.as_ref();
        claimant.is_some_and(|uid| self.owner_uids.contains(uid))
    }

    /// Whether it has this label with this value.
    #[must_use]
    pub fn has_label(&self, key: &str, value: &str) -> bool {
        self.fingerprints
            .binary_search(&fingerprint('l', key, value))
            .is_ok()
    }

    /// Whether it has this annotation with this value.
    #[must_use]
    pub fn has_annotation(&self, key: &str, value: &str) -> bool {
        self.fingerprints
            .binary_search(&fingerprint('a', key, value))
            .is_ok()
    }

    /// The labels and annotations that the operator once set from a spec.
    #[must_use]
    pub fn managed_metadata(&self) -> &[MetadataKey] {
        &self.managed_metadata
    }
}

fn fingerprints(metadata: &ObjectMeta) -> Box<[u64]> {
    let of = |kind, all: Option<&std::collections::BTreeMap<String, String>>| -> Vec<u64> {
        all.into_iter()
            .flatten()
            .map(|(key, value)| fingerprint(kind, key, value))
            .collect()
    };
    let mut entries = of('l', metadata.labels.as_ref());
    entries.extend(of('a', metadata.annotations.as_ref()));
    entries.sort_unstable();
    entries.into()
}

fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(MANAGED_BY)
        && entry.operation.as_deref() == Some("Update")
        && entry.subresource.as_deref().unwrap_or_default().is_empty()
}

fn data_ownership(fields: &[ManagedFieldsEntry]) -> DataOwnership {
    // A client may clear the managed fields; then they show nothing. An object that has managed
    // fields but none on `data` has no keys.
    if fields.is_empty() {
        return DataOwnership::Unknown;
    }
    let mut names: Vec<&str> = Vec::new();
    for entry in fields {
        let Some(Value::Object(set)) = entry.fields_v1.as_ref().map(|fields| &fields.0) else {
            continue;
        };
        if set.contains_key("f:stringData") {
            return DataOwnership::Unknown;
        }
        let Some(Value::Object(keys)) = set.get("f:data") else {
            continue;
        };
        let owned = keys.keys().filter_map(|key| key.strip_prefix("f:"));
        if is_ours(entry) {
            names.extend(owned);
        } else if owned.count() > 0 {
            return DataOwnership::Unknown;
        }
    }
    names.sort_unstable();
    names.dedup();
    DataOwnership::Ours(fingerprint_of_names(names))
}

fn managed_metadata(metadata: &ObjectMeta, fields: &[ManagedFieldsEntry]) -> Box<[MetadataKey]> {
    let mut own = Vec::new();
    for entry in fields.iter().filter(|entry| is_ours(entry)) {
        let Some(owned) = entry
            .fields_v1
            .as_ref()
            .and_then(|fields| fields.0.get("f:metadata"))
        else {
            continue;
        };
        let keys = |map: &str| -> Vec<Box<str>> {
            owned
                .get(map)
                .and_then(Value::as_object)
                .into_iter()
                .flat_map(|keys| keys.keys())
                .filter_map(|key| key.strip_prefix("f:"))
                .filter(|key| *key != MANAGED_BY_LABEL && !key.starts_with("doppler-prefect.dev/"))
                .map(Into::into)
                .collect()
        };
        let exists = |all: &Option<std::collections::BTreeMap<String, String>>, key: &str| {
            all.as_ref().is_some_and(|all| all.contains_key(key))
        };
        own.extend(
            keys("f:labels")
                .into_iter()
                .filter(|key| exists(&metadata.labels, key))
                .map(MetadataKey::Label),
        );
        own.extend(
            keys("f:annotations")
                .into_iter()
                .filter(|key| exists(&metadata.annotations, key))
                .map(MetadataKey::Annotation),
        );
    }
    own.into()
}

fn fingerprint(kind: char, key: &str, value: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (kind, key, value).hash(&mut hasher);
    hasher.finish()
}

/// Fingerprint of sorted names, comparable only within this process.
#[must_use]
pub fn fingerprint_of_names<'a>(names: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for name in names {
        name.hash(&mut hasher);
    }
    hasher.finish()
}

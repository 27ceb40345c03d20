//! Builds the JSON Patch that brings a Secret to its desired state.
//!
//! Input: a [`Desired`] Secret and the [`ObservedSecret`] that exists.
//! Output: operations, guarded by resourceVersion, that replace `data` as a whole.
//! Invariants: pure; changes no label, annotation or owner of others; writes values straight into
//! the request and never copies them into a JSON tree.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Serialize, Serializer};

use super::{
    decide::obsolete_metadata,
    desired::Desired,
    metadata::{ADOPTED, BINDING, BINDING_UID},
    observed::{MetadataKey, ObservedSecret},
};
use crate::crd::ENTRIES_ANNOTATION;

/// One operation of a JSON Patch.
#[derive(Serialize)]
pub struct PatchOperation<'a> {
    op: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Operand<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Operand<'a> {
    Text(&'a str),
    Map(BTreeMap<&'a str, &'a str>),
    Owners(Vec<&'a OwnerReference>),
    Owner(&'a OwnerReference),
    Data(Base64Values<'a>),
}

/// Values in base64, as the Kubernetes API expects them.
#[derive(Clone, Copy)]
pub struct Base64Values<'a>(pub &'a BTreeMap<String, SecretSlice<u8>>);

impl Serialize for Base64Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0
                .iter()
                .map(|(name, value)| (name, STANDARD.encode(value.expose_secret()))),
        )
    }
}

fn add(path: impl Into<String>, value: Operand<'_>) -> PatchOperation<'_> {
    PatchOperation {
        op: "add",
        path: path.into(),
        value: Some(value),
    }
}

fn remove<'a>(path: impl Into<String>) -> PatchOperation<'a> {
    PatchOperation {
        op: "remove",
        path: path.into(),
        value: None,
    }
}

/// A mismatch gives a 409 from the API server's own check. A `test` operation would give a 422,
/// which looks like an invalid patch.
fn version_guard(observed: &ObservedSecret) -> PatchOperation<'_> {
    PatchOperation {
        op: "replace",
        path: "/metadata/resourceVersion".to_owned(),
        value: Some(Operand::Text(&observed.resource_version)),
    }
}

/// The patch that brings the `observed` Secret to `desired`.
#[must_use]
pub fn update<'a>(observed: &'a ObservedSecret, desired: &'a Desired) -> Vec<PatchOperation<'a>> {
    let mut patch = vec![
        version_guard(observed),
        add("/data", Operand::Data(Base64Values(&desired.data))),
        // The API server refuses a change: metadata does not show the type.
        add("/type", Operand::Text(desired.type_.as_str())),
    ];
    push_metadata(
        &mut patch,
        "/metadata/labels",
        observed.has_labels,
        &desired.labels,
        |key, value| observed.has_label(key, value),
    );
    push_metadata(
        &mut patch,
        "/metadata/annotations",
        observed.has_annotations,
        &desired.annotations,
        |key, value| observed.has_annotation(key, value),
    );
    patch.extend(
        obsolete_metadata(observed, desired).map(|entry| match entry {
            MetadataKey::Label(key) => remove(format!("/metadata/labels/{}", escape_pointer(key))),
            MetadataKey::Annotation(key) => {
                remove(format!("/metadata/annotations/{}", escape_pointer(key)))
            }
        }),
    );
    if desired.removes_entries {
        push_remove_entries(&mut patch, observed);
    }
    push_owner(
        &mut patch,
        observed,
        &desired.binding_uid,
        desired.owner.as_ref(),
    );
    patch
}

/// The patch that makes `entries` the record of the pool entries that name the `observed` Secret.
/// A Secret that a pool names has no owner.
#[must_use]
pub fn record_entries<'a>(
    observed: &'a ObservedSecret,
    entries: Option<&'a str>,
) -> Vec<PatchOperation<'a>> {
    let mut patch = vec![version_guard(observed)];
    match entries {
        Some(entries) => {
            let annotation = annotation_path(ENTRIES_ANNOTATION);
            patch.push(add(annotation, Operand::Text(entries)));
            if let Some(uid) = &observed.binding_uid {
                push_owner(&mut patch, observed, &uid.to_string(), None);
            }
        }
        None => push_remove_entries(&mut patch, observed),
    }
    patch
}

/// The patch that keeps the `observed` Secret after its binding is deleted: it removes the owner
/// reference, the annotations that name the binding, and the record of pool entries.
#[must_use]
pub fn disown<'a>(observed: &'a ObservedSecret, binding_uid: &str) -> Vec<PatchOperation<'a>> {
    let mut patch = vec![version_guard(observed)];
    for (annotation, exists) in [
        (BINDING_UID, observed.binding_uid.is_some()),
        (BINDING, observed.binding.is_some()),
        (ADOPTED, observed.is_adopted()),
    ] {
        if exists {
            patch.push(remove(annotation_path(annotation)));
        }
    }
    push_remove_entries(&mut patch, observed);
    push_owner(&mut patch, observed, binding_uid, None);
    patch
}

/// The patch that makes the garbage collector delete the `observed` Secret with its binding. No pool
/// names the Secret any more.
#[must_use]
pub fn set_owner<'a>(
    observed: &'a ObservedSecret,
    owner: &'a OwnerReference,
) -> Vec<PatchOperation<'a>> {
    let mut patch = vec![version_guard(observed)];
    push_remove_entries(&mut patch, observed);
    push_owner(&mut patch, observed, &owner.uid, Some(owner));
    patch
}

/// Adds the removal of the record of pool entries, if there is one.
fn push_remove_entries(patch: &mut Vec<PatchOperation<'_>>, observed: &ObservedSecret) {
    if observed.entries.is_some() {
        patch.push(remove(annotation_path(ENTRIES_ANNOTATION)));
    }
}

fn annotation_path(annotation: &str) -> String {
    format!("/metadata/annotations/{}", escape_pointer(annotation))
}

/// Adds what brings one map of the metadata to `desired`.
fn push_metadata<'a>(
    patch: &mut Vec<PatchOperation<'a>>,
    map: &str,
    exists: bool,
    desired: &'a BTreeMap<String, String>,
    matches: impl Fn(&str, &str) -> bool,
) {
    if exists {
        patch.extend(
            desired
                .iter()
                .filter(|(key, value)| !matches(key, value))
                .map(|(key, value)| {
                    add(
                        format!("{map}/{}", escape_pointer(key)),
                        Operand::Text(value),
                    )
                }),
        );
    } else {
        let all = desired
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        patch.push(add(map, Operand::Map(all)));
    }
}

/// Adds what brings the owner reference to the binding to `desired`.
fn push_owner<'a>(
    patch: &mut Vec<PatchOperation<'a>>,
    observed: &ObservedSecret,
    binding_uid: &str,
    desired: Option<&'a OwnerReference>,
) {
    let position = observed
        .owner_uids
        .iter()
        .position(|owner| owner == binding_uid);
    match (position, desired) {
        (None, Some(owner)) if observed.owner_uids.is_empty() => {
            patch.push(add(
                "/metadata/ownerReferences",
                Operand::Owners(vec![owner]),
            ));
        }
        (None, Some(owner)) => {
            patch.push(add("/metadata/ownerReferences/-", Operand::Owner(owner)));
        }
        (Some(index), None) => patch.push(remove(format!("/metadata/ownerReferences/{index}"))),
        _ => {}
    }
}

/// Escapes a key for a JSON pointer (RFC 6901).
fn escape_pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

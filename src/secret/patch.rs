//! The JSON Patch that brings a Secret to what it should be.
//!
//! In: [`Desired`] and the [`ObservedSecret`] of the one that is there. Out: operations, guarded by resourceVersion, that replace `data` whole and touch
//! nothing of others. Pure. Values are written straight into the request and never copied into a JSON tree.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};

use super::{
    decide::obsolete_metadata,
    desired::{BINDING, BINDING_UID, Desired},
    observed::{MetadataKey, ObservedSecret},
};

/// One operation of a JSON Patch.
#[derive(Serialize)]
pub struct Operation<'a> {
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

/// Values in base64, as Kubernetes takes them.
#[derive(Clone, Copy)]
pub struct Base64Values<'a>(pub &'a BTreeMap<String, SecretString>);

impl Serialize for Base64Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0
                .iter()
                .map(|(name, value)| (name, STANDARD.encode(value.expose_secret()))),
        )
    }
}

fn add(path: impl Into<String>, value: Operand<'_>) -> Operation<'_> {
    Operation {
        op: "add",
        path: path.into(),
        value: Some(value),
    }
}

fn remove<'a>(path: impl Into<String>) -> Operation<'a> {
    Operation {
        op: "remove",
        path: path.into(),
        value: None,
    }
}

/// A mismatch is a 409 from the API server's own check; a `test` would be a 422 that looks like a bad patch.
fn version_guard(facts: &ObservedSecret) -> Operation<'_> {
    Operation {
        op: "replace",
        path: "/metadata/resourceVersion".to_owned(),
        value: Some(Operand::Text(&facts.resource_version)),
    }
}

/// The patch that makes the Secret of `facts` the `desired` one.
#[must_use]
pub fn update<'a>(facts: &'a ObservedSecret, desired: &'a Desired) -> Vec<Operation<'a>> {
    let mut patch = vec![
        version_guard(facts),
        add("/data", Operand::Data(Base64Values(&desired.data))),
    ];
    push_metadata(
        &mut patch,
        "/metadata/labels",
        facts.has_labels,
        &desired.labels,
        |key, value| facts.has_label(key, value),
    );
    push_metadata(
        &mut patch,
        "/metadata/annotations",
        facts.has_annotations,
        &desired.annotations,
        |key, value| facts.has_annotation(key, value),
    );
    patch.extend(obsolete_metadata(facts, desired).map(|entry| match entry {
        MetadataKey::Label(key) => remove(format!("/metadata/labels/{}", escape_pointer(key))),
        MetadataKey::Annotation(key) => {
            remove(format!("/metadata/annotations/{}", escape_pointer(key)))
        }
    }));
    push_owner(
        &mut patch,
        facts,
        &desired.binding_uid,
        desired.owner.as_ref(),
    );
    patch
}

/// The patch that lets the Secret of `facts` stay behind without its binding: no owner reference to it, and no claim.
#[must_use]
pub fn disown<'a>(facts: &'a ObservedSecret, binding_uid: &str) -> Vec<Operation<'a>> {
    let mut patch = vec![version_guard(facts)];
    if facts.binding_uid.is_some() {
        patch.push(remove(format!(
            "/metadata/annotations/{}",
            escape_pointer(BINDING_UID)
        )));
    }
    if facts.binding.is_some() {
        patch.push(remove(format!(
            "/metadata/annotations/{}",
            escape_pointer(BINDING)
        )));
    }
    push_owner(&mut patch, facts, binding_uid, None);
    patch
}

/// The patch that has the Secret of `facts` go with its binding, by garbage collection.
#[must_use]
pub fn set_owner<'a>(facts: &'a ObservedSecret, wanted: &'a OwnerReference) -> Vec<Operation<'a>> {
    let mut patch = vec![version_guard(facts)];
    push_owner(&mut patch, facts, &wanted.uid, Some(wanted));
    patch
}

fn push_metadata<'a>(
    patch: &mut Vec<Operation<'a>>,
    map: &str,
    there: bool,
    wanted: &'a BTreeMap<String, String>,
    is_right: impl Fn(&str, &str) -> bool,
) {
    if there {
        patch.extend(
            wanted
                .iter()
                .filter(|(key, value)| !is_right(key, value))
                .map(|(key, value)| {
                    add(
                        format!("{map}/{}", escape_pointer(key)),
                        Operand::Text(value),
                    )
                }),
        );
    } else {
        let all = wanted
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        patch.push(add(map, Operand::Map(all)));
    }
}

fn push_owner<'a>(
    patch: &mut Vec<Operation<'a>>,
    facts: &ObservedSecret,
    binding_uid: &str,
    wanted: Option<&'a OwnerReference>,
) {
    let ours = facts
        .owner_uids
        .iter()
        .position(|owner| owner == binding_uid);
    match (ours, wanted) {
        (None, Some(owner)) if facts.owner_uids.is_empty() => {
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

/// A key as a part of a JSON pointer (RFC 6901).
fn escape_pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

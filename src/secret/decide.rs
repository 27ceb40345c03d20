//! What is to be done about a Secret.
//!
//! In: what is known of the one that is there, the one that should be, and who asks. Out: a [`Decision`]. Pure.

use super::{
    desired::{CONTENT_HASH, Desired},
    observed::{DataOwnership, ObservedSecret, fingerprint_of_names},
};

/// What is known of the Secret's place.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// Nothing yet: the watch has not said.
    Unknown,
    /// There is none.
    Absent,
    /// This one is there.
    Present(&'a ObservedSecret),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// resourceVersion at which the content was written by us, or compared and found right.
    pub known_good: Option<&'a str>,
    /// Whether a Secret that nobody controls may be taken.
    pub adopt: bool,
    /// Whether the binding that the Secret's annotation names (see [`ObservedSecret::binding_uid`]) is still there. Of no account if that is the asker.
    pub recorded_binding_exists: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// POST it; if it is there after all, GET it and judge again.
    Create,
    /// Nothing.
    UpToDate,
    /// Patch it at this resourceVersion.
    Update {
        /// The version that was judged.
        resource_version: Box<str>,
        /// Why.
        reason: UpdateReason,
    },
    /// GET it and compare the content: the metadata alone does not tell.
    Verify,
    /// It is not ours.
    Foreign {
        /// Its controller, such as `Certificate web`, if it has one.
        owner: Option<Box<str>>,
    },
    /// It belongs to another binding.
    Claimed {
        /// That binding's name.
        by: Box<str>,
    },
    /// It is being deleted: wait until it is gone.
    Terminating,
}

/// Why a Secret is patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateReason {
    /// It is taken over.
    Adopt,
    /// Doppler or the spec gives other content.
    Content,
    /// Labels, annotations or the owner reference differ.
    Metadata,
    /// Somebody changed the content.
    Drift,
}

/// What is to be done to bring `target` to `desired`.
#[must_use]
pub fn decide(target: Target<'_>, desired: &Desired, asker: &Claimant<'_>) -> Decision {
    let facts = match target {
        Target::Unknown => return Decision::Verify,
        Target::Absent => return Decision::Create,
        Target::Present(facts) => facts,
    };
    let update = |why| Decision::Update {
        resource_version: facts.resource_version.clone(),
        reason: why,
    };
    if let Some(verdict) = ownership_conflict(facts, desired, asker) {
        return verdict;
    }
    if facts.terminating {
        return Decision::Terminating;
    }
    if !facts.belongs_to(&desired.binding_uid) {
        return update(UpdateReason::Adopt);
    }
    if !facts.has_annotation(CONTENT_HASH, &desired.content_hash) {
        return update(UpdateReason::Content);
    }
    if !metadata_matches(facts, desired) {
        return update(UpdateReason::Metadata);
    }
    let names = fingerprint_of_names(desired.data.keys().map(String::as_str));
    if facts.data == DataOwnership::Ours(names)
        || asker.known_good == Some(&*facts.resource_version)
    {
        Decision::UpToDate
    } else {
        Decision::Verify
    }
}

/// What is to be done once the content was looked at for [`Decision::Verify`]: `decide` said nothing else is wrong.
#[must_use]
pub fn decide_content(facts: &ObservedSecret, content_matches: bool) -> Decision {
    if content_matches {
        Decision::UpToDate
    } else {
        Decision::Update {
            resource_version: facts.resource_version.clone(),
            reason: UpdateReason::Drift,
        }
    }
}

fn ownership_conflict(
    facts: &ObservedSecret,
    desired: &Desired,
    asker: &Claimant<'_>,
) -> Option<Decision> {
    let ours = facts.belongs_to(&desired.binding_uid);
    if let (Some(claimant), false) = (&facts.binding_uid, ours) {
        // A binding that is gone claims its Secret for as long as the garbage collector is about to take it; a retained one can be adopted.
        if asker.recorded_binding_exists || facts.is_owned_by_recorded_binding() {
            return Some(Decision::Claimed {
                by: facts
                    .binding
                    .clone()
                    .unwrap_or_else(|| claimant.to_string().into()),
            });
        }
    }
    let controller = facts
        .controller
        .as_ref()
        .filter(|controller| controller.uid != *desired.binding_uid);
    // An owner reference to the asker is as good as the annotation: only our own writes, or someone who may write the Secret anyway, set it.
    let mine = ours || facts.is_owned_by(&desired.binding_uid);
    if controller.is_some() || !(mine || asker.adopt) {
        return Some(Decision::Foreign {
            owner: controller.map(|controller| controller.text.clone()),
        });
    }
    None
}

fn metadata_matches(facts: &ObservedSecret, desired: &Desired) -> bool {
    let owned = facts.is_owned_by(&desired.binding_uid);
    desired
        .labels
        .iter()
        .all(|(key, value)| facts.has_label(key, value))
        && desired
            .annotations
            .iter()
            .all(|(key, value)| facts.has_annotation(key, value))
        && owned == desired.owner.is_some()
        && obsolete_metadata(facts, desired).next().is_none()
}

/// Labels and annotations that we once set and the spec no longer has.
pub(super) fn obsolete_metadata<'a>(
    facts: &'a ObservedSecret,
    desired: &'a Desired,
) -> impl Iterator<Item = &'a super::observed::MetadataKey> {
    use super::observed::MetadataKey;
    facts.managed_metadata().iter().filter(|entry| match entry {
        MetadataKey::Label(key) => !desired.labels.contains_key(&**key),
        MetadataKey::Annotation(key) => !desired.annotations.contains_key(&**key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crd::{DopplerSpec, ManagedSecretSpec},
        secret::{
            content_hash::HashKey,
            desired::{DesiredInput, desired},
        },
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};

    fn wanted(owned: bool, value: &str) -> Desired {
        let key = HashKey::from_bytes(&[1; 32]).unwrap();
        let input = DesiredInput {
            binding: "b",
            binding_uid: "u1",
            namespace: "ns",
            doppler: &DopplerSpec::default(),
            managed: &ManagedSecretSpec {
                labels: [("team".to_owned(), "x".to_owned())].into(),
                ..Default::default()
            },
            project: "p",
            config: "c",
            key: &key,
        };
        let values = [("A".to_owned(), value.into()), ("B".to_owned(), "b".into())];
        let desired = desired(&input, &values.into()).unwrap();
        if owned {
            desired.with_owner("b")
        } else {
            desired
        }
    }

    /// The metadata that the API server shows after we wrote `desired`.
    fn written(desired: &Desired) -> Value {
        let fields = |map: &std::collections::BTreeMap<String, String>| -> Value {
            map.keys()
                .map(|key| (format!("f:{key}"), json!({})))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        json!({
            "name": "b", "namespace": "ns", "uid": "s1", "resourceVersion": "7",
            "labels": desired.labels, "annotations": desired.annotations,
            "ownerReferences": desired.owner.iter().collect::<Vec<_>>(),
            "managedFields": [{
                "manager": "doppler-prefect-operator", "operation": "Update", "apiVersion": "v1",
                "fieldsV1": {
                    "f:data": {".": {}, "f:A": {}, "f:B": {}}, "f:type": {},
                    "f:metadata": {"f:labels": fields(&desired.labels), "f:annotations": fields(&desired.annotations)},
                },
            }],
        })
    }

    fn facts(metadata: &Value) -> ObservedSecret {
        ObservedSecret::from_metadata(
            &serde_json::from_value::<ObjectMeta>(metadata.clone()).unwrap(),
        )
    }

    const CLAIMANT: Claimant<'static> = Claimant {
        known_good: None,
        adopt: false,
        recorded_binding_exists: true,
    };

    fn decision(change: impl FnOnce(&mut Value), asker: &Claimant<'_>) -> Decision {
        let desired = wanted(true, "a");
        let mut metadata = written(&desired);
        change(&mut metadata);
        decide(Target::Present(&facts(&metadata)), &desired, asker)
    }

    fn update(why: UpdateReason) -> Decision {
        Decision::Update {
            resource_version: "7".into(),
            reason: why,
        }
    }

    #[test]
    fn creates_an_absent_secret_and_verifies_an_unknown_one() {
        assert_eq!(
            decide(Target::Absent, &wanted(true, "a"), &CLAIMANT),
            Decision::Create
        );
        assert_eq!(
            decide(Target::Unknown, &wanted(true, "a"), &CLAIMANT),
            Decision::Verify
        );
    }

    #[test]
    fn matching_secret_is_up_to_date_without_a_read() {
        assert_eq!(decision(|_| {}, &CLAIMANT), Decision::UpToDate);
    }

    #[test]
    fn keeps_labels_annotations_and_owners_of_others() {
        let others = |m: &mut Value| {
            m["labels"]["theirs"] = json!("1");
            m["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!("canary");
            m["ownerReferences"]
                .as_array_mut()
                .unwrap()
                .push(json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": "x"}));
        };
        assert_eq!(decision(others, &CLAIMANT), Decision::UpToDate);
    }

    #[test]
    fn updates_on_new_content() {
        let there = written(&wanted(true, "a"));
        assert_eq!(
            decide(
                Target::Present(&facts(&there)),
                &wanted(true, "new"),
                &CLAIMANT
            ),
            update(UpdateReason::Content)
        );
    }

    #[test]
    fn verifies_data_of_other_managers_unless_version_is_known_good() {
        let others_own_a_key = |m: &mut Value| {
            m["managedFields"].as_array_mut().unwrap().push(json!({
                "manager": "kubectl-patch", "operation": "Update", "fieldsV1": {"f:data": {"f:A": {}}}
            }));
        };
        let key_removed = |m: &mut Value| {
            m["managedFields"][0]["fieldsV1"]["f:data"] = json!({".": {}, "f:A": {}});
        };
        let applied_by_us = |m: &mut Value| m["managedFields"][0]["operation"] = json!("Apply");
        let cleared = |m: &mut Value| m["managedFields"] = json!([]);
        assert_eq!(decision(others_own_a_key, &CLAIMANT), Decision::Verify);
        assert_eq!(decision(key_removed, &CLAIMANT), Decision::Verify);
        assert_eq!(decision(applied_by_us, &CLAIMANT), Decision::Verify);
        assert_eq!(decision(cleared, &CLAIMANT), Decision::Verify);
        assert_eq!(
            decision(
                others_own_a_key,
                &Claimant {
                    known_good: Some("7"),
                    ..CLAIMANT
                }
            ),
            Decision::UpToDate
        );
        assert_eq!(
            decision(
                others_own_a_key,
                &Claimant {
                    known_good: Some("6"),
                    ..CLAIMANT
                }
            ),
            Decision::Verify
        );
        let there = facts(&written(&wanted(true, "a")));
        assert_eq!(decide_content(&there, true), Decision::UpToDate);
        assert_eq!(decide_content(&there, false), update(UpdateReason::Drift));
    }

    #[test]
    fn repairs_managed_metadata_and_removes_obsolete_keys() {
        for change in [
            (|m| m["labels"]["team"] = json!("other")) as fn(&mut Value),
            |m| m["annotations"]["doppler-prefect.dev/project"] = json!("other"),
            |m| m["labels"]["app.kubernetes.io/managed-by"] = json!("Helm"),
            |m| m["ownerReferences"] = json!([]),
            |m| {
                m["labels"]["old"] = json!("1");
                m["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"]["f:old"] = json!({});
            },
        ] {
            assert_eq!(decision(change, &CLAIMANT), update(UpdateReason::Metadata));
        }
        let there = facts(&written(&wanted(true, "a")));
        assert_eq!(
            decide(Target::Present(&there), &wanted(false, "a"), &CLAIMANT),
            update(UpdateReason::Metadata)
        );
    }

    fn foreign(m: &mut Value) {
        m["annotations"] = json!({});
        m["ownerReferences"] = json!([]);
    }

    #[test]
    fn adopts_foreign_secret_only_on_request_without_controller() {
        let controlled = |m: &mut Value| {
            foreign(m);
            m["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Certificate", "name": "web", "uid": "c", "controller": true}]);
        };
        let adopt = Claimant {
            adopt: true,
            ..CLAIMANT
        };
        assert_eq!(
            decision(foreign, &CLAIMANT),
            Decision::Foreign { owner: None }
        );
        assert_eq!(decision(foreign, &adopt), update(UpdateReason::Adopt));
        let owner = Some("Certificate web".into());
        assert_eq!(
            decision(controlled, &CLAIMANT),
            Decision::Foreign {
                owner: owner.clone()
            }
        );
        assert_eq!(decision(controlled, &adopt), Decision::Foreign { owner });
    }

    #[test]
    fn secret_of_another_binding_stays_claimed_while_that_exists() {
        let claimed = |m: &mut Value| {
            m["annotations"]["doppler-prefect.dev/binding-uid"] = json!("u2");
            m["annotations"]["doppler-prefect.dev/binding"] = json!("first");
            m["ownerReferences"] = json!([]);
        };
        let about_to_go = |m: &mut Value| {
            claimed(m);
            m["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "B", "name": "first", "uid": "u2", "controller": true}]);
        };
        let adopt = Claimant {
            adopt: true,
            ..CLAIMANT
        };
        let gone = Claimant {
            recorded_binding_exists: false,
            ..CLAIMANT
        };
        let by_first = Decision::Claimed { by: "first".into() };
        assert_eq!(decision(claimed, &CLAIMANT), by_first);
        assert_eq!(decision(claimed, &adopt), by_first);
        assert_eq!(decision(about_to_go, &gone), by_first);
        assert_eq!(decision(claimed, &gone), Decision::Foreign { owner: None });
        assert_eq!(
            decision(
                claimed,
                &Claimant {
                    adopt: true,
                    ..gone
                }
            ),
            update(UpdateReason::Adopt)
        );
    }

    #[test]
    fn waits_for_a_terminating_secret() {
        let change = |m: &mut Value| m["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(decision(change, &CLAIMANT), Decision::Terminating);
    }

    #[test]
    fn patch_replaces_all_data_and_changes_only_managed_metadata() {
        let desired = wanted(false, "new");
        let mut there = written(&wanted(true, "a"));
        there["labels"]["o/ld~"] = json!("1");
        there["labels"]["theirs"] = json!("1");
        there["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"]["f:o/ld~"] = json!({});
        let patch =
            serde_json::to_value(crate::secret::patch::update(&facts(&there), &desired)).unwrap();
        assert_eq!(
            patch,
            json!([
                {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
                {"op": "add", "path": "/data", "value": {"A": "bmV3", "B": "Yg=="}},
                {"op": "add", "path": "/metadata/annotations/doppler-prefect.dev~1content-hash", "value": desired.content_hash},
                {"op": "remove", "path": "/metadata/labels/o~1ld~0"},
                {"op": "remove", "path": "/metadata/ownerReferences/0"},
            ])
        );
    }

    #[test]
    fn patch_of_a_bare_secret_adds_whole_maps() {
        let desired = wanted(true, "a");
        let bare = facts(&json!({"uid": "s", "resourceVersion": "7"}));
        let patch = serde_json::to_value(crate::secret::patch::update(&bare, &desired)).unwrap();
        assert_eq!(
            patch[2],
            json!({"op": "add", "path": "/metadata/labels", "value": desired.labels})
        );
        assert_eq!(patch[3]["path"], "/metadata/annotations");
        assert_eq!(
            patch[4],
            json!({"op": "add", "path": "/metadata/ownerReferences", "value": [desired.owner]})
        );
    }
}

//! What is to be done about a Secret.
//!
//! In: what is known of the one that is there, the one that should be, and who asks. Out: a [`Verdict`]. Pure.

use super::{
    desired::{CONTENT_HASH, Desired},
    observed::{Data, Facts, fingerprint_of_names},
};

/// What is known of the Secret's place.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// Nothing yet: the watch has not said.
    Unknown,
    /// There is none.
    Absent,
    /// This one is there.
    There(&'a Facts),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// resourceVersion at which the content was written by us, or compared and found right.
    pub known_good: Option<&'a str>,
    /// Whether a Secret that nobody controls may be taken.
    pub adopt: bool,
    /// Whether the binding that the Secret's annotation names (see [`Facts::binding_uid`]) is still there. Of no account if that is the asker.
    pub claimant_lives: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// POST it; if it is there after all, GET it and judge again.
    Create,
    /// Nothing.
    Current,
    /// Patch it at this resourceVersion.
    Update {
        /// The version that was judged.
        resource_version: Box<str>,
        /// Why.
        why: Why,
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
pub enum Why {
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
pub fn judge(target: Target<'_>, desired: &Desired, asker: &Asker<'_>) -> Verdict {
    let facts = match target {
        Target::Unknown => return Verdict::Verify,
        Target::Absent => return Verdict::Create,
        Target::There(facts) => facts,
    };
    let update = |why| Verdict::Update {
        resource_version: facts.resource_version.clone(),
        why,
    };
    if let Some(verdict) = not_ours(facts, desired, asker) {
        return verdict;
    }
    if facts.terminating {
        return Verdict::Terminating;
    }
    if !facts.belongs_to(&desired.binding_uid) {
        return update(Why::Adopt);
    }
    if !facts.has_annotation(CONTENT_HASH, &desired.content_hash) {
        return update(Why::Content);
    }
    if !metadata_is_right(facts, desired) {
        return update(Why::Metadata);
    }
    let names = fingerprint_of_names(desired.data.keys().map(String::as_str));
    if facts.data == Data::Ours(names) || asker.known_good == Some(&*facts.resource_version) {
        Verdict::Current
    } else {
        Verdict::Verify
    }
}

/// What is to be done once the content was looked at for [`Verdict::Verify`]: `judge` said nothing else is wrong.
#[must_use]
pub fn judge_content(facts: &Facts, content_is_right: bool) -> Verdict {
    if content_is_right {
        Verdict::Current
    } else {
        Verdict::Update {
            resource_version: facts.resource_version.clone(),
            why: Why::Drift,
        }
    }
}

fn not_ours(facts: &Facts, desired: &Desired, asker: &Asker<'_>) -> Option<Verdict> {
    let ours = facts.belongs_to(&desired.binding_uid);
    if let (Some(claimant), false) = (&facts.binding_uid, ours) {
        // A binding that is gone claims its Secret for as long as the garbage collector is about to take it; a retained one can be adopted.
        if asker.claimant_lives || facts.is_held() {
            return Some(Verdict::Claimed {
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
        return Some(Verdict::Foreign {
            owner: controller.map(|controller| controller.text.clone()),
        });
    }
    None
}

fn metadata_is_right(facts: &Facts, desired: &Desired) -> bool {
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
        && dropped(facts, desired).next().is_none()
}

/// Labels and annotations that we once set and the spec no longer has.
pub(super) fn dropped<'a>(
    facts: &'a Facts,
    desired: &'a Desired,
) -> impl Iterator<Item = &'a super::observed::Entry> {
    use super::observed::Entry;
    facts.own().iter().filter(|entry| match entry {
        Entry::Label(key) => !desired.labels.contains_key(&**key),
        Entry::Annotation(key) => !desired.annotations.contains_key(&**key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crd::{DopplerSpec, ManagedSecretSpec},
        secret::{
            content_hash::HashKey,
            desired::{Input, desired},
        },
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};

    fn wanted(owned: bool, value: &str) -> Desired {
        let key = HashKey::from_bytes(&[1; 32]).unwrap();
        let input = Input {
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
        if owned { desired.owned("b") } else { desired }
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

    fn facts(metadata: &Value) -> Facts {
        Facts::of(&serde_json::from_value::<ObjectMeta>(metadata.clone()).unwrap())
    }

    const ASKER: Asker<'static> = Asker {
        known_good: None,
        adopt: false,
        claimant_lives: true,
    };

    fn verdict(change: impl FnOnce(&mut Value), asker: &Asker<'_>) -> Verdict {
        let desired = wanted(true, "a");
        let mut metadata = written(&desired);
        change(&mut metadata);
        judge(Target::There(&facts(&metadata)), &desired, asker)
    }

    fn update(why: Why) -> Verdict {
        Verdict::Update {
            resource_version: "7".into(),
            why,
        }
    }

    #[test]
    fn creates_what_is_absent_and_looks_when_nothing_is_known() {
        assert_eq!(
            judge(Target::Absent, &wanted(true, "a"), &ASKER),
            Verdict::Create
        );
        assert_eq!(
            judge(Target::Unknown, &wanted(true, "a"), &ASKER),
            Verdict::Verify
        );
    }

    #[test]
    fn leaves_a_right_secret_alone_without_a_look() {
        assert_eq!(verdict(|_| {}, &ASKER), Verdict::Current);
    }

    #[test]
    fn leaves_labels_annotations_and_owners_of_others_alone() {
        let others = |m: &mut Value| {
            m["labels"]["theirs"] = json!("1");
            m["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!("canary");
            m["ownerReferences"]
                .as_array_mut()
                .unwrap()
                .push(json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": "x"}));
        };
        assert_eq!(verdict(others, &ASKER), Verdict::Current);
    }

    #[test]
    fn new_content_is_written() {
        let there = written(&wanted(true, "a"));
        assert_eq!(
            judge(Target::There(&facts(&there)), &wanted(true, "new"), &ASKER),
            update(Why::Content)
        );
    }

    #[test]
    fn touched_data_is_looked_at_unless_this_version_is_known_to_be_good() {
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
        assert_eq!(verdict(others_own_a_key, &ASKER), Verdict::Verify);
        assert_eq!(verdict(key_removed, &ASKER), Verdict::Verify);
        assert_eq!(verdict(applied_by_us, &ASKER), Verdict::Verify);
        assert_eq!(verdict(cleared, &ASKER), Verdict::Verify);
        assert_eq!(
            verdict(
                others_own_a_key,
                &Asker {
                    known_good: Some("7"),
                    ..ASKER
                }
            ),
            Verdict::Current
        );
        assert_eq!(
            verdict(
                others_own_a_key,
                &Asker {
                    known_good: Some("6"),
                    ..ASKER
                }
            ),
            Verdict::Verify
        );
        let there = facts(&written(&wanted(true, "a")));
        assert_eq!(judge_content(&there, true), Verdict::Current);
        assert_eq!(judge_content(&there, false), update(Why::Drift));
    }

    #[test]
    fn metadata_of_ours_is_put_back_and_what_the_spec_dropped_is_removed() {
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
            assert_eq!(verdict(change, &ASKER), update(Why::Metadata));
        }
        let there = facts(&written(&wanted(true, "a")));
        assert_eq!(
            judge(Target::There(&there), &wanted(false, "a"), &ASKER),
            update(Why::Metadata)
        );
    }

    fn foreign(m: &mut Value) {
        m["annotations"] = json!({});
        m["ownerReferences"] = json!([]);
    }

    #[test]
    fn a_foreign_secret_is_taken_only_with_adopt_and_never_from_a_controller() {
        let controlled = |m: &mut Value| {
            foreign(m);
            m["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Certificate", "name": "web", "uid": "c", "controller": true}]);
        };
        let adopt = Asker {
            adopt: true,
            ..ASKER
        };
        assert_eq!(verdict(foreign, &ASKER), Verdict::Foreign { owner: None });
        assert_eq!(verdict(foreign, &adopt), update(Why::Adopt));
        let owner = Some("Certificate web".into());
        assert_eq!(
            verdict(controlled, &ASKER),
            Verdict::Foreign {
                owner: owner.clone()
            }
        );
        assert_eq!(verdict(controlled, &adopt), Verdict::Foreign { owner });
    }

    #[test]
    fn another_bindings_secret_is_its_own_until_it_is_gone_and_then_needs_adopt() {
        let claimed = |m: &mut Value| {
            m["annotations"]["doppler-prefect.dev/binding-uid"] = json!("u2");
            m["annotations"]["doppler-prefect.dev/binding"] = json!("first");
            m["ownerReferences"] = json!([]);
        };
        let about_to_go = |m: &mut Value| {
            claimed(m);
            m["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "B", "name": "first", "uid": "u2", "controller": true}]);
        };
        let adopt = Asker {
            adopt: true,
            ..ASKER
        };
        let gone = Asker {
            claimant_lives: false,
            ..ASKER
        };
        let by_first = Verdict::Claimed { by: "first".into() };
        assert_eq!(verdict(claimed, &ASKER), by_first);
        assert_eq!(verdict(claimed, &adopt), by_first);
        assert_eq!(verdict(about_to_go, &gone), by_first);
        assert_eq!(verdict(claimed, &gone), Verdict::Foreign { owner: None });
        assert_eq!(
            verdict(
                claimed,
                &Asker {
                    adopt: true,
                    ..gone
                }
            ),
            update(Why::Adopt)
        );
    }

    #[test]
    fn waits_for_a_secret_that_is_being_deleted() {
        let change = |m: &mut Value| m["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(verdict(change, &ASKER), Verdict::Terminating);
    }

    #[test]
    fn the_patch_is_guarded_replaces_data_whole_and_touches_only_ours() {
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
    fn the_patch_of_a_bare_secret_adds_whole_maps() {
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

use super::*;
use crate::{
    crd::{DopplerSpec, ENTRIES_ANNOTATION, ManagedSecretSpec},
    secret::{
        content_hash::HashKey,
        desired::{DesiredInput, desired},
        key_filter::ForbiddenNames,
        keys::SourceValues,
        metadata::{ADOPT, BINDING, BINDING_UID},
    },
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

fn desired_secret(owned: bool, value: &str) -> Desired {
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
        forbidden: &ForbiddenNames::default(),
        key: &key,
    };
    let values = [("A".to_owned(), value.into()), ("B".to_owned(), "b".into())].into();
    let source = SourceValues {
        project: "p",
        config: "c",
        item: None,
        values: &values,
    };
    let desired = desired(&input, &[source]).unwrap();
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

fn observed(metadata: &Value) -> ObservedSecret {
    ObservedSecret::from_metadata(&serde_json::from_value::<ObjectMeta>(metadata.clone()).unwrap())
}

const CLAIMANT: Claimant<'static> = Claimant {
    known_good: None,
    adopt: Adoption::NotRequested,
    recorded_binding_exists: true,
    name: "b",
};

fn decision(change: impl FnOnce(&mut Value), claimant: &Claimant<'_>) -> Decision {
    let desired = desired_secret(true, "a");
    let mut metadata = written(&desired);
    change(&mut metadata);
    decide(Target::Present(&observed(&metadata)), &desired, claimant)
}

fn update(reason: UpdateReason) -> Decision {
    Decision::Update {
        resource_version: "7".into(),
        reason,
    }
}

#[test]
fn creates_an_absent_secret_and_verifies_an_unknown_one() {
    assert_eq!(
        decide(Target::Absent, &desired_secret(true, "a"), &CLAIMANT),
        Decision::Create
    );
    assert_eq!(
        decide(Target::Unknown, &desired_secret(true, "a"), &CLAIMANT),
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
    let metadata = written(&desired_secret(true, "a"));
    assert_eq!(
        decide(
            Target::Present(&observed(&metadata)),
            &desired_secret(true, "new"),
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
    let metadata = observed(&written(&desired_secret(true, "a")));
    assert_eq!(decide_content(&metadata, true), Decision::UpToDate);
    assert_eq!(
        decide_content(&metadata, false),
        update(UpdateReason::Drift)
    );
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
        |m| {
            m["annotations"]["old"] = json!("1");
            m["managedFields"][0]["fieldsV1"]["f:metadata"]["f:annotations"]["f:old"] = json!({});
        },
    ] {
        assert_eq!(decision(change, &CLAIMANT), update(UpdateReason::Metadata));
    }
    let metadata = observed(&written(&desired_secret(true, "a")));
    assert_eq!(
        decide(
            Target::Present(&metadata),
            &desired_secret(false, "a"),
            &CLAIMANT
        ),
        update(UpdateReason::Metadata)
    );
}

fn foreign_to(owner: Option<&str>, lacks_consent: bool) -> Decision {
    let owner = owner.map(Into::into);
    Decision::Foreign {
        owner,
        lacks_consent,
    }
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
        adopt: Adoption::WithoutConsent,
        ..CLAIMANT
    };
    assert_eq!(decision(foreign, &CLAIMANT), foreign_to(None, false));
    assert_eq!(decision(foreign, &adopt), update(UpdateReason::Adopt));
    assert_eq!(
        decision(controlled, &CLAIMANT),
        foreign_to(Some("Certificate web"), false)
    );
    assert_eq!(
        decision(controlled, &adopt),
        foreign_to(Some("Certificate web"), false)
    );
    let asks = Claimant {
        adopt: Adoption::WithConsent,
        ..CLAIMANT
    };
    let consents = |to: &'static str| {
        move |m: &mut Value| {
            foreign(m);
            m["annotations"][ADOPT] = json!(to);
        }
    };
    assert_eq!(decision(foreign, &asks), foreign_to(None, true));
    assert_eq!(decision(consents("other"), &asks), foreign_to(None, true));
    assert_eq!(decision(consents("b"), &asks), update(UpdateReason::Adopt));
    assert_eq!(
        decision(consents("b"), &CLAIMANT),
        foreign_to(None, false),
        "the spec does not ask for it"
    );
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
        adopt: Adoption::WithoutConsent,
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
    assert_eq!(decision(claimed, &gone), foreign_to(None, false));
    assert_eq!(
        decision(
            claimed,
            &Claimant {
                adopt: Adoption::WithoutConsent,
                ..gone
            }
        ),
        update(UpdateReason::Adopt)
    );
}

/// The earlier binding was deleted, after its finalizer was removed by hand.
#[test]
fn a_binding_of_the_same_name_takes_over_what_was_left() {
    let record = |retain: bool| {
        json!({
            "secret": "ns/b", "retain": retain,
            "servers": [{"url": "http://s/api", "pools": ["k8s"]}],
        })
        .to_string()
    };
    let left = |name: &'static str, entries: String| {
        move |m: &mut Value| {
            m["annotations"][BINDING_UID] = json!("earlier");
            m["annotations"][BINDING] = json!(name);
            m["annotations"][ENTRIES_ANNOTATION] = json!(entries);
            m["ownerReferences"] = json!([]);
        }
    };
    let gone = Claimant {
        recorded_binding_exists: false,
        ..CLAIMANT
    };
    let adopts = Claimant {
        adopt: Adoption::WithoutConsent,
        ..gone
    };
    assert_eq!(
        decision(left("b", record(false)), &gone),
        update(UpdateReason::Adopt)
    );
    let orphaned = |by: &str| Decision::Orphaned { by: by.into() };
    for claimant in [&gone, &adopts] {
        // The operator removes its entries first.
        assert_eq!(
            decision(left("other", record(false)), claimant),
            orphaned("other")
        );
        assert_eq!(decision(left("b", record(true)), claimant), orphaned("b"));
    }
    let unreadable = left("b", "forged".to_owned());
    assert_eq!(decision(unreadable, &gone), foreign_to(None, false));
    let exists = Decision::Claimed { by: "b".into() };
    assert_eq!(decision(left("b", record(false)), &CLAIMANT), exists);
}

#[test]
fn repairs_and_removes_the_record_of_entries() {
    let record = || Some("{\"secret\":\"ns/b\",\"servers\":[]}".to_owned());
    let plain = desired_secret(false, "a");
    let recorded = plain.clone().with_entries(record());
    let decide = |metadata: &Value, desired: &Desired| {
        decide(Target::Present(&observed(metadata)), desired, &CLAIMANT)
    };
    assert_eq!(
        decide(&written(&plain), &recorded),
        update(UpdateReason::Metadata)
    );
    assert_eq!(decide(&written(&recorded), &recorded), Decision::UpToDate);
    assert_eq!(decide(&written(&recorded), &plain), Decision::UpToDate);
    let without = plain.with_entries(None);
    assert_eq!(
        decide(&written(&recorded), &without),
        update(UpdateReason::Metadata)
    );
    let metadata = observed(&written(&recorded));
    let patch = serde_json::to_value(crate::secret::patch::update(&metadata, &without)).unwrap();
    let removal = json!({"op": "remove", "path": "/metadata/annotations/doppler-prefect.dev~1work-pool-entries"});
    assert!(patch.as_array().unwrap().contains(&removal), "{patch}");
}

#[test]
fn waits_for_a_terminating_secret() {
    let change = |m: &mut Value| m["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(decision(change, &CLAIMANT), Decision::Terminating);
}

#[test]
fn patch_replaces_all_data_and_changes_only_managed_metadata() {
    let desired = desired_secret(false, "new");
    let mut metadata = written(&desired_secret(true, "a"));
    metadata["labels"]["o/ld~"] = json!("1");
    metadata["labels"]["theirs"] = json!("1");
    metadata["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"]["f:o/ld~"] = json!({});
    let patch =
        serde_json::to_value(crate::secret::patch::update(&observed(&metadata), &desired)).unwrap();
    assert_eq!(
        patch,
        json!([
            {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
            {"op": "add", "path": "/data", "value": {"A": "bmV3", "B": "Yg=="}},
            {"op": "add", "path": "/type", "value": "Opaque"},
            {"op": "add", "path": "/metadata/annotations/doppler-prefect.dev~1content-hash", "value": desired.content_hash},
            {"op": "remove", "path": "/metadata/labels/o~1ld~0"},
            {"op": "remove", "path": "/metadata/ownerReferences/0"},
        ])
    );
}

#[test]
fn patch_of_a_bare_secret_adds_whole_maps() {
    let desired = desired_secret(true, "a");
    let bare = observed(&json!({"uid": "s", "resourceVersion": "7"}));
    let patch = serde_json::to_value(crate::secret::patch::update(&bare, &desired)).unwrap();
    assert_eq!(
        patch[3],
        json!({"op": "add", "path": "/metadata/labels", "value": desired.labels})
    );
    assert_eq!(patch[4]["path"], "/metadata/annotations");
    assert_eq!(
        patch[5],
        json!({"op": "add", "path": "/metadata/ownerReferences", "value": [desired.owner]})
    );
}

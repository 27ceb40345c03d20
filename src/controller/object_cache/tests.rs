use super::*;
use std::collections::BTreeMap;

fn objects() -> (ObjectCache, Arc<Mutex<Vec<String>>>) {
    let enqueued = Arc::new(Mutex::new(vec![]));
    let list = Arc::clone(&enqueued);
    (
        ObjectCache::new(Arc::new(move |binding: &BindingRef| {
            list.lock().push(binding.name().to_owned());
        })),
        enqueued,
    )
}

fn secret(name: &str, version: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("flows".to_owned()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some(version.to_owned()),
        ..ObjectMeta::default()
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey {
        kind: ReferenceKind::Secret,
        namespace: "flows".to_owned(),
        name: name.to_owned(),
    }
}

fn binding(name: &str) -> BindingRef {
    BindingRef::new("flows", name)
}

#[test]
fn own_write_enqueues_nothing() {
    let (objects, enqueued) = objects();
    objects.track(&binding("b"), HashSet::from([key("s")]));
    objects.observe(
        &key("s"),
        ObservedSecret::from_metadata(&secret("s", "10")),
        true,
    );
    objects.on_apply(ReferenceKind::Secret, &secret("s", "9"));
    objects.on_apply(ReferenceKind::Secret, &secret("s", "10"));
    assert!(enqueued.lock().is_empty());
    assert!(objects.get(&key("s")).unwrap().verified);
    objects.on_apply(ReferenceKind::Secret, &secret("s", "11"));
    assert_eq!(*enqueued.lock(), ["b"]);
    assert!(!objects.get(&key("s")).unwrap().verified);
}

#[test]
fn deletion_enqueues_exactly_the_trackers() {
    let (objects, enqueued) = objects();
    objects.track(&binding("a"), HashSet::from([key("s")]));
    objects.track(&binding("b"), HashSet::from([key("s")]));
    objects.track(&binding("c"), HashSet::from([key("t")]));
    objects.observe(
        &key("s"),
        ObservedSecret::from_metadata(&secret("s", "10")),
        true,
    );
    objects.on_delete(ReferenceKind::Secret, &secret("s", "12"));
    let mut names = enqueued.lock().clone();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    assert!(objects.get(&key("s")).is_none());
}

#[test]
fn deletion_of_an_earlier_incarnation_is_ignored() {
    let (objects, enqueued) = objects();
    objects.track(&binding("a"), HashSet::from([key("s")]));
    let again = ObjectMeta {
        uid: Some("another".to_owned()),
        ..secret("s", "20")
    };
    objects.observe(&key("s"), ObservedSecret::from_metadata(&again), true);
    objects.on_delete(ReferenceKind::Secret, &secret("s", "15"));
    assert!(enqueued.lock().is_empty());
    assert!(objects.get(&key("s")).is_some());
}

#[test]
fn untracked_object_is_evicted() {
    let (objects, _) = objects();
    objects.on_apply(ReferenceKind::Secret, &secret("s", "1"));
    assert!(objects.get(&key("s")).is_none());
    objects.track(&binding("a"), HashSet::from([key("s")]));
    objects.on_apply(ReferenceKind::Secret, &secret("s", "1"));
    objects.track(&binding("a"), HashSet::new());
    assert!(objects.get(&key("s")).is_none());
    let ours = ObjectMeta {
        labels: Some(BTreeMap::from([(
            crate::crd::MANAGED_BY_LABEL.to_owned(),
            crate::crd::MANAGED_BY.to_owned(),
        )])),
        ..secret("ours", "1")
    };
    objects.on_apply(ReferenceKind::Secret, &ours);
    assert!(objects.get(&key("ours")).is_some());
}

#[test]
fn relist_evicts_and_enqueues_missing_objects() {
    let (objects, enqueued) = objects();
    objects.track(&binding("a"), HashSet::from([key("s"), key("t")]));
    objects.on_apply(ReferenceKind::Secret, &secret("s", "1"));
    objects.on_apply(ReferenceKind::Secret, &secret("t", "2"));
    enqueued.lock().clear();
    objects.on_relist(
        ReferenceKind::Secret,
        None,
        &HashSet::from([("flows".to_owned(), "t".to_owned())]),
    );
    assert!(objects.get(&key("s")).is_none());
    assert!(objects.get(&key("t")).is_some());
    assert_eq!(*enqueued.lock(), ["a"]);
}

/// A Secret of binding `b` with UID `u`, whose data this client wrote.
fn written(name: &str, client: &str) -> ObjectMeta {
    serde_json::from_value(serde_json::json!({
        "name": name, "namespace": "flows", "uid": format!("uid-{name}"), "resourceVersion": "1",
        "labels": {"app.kubernetes.io/managed-by": "doppler-prefect-operator"},
        "annotations": {
            "doppler-prefect.dev/binding": "b",
            "doppler-prefect.dev/binding-uid": "u",
        },
        "managedFields": [{
            "manager": client, "operation": "Update", "apiVersion": "v1",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:A": {}}},
        }],
    }))
    .unwrap()
}

#[test]
fn finds_the_secrets_that_a_binding_left_and_no_copies() {
    let (objects, _) = objects();
    let left = || objects.left_secrets(&binding("b"), "u");
    objects.track(&binding("b"), HashSet::from([key("now")]));
    for name in ["now", "earlier"] {
        let ours = written(name, "doppler-prefect-operator");
        objects.on_apply(ReferenceKind::Secret, &ours);
    }
    objects.on_apply(ReferenceKind::Secret, &written("copy", "kubectl"));
    assert_eq!(left(), ["earlier"]);
    assert!(objects.left_secrets(&binding("b"), "other").is_empty());
    assert!(objects.left_secrets(&binding("c"), "u").is_empty());

    objects.track(&binding("b"), HashSet::from([key("earlier")]));
    assert_eq!(left(), ["now"], "the binding tracks the other one");
    objects.evict(&key("now"));
    assert!(left().is_empty());
    objects.untrack(&binding("b"));
    assert_eq!(left(), ["earlier"]);
    objects.on_delete(ReferenceKind::Secret, &written("earlier", "anyone"));
    assert!(left().is_empty());
}

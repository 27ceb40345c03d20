use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

const URL: &str = "http://prefect-server.prefect.svc:4200/api";

fn binding(change: impl FnOnce(&mut Value)) -> DopplerPrefectBinding {
    let mut binding = json!({
        "metadata": {"name": "b", "namespace": "flows", "uid": "u", "generation": 3},
        "spec": {
            "prefect": {"server": {"name": "prefect-server", "namespace": "prefect"}},
            "inject": {"workPools": [{"name": "k8s"}, {"name": "seen", "mode": "Observe"}]},
        },
    });
    change(&mut binding);
    serde_json::from_value(binding).unwrap()
}

fn status(change: impl FnOnce(&mut Value)) -> DopplerPrefectBindingStatus {
    let pool = |name: &str| json!({"name": name, "state": "Patched"});
    let mut status = json!({
        "observedGeneration": 3, "secretName": "b",
        "workPools": [pool("k8s"), pool("seen"), pool("earlier")],
    });
    change(&mut status);
    serde_json::from_value(status).unwrap()
}

fn entry(server: &str, pool: &str, secret: &str) -> InjectedEntry {
    InjectedEntry {
        server: server.to_owned(),
        pool: pool.to_owned(),
        secret: secret.to_owned(),
        variable: None,
        mount: false,
    }
}

/// A cache with one Secret of the operator.
fn cache(name: &str, uid: &str, record: &str) -> ObjectCache {
    let objects = ObjectCache::new(Arc::new(|_| {}));
    let record = record.replace("NAME", name);
    let metadata = json!({
        "name": name, "namespace": "flows", "uid": "s", "resourceVersion": "1",
        "labels": {"app.kubernetes.io/managed-by": "doppler-prefect-operator"},
        "annotations": {
            "doppler-prefect.dev/binding-uid": uid,
            "doppler-prefect.dev/work-pool-entries": record,
        },
    });
    let metadata = serde_json::from_value(metadata).unwrap();
    objects.on_apply(ReferenceKind::Secret, &metadata);
    objects
}

fn nothing() -> ObjectCache {
    ObjectCache::new(Arc::new(|_| {}))
}

fn entries(
    objects: &ObjectCache,
    binding: &DopplerPrefectBinding,
    status: Option<&DopplerPrefectBindingStatus>,
) -> BTreeSet<InjectedEntry> {
    read(objects, binding, status, &BTreeSet::new()).entries
}

const RECORD: &str = r#"{"secret":"flows/NAME","servers":[{"url":"http://a/api","spec":{"remoteApiUrl":"http://a","basicAuth":{"valueFrom":{"secretKeyRef":{"name":"auth","key":"k"}}}},"pools":["k8s"]}]}"#;

#[test]
fn reads_the_secret_of_the_binding_and_how_its_server_is_reached() {
    let recorded = read(
        &cache("b", "u", RECORD),
        &binding(|_| {}),
        None,
        &BTreeSet::new(),
    );
    assert_eq!(
        recorded.entries,
        BTreeSet::from([entry("http://a/api", "k8s", "b")])
    );
    let ServerChoice::Own(server) = &recorded.servers["http://a/api"] else {
        panic!("the record has another server");
    };
    assert!(server.basic_auth.is_some());
}

/// Neither annotations of a binding nor Secrets of others count.
#[test]
fn an_author_cannot_forge_a_record() {
    let forged = binding(|binding| {
        let entry = json!([{"server": "http://a/api", "pool": "theirs", "secret": "theirs"}]);
        binding["metadata"]["annotations"] = json!({
            "doppler-prefect.dev/injected": entry.to_string(),
            "doppler-prefect.dev/work-pool-entries": RECORD,
        });
        binding["metadata"]["finalizers"] = json!(["doppler-prefect.dev/injected"]);
    });
    let theirs = cache("b", "another", RECORD);
    assert!(entries(&theirs, &forged, None).is_empty());
    let copy = cache("b", "u", &RECORD.replace("NAME", "another"));
    assert!(entries(&copy, &forged, None).is_empty());
    let other_name = cache("other", "u", RECORD);
    assert!(entries(&other_name, &forged, None).is_empty());
    let named = BTreeSet::from(["other".to_owned()]);
    assert_eq!(read(&other_name, &forged, None, &named).entries.len(), 1);
}

#[test]
fn status_and_secret_count_together() {
    let listed = entry("http://b/api", "k8s", "old");
    let status = status(|status| status["injectedEntries"] = json!([listed]));
    let both = BTreeSet::from([listed.clone(), entry("http://a/api", "k8s", "b")]);
    let objects = cache("b", "u", RECORD);
    assert_eq!(entries(&objects, &binding(|_| {}), Some(&status)), both);
    // The loss of one of them loses nothing of the other.
    let only = BTreeSet::from([listed]);
    assert_eq!(entries(&nothing(), &binding(|_| {}), Some(&status)), only);
    let forged = cache("b", "u", "{}");
    assert_eq!(entries(&forged, &binding(|_| {}), Some(&status)), only);
}

/// An earlier version recorded entries where authors can write. Its status says which are ours.
#[test]
fn owns_the_entries_of_an_earlier_version_again() {
    let ours = BTreeSet::from([entry(URL, "k8s", "b")]);
    let before = status(|_| {});
    assert_eq!(entries(&nothing(), &binding(|_| {}), Some(&before)), ours);
    let deleted = binding(|binding| {
        binding["metadata"]["generation"] = json!(4);
        binding["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    assert_eq!(entries(&nothing(), &deleted, Some(&before)), ours);

    let changed = binding(|binding| binding["metadata"]["generation"] = json!(4));
    assert!(entries(&nothing(), &changed, Some(&before)).is_empty());
    for theirs in ["AlreadyPresent", "Contested", "Missing"] {
        let theirs = status(|status| status["workPools"][0]["state"] = json!(theirs));
        assert!(entries(&nothing(), &binding(|_| {}), Some(&theirs)).is_empty());
    }
}

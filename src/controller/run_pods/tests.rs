use std::sync::Arc;

use serde_json::json;

use super::*;

struct Fixture {
    pods: RunPods,
    enqueued: Arc<Mutex<Vec<BindingRef>>>,
}

impl Fixture {
    fn new() -> Self {
        let enqueued = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&enqueued);
        let pods = RunPods::new(Arc::new(move |key: &BindingRef| {
            sink.lock().push(key.clone());
        }));
        Self { pods, enqueued }
    }

    /// What was enqueued since the last call.
    fn enqueued(&self) -> Vec<BindingRef> {
        std::mem::take(&mut *self.enqueued.lock())
    }

    fn names(&self, binding: &BindingRef) -> Vec<String> {
        let troubled = self.pods.troubled(binding).into_iter();
        troubled.map(|pod| pod.name.into()).collect()
    }
}

/// A pod of a namespace that loads a Secret, with the state of its container.
fn pod(namespace: &str, name: &str, secret: &str, state: &serde_json::Value) -> RunPod {
    let pod = json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("{namespace}/{name}"),
            "creationTimestamp": "2026-01-01T00:00:05Z",
        },
        "spec": {"containers": [{"name": "job", "envFrom": [{"secretRef": {"name": secret}}]}]},
        "status": {"containerStatuses": [{"name": "job", "state": state}]},
    });
    serde_json::from_value(pod).unwrap()
}

fn waiting(namespace: &str, name: &str, secret: &str) -> RunPod {
    let message = format!("secret \"{secret}\" not found");
    let state = json!({"waiting": {"reason": "CreateContainerConfigError", "message": message}});
    pod(namespace, name, secret, &state)
}

fn failed(namespace: &str, name: &str, secret: &str) -> RunPod {
    let state =
        json!({"terminated": {"reason": "StartError", "message": "argument list too long"}});
    pod(namespace, name, secret, &state)
}

#[test]
fn enqueues_a_binding_only_if_its_pods_to_report_change() {
    let fixture = Fixture::new();
    let (etl, other) = (
        BindingRef::new("flows", "etl"),
        BindingRef::new("flows", "other"),
    );
    fixture.pods.track(&etl, "etl");
    fixture.pods.track(&other, "other");
    let running = pod("flows", "a", "etl", &json!({"running": {}}));
    fixture.pods.on_apply(&running, 1);
    fixture
        .pods
        .on_apply(&pod("flows", "b", "etl", &json!({})), 1);
    fixture.pods.on_delete(&running);
    assert_eq!(fixture.enqueued(), [], "pods without a trouble");
    fixture.pods.on_apply(&waiting("flows", "b", "etl"), 1);
    assert_eq!(fixture.enqueued(), std::slice::from_ref(&etl));
    fixture.pods.on_apply(&waiting("flows", "b", "etl"), 1);
    assert_eq!(fixture.enqueued(), [], "the same again");
    assert_eq!(fixture.names(&etl), ["b"]);
    assert_eq!(fixture.names(&other), [""; 0]);
    fixture.pods.on_delete(&waiting("flows", "b", "etl"));
    assert_eq!(fixture.enqueued(), std::slice::from_ref(&etl));
    assert_eq!(fixture.names(&etl), [""; 0]);
}

#[test]
fn a_pod_concerns_no_binding_of_another_namespace() {
    let fixture = Fixture::new();
    let etl = BindingRef::new("flows", "etl");
    fixture.pods.track(&etl, "etl");
    fixture.pods.on_apply(&waiting("team", "b", "etl"), 1);
    fixture.pods.on_apply(&failed("team", "c", "etl"), 1);
    assert_eq!(fixture.enqueued(), []);
    assert_eq!(fixture.names(&etl), [""; 0]);
}

#[test]
fn a_terminating_pod_is_not_reported() {
    let fixture = Fixture::new();
    let etl = BindingRef::new("flows", "etl");
    fixture.pods.track(&etl, "etl");
    fixture.pods.on_apply(&waiting("flows", "b", "etl"), 1);
    let mut terminating = waiting("flows", "b", "etl");
    let deleted: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time =
        serde_json::from_value(json!("2026-01-01T00:00:09Z")).unwrap();
    terminating.meta_mut().deletion_timestamp = Some(deleted);
    fixture.pods.on_apply(&terminating, 1);
    assert_eq!(fixture.names(&etl), [""; 0]);
}

#[test]
fn a_list_drops_the_pods_of_its_own_namespace_that_it_lacks() {
    let fixture = Fixture::new();
    let (flows, team) = (
        BindingRef::new("flows", "etl"),
        BindingRef::new("team", "etl"),
    );
    for binding in [&flows, &team] {
        fixture.pods.track(binding, "etl");
        fixture
            .pods
            .on_apply(&waiting(binding.namespace(), "b", "etl"), 1);
    }
    fixture.enqueued();
    fixture.pods.on_listed(Some("flows"), 2);
    assert_eq!(fixture.enqueued(), std::slice::from_ref(&flows));
    assert_eq!(fixture.names(&team), ["b"]);
    fixture.pods.on_listed(None, 2);
    assert_eq!(fixture.enqueued(), [team]);
}

#[test]
fn a_pod_may_wait_before_its_binding_exists() {
    let fixture = Fixture::new();
    fixture.pods.on_apply(&waiting("flows", "b", "etl"), 1);
    fixture.pods.on_apply(&failed("flows", "c", "late"), 1);
    let (etl, late) = (
        BindingRef::new("flows", "etl"),
        BindingRef::new("flows", "late"),
    );
    fixture.pods.track(&etl, "etl");
    fixture.pods.track(&late, "late");
    assert_eq!(fixture.names(&etl), ["b"]);
    assert_eq!(fixture.names(&late), [""; 0], "it failed with other values");
    // The binding takes another name, and then its first one again.
    fixture.pods.track(&etl, "renamed");
    assert_eq!(fixture.names(&etl), [""; 0]);
    fixture.pods.track(&etl, "etl");
    assert_eq!(fixture.names(&etl), ["b"]);
}

#[test]
fn forged_pods_take_a_bounded_memory() {
    let fixture = Fixture::new();
    let etl = BindingRef::new("flows", "etl");
    fixture.pods.track(&etl, "etl");
    for number in 0..1000 {
        let (name, secret) = (format!("p-{number}"), format!("s-{number}"));
        fixture.pods.on_apply(&waiting("flows", &name, &secret), 1);
        fixture.pods.on_apply(&waiting("flows", &name, "etl"), 1);
        let running = pod("flows", &name, &secret, &json!({"running": {}}));
        fixture.pods.on_apply(&running, 1);
        // A binding that comes and goes for each Secret.
        let passing = BindingRef::new("flows", &secret);
        fixture.pods.track(&passing, &secret);
        fixture.pods.on_apply(&waiting("flows", &name, &secret), 1);
        fixture.pods.untrack(&passing);
    }
    let index = fixture.pods.index.lock();
    assert_eq!(index.managed.len(), 1);
    assert_eq!(index.namespaces["flows"].len(), 1 + MAX_UNMANAGED);
    let kept = index.namespaces["flows"].values();
    let kept: usize = kept.map(|secret| secret.troubles.pods().len()).sum();
    assert_eq!(kept, troubles::MAX_PODS + MAX_UNMANAGED);
}

#[test]
fn nothing_is_left_of_a_deleted_binding_and_deleted_pods() {
    let fixture = Fixture::new();
    let etl = BindingRef::new("flows", "etl");
    fixture.pods.track(&etl, "etl");
    fixture.pods.on_apply(&waiting("flows", "b", "etl"), 1);
    fixture.pods.on_apply(&waiting("flows", "c", "other"), 1);
    fixture.pods.untrack(&etl);
    fixture.pods.on_delete(&waiting("flows", "b", "etl"));
    fixture.pods.on_listed(None, 2);
    let index = fixture.pods.index.lock();
    assert!(index.namespaces.is_empty() && index.managed.is_empty());
}

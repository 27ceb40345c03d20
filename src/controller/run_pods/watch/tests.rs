use std::time::Duration;

use futures::{poll, stream};
use kube::{Config, runtime::reflector};
use serde_json::json;
use tokio::time::timeout;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

use super::*;
use crate::{
    controller::{scope::WatchScope, scope_state::Part},
    metrics::Metrics,
};

fn scope() -> Arc<ScopeState> {
    let scope = WatchScope::Namespace("flows".to_owned());
    Arc::new(ScopeState::new(scope, Arc::new(Metrics::new())))
}

/// A watch of a scope with the binding `etl`.
fn pod_watch(url: &str, scope: &Arc<ScopeState>) -> RunPodWatch {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (bindings, mut writer) = reflector::store();
    let binding: StoredBinding = serde_json::from_value(json!({
        "metadata": {"name": "etl", "namespace": "flows", "uid": "1"},
        "spec": {"managedSecret": {"name": "values"}},
    }))
    .unwrap();
    writer.apply_watcher_event(&Event::Apply(binding));
    RunPodWatch {
        client: Client::try_from(Config::new(url.parse().unwrap())).unwrap(),
        scope: Arc::clone(scope),
        bindings,
        pods: Arc::new(RunPods::new(Arc::new(|_| {}))),
    }
}

fn waiting_pod() -> serde_json::Value {
    let waiting = json!({
        "reason": "CreateContainerConfigError", "message": "secret \"values\" not found",
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "flows", "uid": "2", "resourceVersion": "1"},
        "spec": {"containers": [
            {"name": "job", "envFrom": [{"secretRef": {"name": "values"}}]},
        ]},
        "status": {"containerStatuses": [{"name": "job", "state": {"waiting": waiting}}]},
    })
}

#[tokio::test]
async fn watches_pods_of_runs_once_the_bindings_are_listed() {
    let server = MockServer::start().await;
    let list = json!({
        "apiVersion": "v1", "kind": "PodList",
        "metadata": {"resourceVersion": "1"}, "items": [waiting_pod()],
    });
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200).set_body_json(list))
        .mount(&server)
        .await;
    let (scope, shutdown) = (scope(), CancellationToken::new());
    let pod_watch = pod_watch(&server.uri(), &scope);
    let pods = Arc::clone(&pod_watch.pods);
    let mut run = Box::pin(pod_watch.run(shutdown.clone()));
    scope.on_listed(Part::Bindings);
    scope.on_listed(Part::Secrets);
    assert!(poll!(&mut run).is_pending());
    assert_eq!(server.received_requests().await.unwrap().len(), 0);
    scope.on_listed(Part::ConfigMaps);
    let run = tokio::spawn(run);
    let etl = BindingRef::new("flows", "etl");
    let requests = timeout(Duration::from_secs(30), async {
        while pods.troubled(&etl).is_empty() {
            tokio::task::yield_now().await;
        }
        server.received_requests().await.unwrap()
    });
    for request in requests.await.unwrap() {
        assert_eq!(request.url.path(), "/api/v1/namespaces/flows/pods");
        let query: Vec<_> = request.url.query_pairs().collect();
        let has = |name: &str, value: &str| query.iter().any(|(n, v)| n == name && v == value);
        assert!(has("labelSelector", RUN_ID_LABEL), "{}", request.url);
        assert!(
            has("watch", "true") || has("limit", "20"),
            "{}",
            request.url
        );
    }
    shutdown.cancel();
    timeout(Duration::from_secs(30), run)
        .await
        .unwrap()
        .unwrap();
}

fn error(code: u16) -> watcher::Error {
    let status: kube::core::Status = serde_json::from_value(json!({"code": code})).unwrap();
    watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(status)))
}

#[tokio::test]
async fn a_refusal_ends_what_was_reported_and_an_interruption_does_not() {
    let etl = BindingRef::new("flows", "etl");
    let scope = scope();
    for (code, left) in [(403, 0), (500, 1)] {
        let pod_watch = pod_watch("http://127.0.0.1:1", &scope);
        pod_watch.pods.track(&etl, "values");
        let pod: RunPod = serde_json::from_value(waiting_pod()).unwrap();
        let listed = [
            Ok(Event::Init),
            Ok(Event::InitApply(pod)),
            Ok(Event::InitDone),
        ];
        pod_watch.follow(stream::iter(listed)).await;
        assert_eq!(pod_watch.pods.troubled(&etl).len(), 1);
        pod_watch
            .follow(stream::iter([Ok(Event::Init), Err(error(code))]))
            .await;
        assert_eq!(pod_watch.pods.troubled(&etl).len(), left, "{code}");
    }
    assert!(!scope.progress().is_settled() && scope.progress().refusals == 0);
}

use std::time::Duration;

use kube::Config;
use tokio::{sync::mpsc, time::timeout};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{any, query_param},
};

use super::*;
use crate::metrics::Metrics;

fn scope(scope: WatchScope) -> Arc<ScopeState> {
    Arc::new(ScopeState::new(scope, Arc::new(Metrics::new())))
}

/// The answer to a watch whose version is too old.
const EXPIRED: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}}"#;

#[tokio::test]
async fn reports_a_binding_that_is_missing_from_the_second_list() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = MockServer::start().await;
    let binding = serde_json::json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": {"name": "b", "namespace": "flows", "uid": "1"}, "spec": {},
    });
    let list = |items: serde_json::Value| {
        ResponseTemplate::new(200).set_body_json(serde_json::json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBindingList",
            "metadata": {"resourceVersion": "1"}, "items": items,
        }))
    };
    Mock::given(query_param("watch", "true"))
        .respond_with(ResponseTemplate::new(200).set_body_string(EXPIRED))
        .with_priority(1)
        .mount(&server)
        .await;
    Mock::given(any())
        .respond_with(list(serde_json::json!([binding])))
        .up_to_n_times(1)
        .with_priority(2)
        .mount(&server)
        .await;
    Mock::given(any())
        .respond_with(list(serde_json::json!([])))
        .with_priority(3)
        .mount(&server)
        .await;
    let client = Client::try_from(Config::new(server.uri().parse().unwrap())).unwrap();
    let (says, mut hears) = mpsc::unbounded_channel();
    let tell = move |heard: BindingEvent<'_>| says.send(format!("{heard:?}")).unwrap();
    let shutdown = CancellationToken::new();
    let (store, following) = watch_bindings(client, scope(WatchScope::All), tell, shutdown.clone());
    let following = tokio::spawn(following);
    let mut next = async || {
        timeout(Duration::from_secs(30), hears.recv())
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(next().await, "SpecChanged(flows/b)", "the first list");
    assert_eq!(next().await, "Deleted(flows/b)", "the second list");
    assert!(store.state().is_empty());
    shutdown.cancel();
    timeout(Duration::from_secs(30), following)
        .await
        .unwrap()
        .unwrap();
}

#[test]
fn a_status_and_a_new_version_are_no_spec_change() {
    let kept = |meta: serde_json::Value| -> StoredBinding {
        let mut metadata = serde_json::json!({"name": "b", "namespace": "flows", "uid": "1", "generation": 1, "resourceVersion": "1"});
        metadata
            .as_object_mut()
            .unwrap()
            .extend(meta.as_object().unwrap().clone());
        let binding = serde_json::json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding", "metadata": metadata, "spec": {},
        });
        serde_json::from_value(binding).unwrap()
    };
    let (store, mut writer) = reflector::store();
    let first = kept(serde_json::json!({}));
    assert!(spec_changed(&store, &first), "a new one");
    writer.apply_watcher_event(&Event::Apply(first));
    for (change, anew) in [
        (
            serde_json::json!({"resourceVersion": "2", "annotations": {"a": "b"}}),
            false,
        ),
        (serde_json::json!({"generation": 2}), true),
        (serde_json::json!({"finalizers": ["f"]}), true),
        (serde_json::json!({"uid": "2"}), true),
    ] {
        assert_eq!(
            spec_changed(&store, &kept(change.clone())),
            anew,
            "{change}"
        );
    }
}

/// RBAC cannot tell the two apart, so that only the requests themselves show it.
#[tokio::test]
async fn secrets_are_listed_and_watched_as_metadata_only() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = MockServer::start().await;
    let list = serde_json::json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
        "metadata": {"resourceVersion": "1"}, "items": [],
    });
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200).set_body_json(list))
        .mount(&server)
        .await;
    let client = Client::try_from(Config::new(server.uri().parse().unwrap())).unwrap();
    let shutdown = CancellationToken::new();
    let secrets = MetadataWatch {
        client,
        scope: scope(WatchScope::Namespace("flows".to_owned())),
        objects: Arc::new(ObjectCache::new(Arc::new(|_| {}))),
    };
    let watching = tokio::spawn(secrets.secrets(shutdown.clone()));
    let asked = timeout(Duration::from_secs(30), async {
        loop {
            let asked = server.received_requests().await.unwrap();
            if asked
                .iter()
                .any(|one| one.url.query().is_some_and(|q| q.contains("watch=true")))
            {
                return asked;
            }
            tokio::task::yield_now().await;
        }
    });
    for request in asked.await.unwrap() {
        assert_eq!(request.url.path(), "/api/v1/namespaces/flows/secrets");
        let accept = request.headers["accept"].to_str().unwrap();
        assert!(
            accept.starts_with("application/json;as=PartialObjectMetadata"),
            "{}: {accept}",
            request.url
        );
    }
    shutdown.cancel();
    timeout(Duration::from_secs(30), watching)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn waits_grow_while_lists_are_refused() {
    let refused = || {
        let status: kube::core::Status =
            serde_json::from_value(serde_json::json!({"code": 403})).unwrap();
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    };
    // As the watcher of kube: each attempt begins with `Init`.
    let attempts = |number: usize| {
        stream::iter((0..number).flat_map(move |_| [Ok(Event::Init), Err(refused())]))
    };
    let after_list = stream::iter([Ok(Event::Init), Ok(Event::InitDone), Err(refused())]);
    let events = attempts(12).chain(after_list).chain(attempts(1));
    let mut events = std::pin::pin!(with_backoff::<StoredBinding>(events));
    let (mut waits, mut last) = (Vec::new(), tokio::time::Instant::now());
    while let Some(event) = events.next().await {
        if matches!(event, Ok(Event::Init)) {
            waits.push(last.elapsed().as_secs_f64());
            last = tokio::time::Instant::now();
        }
    }
    assert!(waits[1] < 1.3 && waits[2] > 0.7, "{waits:?}");
    assert!(waits[11] > 45.0 && waits[12] > 45.0, "{waits:?}");
    assert!(waits[13] < 1.3, "a list ends the backoff: {waits:?}");
}

//! The watches: bindings into their store, metadata of Secrets and ConfigMaps into [`Objects`].
//!
//! In: the API server's watches. Out: triggers of the controller, and facts. Watches are restarted with growing waits; one that the API server
//! refuses is told, and tried again.

use std::{collections::HashSet, fmt::Debug, sync::Arc};

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        Predicate, PredicateConfig, WatchStreamExt, predicates,
        reflector::{self, Store},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    kept::Kept,
    objects::{Kind, Objects},
    wake::{BindingRef, Scope},
};
use crate::crd::DopplerPrefectBinding;

/// A binding, or what is left of one that cannot be read.
pub type Guarded = DeserializeGuard<DopplerPrefectBinding>;

/// The bindings of a scope, and the stream of those that are to be reconciled: a status that we wrote ourselves triggers nothing. `seen` hears of
/// those that the store has anew; `gone` of those that were deleted, and of nobody by name after a list, which does not tell who was deleted before it.
pub fn bindings(
    client: Client,
    scope: &Scope,
    seen: impl Fn(&Kept) + Send + Sync + 'static,
    gone: impl Fn(Option<BindingRef>) + Send + Sync + 'static,
) -> (
    Store<Kept>,
    impl Stream<Item = Result<Kept, watcher::Error>> + Send + 'static,
) {
    let (reader, writer) = reflector::store();
    let api: Api<Kept> = scoped(client, scope);
    let stream = kube::runtime::watcher(api, watcher::Config::default())
        .default_backoff()
        .inspect_err(|error| warn!(reason = why(error), "the watch of bindings was interrupted"))
        .reflect(writer)
        // Told once it is in the store, or out of it, where a reconcile that is under way looks for it.
        .inspect_ok(move |event| match event {
            Event::Apply(binding) => seen(binding),
            Event::Delete(binding) => {
                gone(Some(BindingRef::of(binding)));
            }
            Event::InitDone => gone(None),
            Event::Init | Event::InitApply(_) => {}
        })
        .applied_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::finalizers),
            PredicateConfig::default(),
        );
    (reader, stream)
}

/// Keeps [`Objects`] up to date with one kind in one scope, until `shutdown`. `seen` turns true once everything was listed.
pub async fn secrets(
    client: Client,
    scope: Scope,
    objects: Arc<Objects>,
    seen: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    follow::<Secret>(client, scope, Kind::Secret, objects, seen, shutdown).await;
}

/// As [`secrets`], for ConfigMaps.
pub async fn config_maps(
    client: Client,
    scope: Scope,
    objects: Arc<Objects>,
    seen: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    follow::<ConfigMap>(client, scope, Kind::ConfigMap, objects, seen, shutdown).await;
}

async fn follow<K>(
    client: Client,
    scope: Scope,
    kind: Kind,
    objects: Arc<Objects>,
    seen: watch::Sender<bool>,
    shutdown: CancellationToken,
) where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    let api: Api<PartialObjectMeta<K>> = scoped(client, &scope);
    let events = kube::runtime::watcher(api, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events.take_until(shutdown.cancelled_owned()));
    let namespace = match &scope {
        Scope::All => None,
        Scope::Namespace(namespace) => Some(namespace.as_str()),
    };
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                let PartialObjectMeta { metadata, .. } = object;
                listed.insert((
                    metadata.namespace.clone().unwrap_or_default(),
                    metadata.name.clone().unwrap_or_default(),
                ));
                objects.applied(kind, &metadata);
            }
            Ok(Event::InitDone) => {
                objects.listed(kind, namespace, &listed);
                listed = HashSet::new();
                seen.send_replace(true);
            }
            Ok(Event::Apply(object)) => objects.applied(kind, &object.metadata),
            Ok(Event::Delete(object)) => objects.deleted(kind, &object.metadata),
            Err(error) => warn!(
                ?kind,
                reason = why(&error),
                "the watch of metadata was interrupted"
            ),
        }
    }
}

/// An API in a scope.
#[must_use]
pub fn scoped<K>(client: Client, scope: &Scope) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match scope {
        Scope::All => Api::all(client),
        Scope::Namespace(namespace) => Api::namespaced(client, namespace),
    }
}

/// Why a watch was interrupted, in words that hold nothing of an object.
#[must_use]
pub fn why(error: &watcher::Error) -> String {
    let status = |error: &kube::Error| match error {
        kube::Error::Api(status) => {
            format!("the API server answered {} {}", status.code, status.reason)
        }
        _ => "the API server could not be reached".to_owned(),
    };
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => status(error),
        watcher::Error::WatchError(error) => {
            format!("the API server answered {} {}", error.code, error.reason)
        }
        watcher::Error::NoResourceVersion => "the API server gave no version".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube::Config;
    use tokio::{sync::mpsc, time::timeout};
    use wiremock::{
        Mock, MockServer, ResponseTemplate,
        matchers::{any, query_param},
    };

    use super::*;

    /// The answer to a watch whose version is too old.
    const EXPIRED: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}}"#;

    #[tokio::test]
    async fn after_a_list_those_that_it_lacks_are_out_of_the_store_and_it_is_told() {
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
        let (store, stream) = bindings(
            client,
            &Scope::All,
            |_| {},
            move |who| says.send(who).unwrap(),
        );
        let watching = tokio::spawn(stream.for_each(|_| std::future::ready(())));
        let mut next = async || {
            timeout(Duration::from_secs(30), hears.recv())
                .await
                .unwrap()
                .unwrap()
        };
        assert_eq!(next().await, None, "after the first list");
        assert_eq!(next().await, None, "after the second");
        assert!(store.state().is_empty());
        watching.abort();
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
        let watching = tokio::spawn(secrets(
            client,
            Scope::Namespace("flows".to_owned()),
            Arc::new(Objects::new(Box::new(|_| {}))),
            watch::channel(false).0,
            shutdown.clone(),
        ));
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
}

//! The watches: bindings into their store, metadata of Secrets and ConfigMaps into [`ObjectCache`].
//!
//! In: the API server's watches. Out: wakes, and facts. Watches are restarted with growing waits; one that the API server
//! refuses is told, and tried again.

use std::{collections::HashSet, fmt::Debug, sync::Arc};

use futures::StreamExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    object_cache::{ObjectCache, ReferenceKind},
    stored_binding::StoredBinding,
    work_queue::{BindingRef, Scope},
};

/// What the watch of bindings has to tell.
#[derive(Debug)]
pub enum BindingEvent<'a> {
    /// The store has this one anew.
    Stored(&'a StoredBinding),
    /// This one is to be reconciled: it is new, or somebody changed what it asks for. A status that we wrote ourselves is no such change.
    SpecChanged(BindingRef),
    /// This one was deleted.
    Deleted(BindingRef),
    /// All were listed. Which ones were deleted before is not told: those that the store does not have.
    Relisted,
}

/// The bindings of a scope, and what keeps them up to date until `shutdown`. What is told is in the store by then, or out of it: a reconcile that is
/// under way looks for it there.
pub fn watch_bindings(
    client: Client,
    scope: &Scope,
    tell: impl Fn(BindingEvent<'_>) + Send + 'static,
    shutdown: CancellationToken,
) -> (
    Store<StoredBinding>,
    impl Future<Output = ()> + Send + 'static,
) {
    let (store, mut writer) = reflector::store();
    let known = store.clone();
    let api: Api<StoredBinding> = scoped_api(client, scope);
    let events = kube::runtime::watcher(api, watcher::Config::default()).default_backoff();
    let following = async move {
        let mut events = std::pin::pin!(events.take_until(shutdown.cancelled_owned()));
        let mut listed = Vec::new();
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    warn!(
                        reason = error_text(&error),
                        "the watch of bindings was interrupted"
                    );
                    continue;
                }
            };
            let changed = match &event {
                Event::Apply(binding) | Event::InitApply(binding) => spec_changed(&known, binding),
                Event::Init | Event::InitDone | Event::Delete(_) => false,
            };
            writer.apply_watcher_event(&event);
            match event {
                Event::Init => listed.clear(),
                // The store has them once all are listed.
                Event::InitApply(binding) if changed => listed.push(BindingRef::of(&binding)),
                Event::InitApply(_) => {}
                Event::InitDone => {
                    tell(BindingEvent::Relisted);
                    for who in std::mem::take(&mut listed) {
                        tell(BindingEvent::SpecChanged(who));
                    }
                }
                Event::Apply(binding) => {
                    tell(BindingEvent::Stored(&binding));
                    if changed {
                        tell(BindingEvent::SpecChanged(BindingRef::of(&binding)));
                    }
                }
                Event::Delete(binding) => tell(BindingEvent::Deleted(BindingRef::of(&binding))),
            }
        }
    };
    (store, following)
}

/// Whether somebody changed what the binding asks for since the store had it.
fn spec_changed(store: &Store<StoredBinding>, binding: &StoredBinding) -> bool {
    let asks = |kept: &StoredBinding| {
        let meta = kept.meta();
        // The deletion counts as a generation of its own; a finalizer does not.
        (meta.uid.clone(), meta.generation, meta.finalizers.clone())
    };
    store
        .get(&ObjectRef::from_obj(binding))
        .is_none_or(|before| asks(&before) != asks(binding))
}

/// Keeps [`ObjectCache`] up to date with one kind in one scope, until `shutdown`. `seen` turns true once everything was listed.
pub async fn watch_secrets(
    client: Client,
    scope: Scope,
    objects: Arc<ObjectCache>,
    seen: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    watch_metadata::<Secret>(
        client,
        scope,
        ReferenceKind::Secret,
        objects,
        seen,
        shutdown,
    )
    .await;
}

/// As [`watch_secrets`], for ConfigMaps.
pub async fn watch_config_maps(
    client: Client,
    scope: Scope,
    objects: Arc<ObjectCache>,
    seen: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    watch_metadata::<ConfigMap>(
        client,
        scope,
        ReferenceKind::ConfigMap,
        objects,
        seen,
        shutdown,
    )
    .await;
}

async fn watch_metadata<K>(
    client: Client,
    scope: Scope,
    kind: ReferenceKind,
    objects: Arc<ObjectCache>,
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
    let api: Api<PartialObjectMeta<K>> = scoped_api(client, &scope);
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
                objects.on_apply(kind, &metadata);
            }
            Ok(Event::InitDone) => {
                objects.on_relist(kind, namespace, &listed);
                listed = HashSet::new();
                seen.send_replace(true);
            }
            Ok(Event::Apply(object)) => objects.on_apply(kind, &object.metadata),
            Ok(Event::Delete(object)) => objects.on_delete(kind, &object.metadata),
            Err(error) => warn!(
                ?kind,
                reason = error_text(&error),
                "the watch of metadata was interrupted"
            ),
        }
    }
}

/// An API in a scope.
#[must_use]
pub fn scoped_api<K>(client: Client, scope: &Scope) -> Api<K>
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
pub fn error_text(error: &watcher::Error) -> String {
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
        let tell = move |heard: BindingEvent<'_>| says.send(format!("{heard:?}")).unwrap();
        let shutdown = CancellationToken::new();
        let (store, following) = watch_bindings(client, &Scope::All, tell, shutdown.clone());
        let following = tokio::spawn(following);
        let mut next = async || {
            timeout(Duration::from_secs(30), hears.recv())
                .await
                .unwrap()
                .unwrap()
        };
        assert_eq!(next().await, "Relisted", "the first list");
        assert_eq!(next().await, "SpecChanged(flows/b)");
        assert_eq!(next().await, "Relisted", "the second");
        assert!(store.state().is_empty());
        shutdown.cancel();
        timeout(Duration::from_secs(30), following)
            .await
            .unwrap()
            .unwrap();
    }

    #[test]
    fn a_status_and_a_new_version_are_no_new_wish() {
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
        let watching = tokio::spawn(watch_secrets(
            client,
            Scope::Namespace("flows".to_owned()),
            Arc::new(ObjectCache::new(Box::new(|_| {}))),
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

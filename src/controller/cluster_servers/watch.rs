//! The watches behind [`ClusterServers`]: servers, labels of namespaces, and single objects that servers
//! reference.
//!
//! Input: the API server's watches.
//! Output: calls of [`ClusterServers`] and of [`ObjectCache`].
//! Invariants: the labels of namespaces are listed only once a server selects by label. Of a namespace
//! that the operator does not serve, only the objects are watched that a server names, each by its
//! name, so that RBAC can restrict the permission to them.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    sync::Arc,
};

use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Namespace, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::watcher::{self, Event},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use super::{ClusterServers, Listing};
use crate::{
    controller::{
        object_cache::{ObjectCache, ObjectKey, ReferenceKind},
        watches::{error_text, status_code, with_backoff},
    },
    crd::ClusterPrefectServer,
};

type Events<K> = BoxStream<'static, watcher::Result<Event<K>>>;

fn events<K>(api: Api<K>, config: watcher::Config, shutdown: CancellationToken) -> Events<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    with_backoff(kube::runtime::watcher(api, config))
        .take_until(shutdown.cancelled_owned())
        .boxed()
}

/// Keeps the servers current until `shutdown`.
pub async fn watch_servers(
    client: Client,
    servers: Arc<ClusterServers>,
    shutdown: CancellationToken,
) {
    let api: Api<ClusterPrefectServer> = Api::all(client);
    let mut events = events(api, watcher::Config::default(), shutdown);
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(server)) => listed.push(server),
            Ok(Event::InitDone) => servers.on_listed(std::mem::take(&mut listed)),
            Ok(Event::Apply(server)) => servers.on_apply(server),
            Ok(Event::Delete(server)) => servers.on_delete(&server.name_any()),
            Err(error) => {
                let reason = error_text(&error);
                warn!(
                    reason,
                    "the watch of ClusterPrefectServers was interrupted; the operator opens it again"
                );
                match status_code(&error) {
                    Some(403) => servers.on_unavailable(Listing::Forbidden),
                    Some(404) => servers.on_unavailable(Listing::NoKind),
                    _ => {}
                }
            }
        }
    }
}

/// Keeps the labels of namespaces current until `shutdown`, once a server selects by label.
pub async fn watch_labels(
    client: Client,
    servers: Arc<ClusterServers>,
    shutdown: CancellationToken,
) {
    let mut needed = servers.needs_labels();
    tokio::select! {
        () = shutdown.cancelled() => return,
        _ = needed.wait_for(|needed| *needed) => {}
    }
    info!("a ClusterPrefectServer selects namespaces by label: the operator watches their labels");
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let mut events = events(api, watcher::Config::default(), shutdown);
    let mut listed = HashMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(namespace)) => {
                let labels = namespace.labels().clone();
                listed.insert(namespace.name_any(), labels);
            }
            Ok(Event::InitDone) => servers.on_labels_listed(std::mem::take(&mut listed)),
            Ok(Event::Apply(namespace)) => {
                servers.on_labels(&namespace.name_any(), Some(namespace.labels()));
            }
            Ok(Event::Delete(namespace)) => servers.on_labels(&namespace.name_any(), None),
            Err(error) => {
                let reason = error_text(&error);
                warn!(
                    reason,
                    "the watch of namespaces was interrupted; the operator opens it again"
                );
                if status_code(&error) == Some(403) {
                    servers.on_labels_unavailable();
                }
            }
        }
    }
}

/// The watches of single objects outside the namespaces that the operator serves.
pub struct ReferencedObjects {
    client: Client,
    objects: Arc<ObjectCache>,
    shutdown: CancellationToken,
    /// By server.
    watched: Mutex<HashMap<String, HashMap<ObjectKey, DropGuard>>>,
}

impl Debug for ReferencedObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReferencedObjects").finish_non_exhaustive()
    }
}

impl ReferencedObjects {
    /// Without watches. Those that start later run until `shutdown`.
    #[must_use]
    pub fn new(client: Client, objects: Arc<ObjectCache>, shutdown: CancellationToken) -> Self {
        Self {
            client,
            objects,
            shutdown,
            watched: Mutex::default(),
        }
    }

    /// Watches exactly these objects for a server.
    pub fn watch(&self, server: &str, wanted: BTreeSet<ObjectKey>) {
        let mut watched = self.watched.lock();
        let of_server = watched.entry(server.to_owned()).or_default();
        of_server.retain(|object, _| wanted.contains(object));
        for object in wanted {
            of_server.entry(object.clone()).or_insert_with(|| {
                let stop = self.shutdown.child_token();
                let (client, objects) = (self.client.clone(), Arc::clone(&self.objects));
                let task = watch_object(client, objects, object, stop.clone());
                tokio::spawn(task);
                stop.drop_guard()
            });
        }
        if of_server.is_empty() {
            watched.remove(server);
        }
    }
}

async fn watch_object(
    client: Client,
    objects: Arc<ObjectCache>,
    object: ObjectKey,
    stop: CancellationToken,
) {
    match object.kind {
        ReferenceKind::Secret => follow::<Secret>(client, objects, object, stop).await,
        ReferenceKind::ConfigMap => follow::<ConfigMap>(client, objects, object, stop).await,
    }
}

async fn follow<K>(
    client: Client,
    objects: Arc<ObjectCache>,
    object: ObjectKey,
    stop: CancellationToken,
) where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(client, &object.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", object.name));
    let mut events = events(api, config, stop);
    let gone = ObjectMeta {
        namespace: Some(object.namespace.clone()),
        name: Some(object.name.clone()),
        ..ObjectMeta::default()
    };
    let mut exists = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => exists = false,
            Ok(Event::InitApply(found)) => {
                exists = true;
                objects.on_apply(object.kind, &found.metadata);
            }
            Ok(Event::InitDone) if !exists => objects.on_delete(object.kind, &gone),
            Ok(Event::InitDone) => {}
            Ok(Event::Apply(found)) => objects.on_apply(object.kind, &found.metadata),
            Ok(Event::Delete(found)) => objects.on_delete(object.kind, &found.metadata),
            Err(error) => debug!(
                reason = error_text(&error),
                "the watch of an object of a ClusterPrefectServer was interrupted"
            ),
        }
    }
}

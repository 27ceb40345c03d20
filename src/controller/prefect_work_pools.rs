//! Watches the `PrefectWorkPool` objects of prefect-operator, where it is installed.
//!
//! Input: a watch of `prefectworkpools.prefect.io`, if the API server has the kind.
//! Output: the pools that these objects own.
//! Invariants: without the kind, or without the right to watch it, no pool is owned. The watch is
//! tried again at a long interval.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{scope::WatchScope, watches::error_text};
use crate::{
    crd::ServerSpec,
    inject::{Pools, pool_owner::ManagedPool},
    prefect::connection::api_url_of,
};

/// Wait before a watch of a kind that does not exist is tried again.
const RETRY_INTERVAL: Duration = Duration::from_mins(10);

/// The managed pools by namespace and name of their object.
type ManagedPools = BTreeMap<(String, String), ManagedPool>;
type SharedPools = Arc<Mutex<ManagedPools>>;

/// The scopes to watch.
#[must_use]
pub fn scopes(watched: &[String], further: &[String]) -> Vec<WatchScope> {
    if watched.is_empty() {
        return WatchScope::of(&[]);
    }
    WatchScope::of(&[watched, further].concat())
}

/// Keeps the managed pools of `pools` up to date, until `shutdown`.
pub async fn watch_work_pools(
    client: Client,
    scopes: Vec<WatchScope>,
    pools: Pools,
    shutdown: CancellationToken,
) {
    let managed = SharedPools::default();
    let watches = scopes
        .into_iter()
        .map(|scope| keep_watching(client.clone(), scope, Arc::clone(&managed), pools.clone()));
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = join_all(watches) => {}
    }
}

async fn keep_watching(client: Client, scope: WatchScope, managed: SharedPools, pools: Pools) {
    let kind = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("prefect.io", "v1", "PrefectWorkPool"),
        "prefectworkpools",
    );
    let api: Api<DynamicObject> = match &scope {
        WatchScope::All => Api::all_with(client, &kind),
        WatchScope::Namespace(namespace) => Api::namespaced_with(client, namespace, &kind),
    };
    loop {
        let events = watcher(api.clone(), watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => handle_event(&managed, &scope, event, &pools),
                Err(error) => {
                    debug!(
                        reason = error_text(&error),
                        "the watch of PrefectWorkPools was interrupted"
                    );
                    if is_unavailable(&error) {
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Whether the kind does not exist, or may not be watched: then an early retry is of no use.
fn is_unavailable(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if matches!(status.code, 403 | 404))
}

fn handle_event(
    managed: &SharedPools,
    scope: &WatchScope,
    event: Event<DynamicObject>,
    pools: &Pools,
) {
    let mut managed = managed.lock();
    let before = managed.clone();
    let complete = match event {
        Event::Init => {
            managed.retain(
                |(namespace, _), _| matches!(scope, WatchScope::Namespace(own) if own != namespace),
            );
            false
        }
        Event::InitApply(object) => {
            insert(&mut managed, &object);
            false
        }
        Event::InitDone => true,
        Event::Apply(object) => {
            insert(&mut managed, &object);
            true
        }
        Event::Delete(object) => {
            managed.remove(&key(&object));
            true
        }
    };
    if complete && (before != *managed || !managed.is_empty()) {
        pools.set_managed(managed.values().cloned().collect());
    }
}

fn key(object: &DynamicObject) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// The pool that an object owns. None if its server stanza cannot be parsed.
#[must_use]
pub fn owned_by(object: &DynamicObject) -> Option<ManagedPool> {
    let (namespace, name) = key(object);
    let server = object.data.get("spec")?.get("server")?.clone();
    let server: ServerSpec = serde_json::from_value(server).ok()?;
    let api_url = api_url_of(&server, &namespace).ok()?;
    Some(ManagedPool {
        namespace,
        pool: name.clone(),
        name,
        api_url,
    })
}

fn insert(managed: &mut ManagedPools, object: &DynamicObject) {
    match owned_by(object) {
        Some(pool) => managed.insert(key(object), pool),
        None => managed.remove(&key(object)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(server: &serde_json::Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "prefect.io/v1", "kind": "PrefectWorkPool",
            "metadata": {"name": "k8s", "namespace": "prefect"},
            "spec": {"type": "kubernetes", "server": server, "workers": 1},
        }))
        .unwrap()
    }

    #[test]
    fn object_owns_the_pool_of_its_name_on_its_server() {
        let mut managed = BTreeMap::new();
        insert(&mut managed, &object(&json!({"name": "prefect-server"})));
        let pool = managed.values().next().unwrap();
        assert_eq!(pool.pool, "k8s");
        assert_eq!(
            pool.api_url.as_str().trim_end_matches('/'),
            "http://prefect-server.prefect.svc:4200/api"
        );
        insert(&mut managed, &object(&json!({"nonsense": true})));
        assert!(managed.is_empty());
    }
}

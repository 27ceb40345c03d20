//! The `PrefectWorkPool` objects of prefect-operator, where it is installed.
//!
//! In: a watch of `workpools.prefect.io`, if there is such a kind. Out: which pools of which servers they own. Where the kind is not there, or may
//! not be read, no pool is owned, and that is looked at again rarely.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{scope::Scope, watches::error_text};
use crate::{
    crd::ServerSpec,
    inject::{Pools, pool_owner::ManagedPool},
    prefect::connection::api_url_of,
};

/// How often it is looked again whether the kind is there.
const AGAIN: Duration = Duration::from_mins(10);

type Known = Arc<Mutex<BTreeMap<(String, String), ManagedPool>>>;

/// The scopes in which such objects are looked for.
#[must_use]
pub fn scopes(watched: &[String], further: &[String]) -> Vec<Scope> {
    if watched.is_empty() {
        return Scope::of(&[]);
    }
    Scope::of(&[watched, further].concat())
}

/// Tells `pools` which pools are owned, until `shutdown`.
pub async fn watch_work_pools(
    client: Client,
    scopes: Vec<Scope>,
    pools: Pools,
    shutdown: CancellationToken,
) {
    let known = Known::default();
    let watches = scopes
        .into_iter()
        .map(|scope| keep_watching(client.clone(), scope, Arc::clone(&known), pools.clone()));
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = join_all(watches) => {}
    }
}

async fn keep_watching(client: Client, scope: Scope, known: Known, pools: Pools) {
    let kind = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("prefect.io", "v1", "PrefectWorkPool"),
        "prefectworkpools",
    );
    let api: Api<DynamicObject> = match &scope {
        Scope::All => Api::all_with(client, &kind),
        Scope::Namespace(namespace) => Api::namespaced_with(client, namespace, &kind),
    };
    loop {
        let events = watcher(api.clone(), watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => take(&known, &scope, event, &pools),
                Err(error) => {
                    debug!(
                        reason = error_text(&error),
                        "the watch of PrefectWorkPools was interrupted"
                    );
                    if is_not_there(&error) {
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether the kind is not there, or may not be read: then looking again soon is of no use.
fn is_not_there(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if matches!(status.code, 403 | 404))
}

fn take(known: &Known, scope: &Scope, event: Event<DynamicObject>, pools: &Pools) {
    let mut table = known.lock().unwrap_or_else(PoisonError::into_inner);
    let before = table.clone();
    let settled = match event {
        Event::Init => {
            table.retain(
                |(namespace, _), _| matches!(scope, Scope::Namespace(own) if own != namespace),
            );
            false
        }
        Event::InitApply(object) => {
            put(&mut table, &object);
            false
        }
        Event::InitDone => true,
        Event::Apply(object) => {
            put(&mut table, &object);
            true
        }
        Event::Delete(object) => {
            table.remove(&key(&object));
            true
        }
    };
    if settled && (before != *table || !table.is_empty()) {
        pools.set_managed(table.values().cloned().collect());
    }
}

fn key(object: &DynamicObject) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// What an object owns. One whose server stanza cannot be read owns nothing that could be told.
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

fn put(table: &mut BTreeMap<(String, String), ManagedPool>, object: &DynamicObject) {
    match owned_by(object) {
        Some(pool) => table.insert(key(object), pool),
        None => table.remove(&key(object)),
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
    fn an_object_owns_the_pool_of_its_name_on_its_server() {
        let mut table = BTreeMap::new();
        put(&mut table, &object(&json!({"name": "prefect-server"})));
        let pool = table.values().next().unwrap();
        assert_eq!(pool.pool, "k8s");
        assert_eq!(
            pool.api_url.as_str().trim_end_matches('/'),
            "http://prefect-server.prefect.svc:4200/api"
        );
        put(&mut table, &object(&json!({"nonsense": true})));
        assert!(table.is_empty());
    }
}

//! Reconciles one `ClusterPrefectServer`: its status, and the watches of what it references.
//!
//! Input: the key of the server from the work queue.
//! Output: a status that differs from the last one, and the tracked objects.
//! Invariants: no request to the Prefect server; a binding reports what it answers. A change of the
//! number of bindings alone is written at most once in [`COUNT_INTERVAL`].

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{
    connect::{build_connection, check_service, server_references},
    context::Context,
    object_cache::ObjectKey,
    patch_status::now,
    prefect_server::PrefectServer,
};
use crate::{
    crd::{BindingRef, ClusterPrefectServer, ClusterPrefectServerStatus},
    failure::Failure,
    reason::Reason,
    status::{ConditionUpdate, READY, condition},
};

/// How often the number of bindings is written. At the start of the operator it changes with each
/// binding.
pub const COUNT_INTERVAL: Duration = Duration::from_secs(2);
/// How long a server without a status waits for another operator that may read its credentials.
const REFUSAL_WAIT: Duration = Duration::from_secs(10);
/// Wait before a step at the API server that failed is tried again, and before a key is read again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the status of a server, if it changed. Returns when to look again.
pub async fn reconcile_server(context: &Context, key: &BindingRef, name: &str) -> Option<Duration> {
    let server = context.cluster_servers.get(name);
    let numbers = context.cluster_servers.count(name);
    let own = &context.operator_namespace;
    let Some(server) = server.filter(|server| concerns(server, own, numbers)) else {
        context.referenced_objects.watch(name, BTreeSet::new());
        context.forget(key);
        return None;
    };
    let target = PrefectServer::shared(name, &server.spec.server);
    track_objects(context, key, &target);
    let connected = connect(context, &target).await;
    let retry = connected.is_err().then_some(RETRY_INTERVAL);
    let after = status(&server, &connected, (own, numbers), &now());
    let before = server.status.clone().unwrap_or_default();
    if before == after {
        return retry;
    }
    let wait = remaining_wait(context, key, change(&before, &after));
    if !wait.is_zero() {
        return Some(wait);
    }
    let written = write(context, name, &after).await;
    context.metrics.count_write("status", written.is_some());
    match written {
        Some(server) => {
            context.cluster_servers.on_apply(server);
            retry
        }
        None => Some(RETRY_INTERVAL),
    }
}

/// Whether this operator reports the server: its bindings name it, or it wrote the status, or none has.
fn concerns(server: &ClusterPrefectServer, own: &str, (used, refused): (usize, usize)) -> bool {
    let status = server.status.as_ref();
    let writer = status.and_then(|status| status.operator_namespace.as_deref());
    used + refused > 0 || writer.is_none_or(|writer| writer == own)
}

/// Tracks the objects that a server references, and watches those outside the served namespaces.
fn track_objects(context: &Context, key: &BindingRef, server: &PrefectServer) {
    let objects = server_references(server, "").map(|(_, reference)| reference.object);
    let objects: BTreeSet<ObjectKey> = objects.collect();
    // First the cache: it drops events of objects that it does not track.
    context
        .objects
        .track(key, objects.iter().cloned().collect());
    let outside = objects
        .into_iter()
        .filter(|object| !is_served(context, object));
    let watched = &context.referenced_objects;
    watched.watch(key.name(), outside.collect());
}

/// How a status changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Only the numbers of bindings.
    Numbers,
    /// No operator wrote a status yet, and this one may not read the credentials: another operator may
    /// be the one that is meant to.
    FirstRefusal,
    /// Anything else.
    Result,
}

fn change(before: &ClusterPrefectServerStatus, after: &ClusterPrefectServerStatus) -> Change {
    let with_numbers = ClusterPrefectServerStatus {
        bindings: after.bindings,
        refused_bindings: after.refused_bindings,
        ..before.clone()
    };
    let is_forbidden = after
        .conditions
        .iter()
        .any(|one| one.reason == Reason::SecretForbidden.as_str());
    let has_bindings = after.bindings + after.refused_bindings > 0;
    if with_numbers == *after {
        Change::Numbers
    } else if before.conditions.is_empty() && is_forbidden && !has_bindings {
        Change::FirstRefusal
    } else {
        Change::Result
    }
}

/// How long a change still waits to be written.
fn remaining_wait(context: &Context, key: &BindingRef, change: Change) -> Duration {
    context.states.update(key, |state| {
        let wait = match change {
            Change::Result => Duration::ZERO,
            Change::Numbers => COUNT_INTERVAL,
            Change::FirstRefusal => REFUSAL_WAIT,
        };
        // The numbers wait since the last write, and a first refusal since it was found.
        let since = match change {
            Change::FirstRefusal => Some(*state.waiting_since.get_or_insert_with(Instant::now)),
            Change::Numbers | Change::Result => state.waiting_since,
        };
        let elapsed = since.map_or(wait, |since| since.elapsed());
        let remaining = wait.saturating_sub(elapsed);
        if remaining.is_zero() {
            state.waiting_since = Some(Instant::now());
        }
        remaining
    })
}

/// Whether the operator watches the namespace of an object for bindings.
fn is_served(context: &Context, object: &ObjectKey) -> bool {
    let mut scopes = context.scopes.iter();
    scopes.any(|scope| scope.contains(&object.namespace))
}

/// Resolves the credentials, without a request to the server.
async fn connect(context: &Context, server: &PrefectServer) -> Result<String, Failure> {
    let connection = build_connection(
        &context.key_refs,
        &context.objects,
        &context.prefect_servers,
        "",
        server,
    )
    .await?;
    let url = &connection.api_url;
    let checked = check_service(&context.service_types, "", server, url).await;
    checked.map_err(|error| server.explain(error.into()))?;
    Ok(url.to_string())
}

/// The status of a server.
fn status(
    server: &ClusterPrefectServer,
    connected: &Result<String, Failure>,
    (own, (bindings, refused)): (&str, (usize, usize)),
    now: &Time,
) -> ClusterPrefectServerStatus {
    let update = match connected {
        Ok(url) => ConditionUpdate::True(
            Reason::Resolved,
            format!("the address is {url}, and its credentials are resolved"),
        ),
        Err(failure) => ConditionUpdate::False(failure.reason, failure.message.clone()),
    };
    let conditions = server.status.iter().flat_map(|status| &status.conditions);
    let old = conditions.into_iter().find(|one| one.type_ == READY);
    let generation = server.metadata.generation;
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    ClusterPrefectServerStatus {
        observed_generation: generation,
        conditions: vec![condition(READY, &update, old, generation, now)],
        operator_namespace: Some(own.to_owned()),
        bindings: number(bindings),
        refused_bindings: number(refused),
    }
}

/// Writes a status. None if the API server did not accept it.
async fn write(
    context: &Context,
    name: &str,
    status: &ClusterPrefectServerStatus,
) -> Option<ClusterPrefectServer> {
    let api: Api<ClusterPrefectServer> = Api::all(context.client.clone());
    let (params, patch) = (
        PatchParams::default(),
        Patch::Merge(json!({"status": status})),
    );
    let written = api.patch_status(name, &params, &patch);
    let written = timeout(context.settings.kubernetes_timeout, written).await;
    match written {
        Ok(Ok(server)) => Some(server),
        Ok(Err(error)) => {
            let code = match &error {
                kube::Error::Api(status) => status.code,
                _ => 0,
            };
            tracing::warn!(
                server = name,
                code,
                "the status of a ClusterPrefectServer cannot be written; the operator tries again"
            );
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use serde_json::from_value;

    fn server(status: Option<ClusterPrefectServerStatus>) -> ClusterPrefectServer {
        let mut server: ClusterPrefectServer = from_value(json!({
            "metadata": {"name": "cloud", "generation": 3},
            "spec": {"server": {"name": "prefect-server", "namespace": "prefect"}},
        }))
        .unwrap();
        server.status = status;
        server
    }

    #[test]
    fn the_same_result_gives_the_same_status() {
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let ok = Ok("http://prefect-server.prefect.svc:4200/api".to_owned());
        let own = ("op", (2, 1));
        let first = status(&server(None), &ok, own, &at(10));
        assert_eq!((first.bindings, first.refused_bindings), (2, 1));
        assert_eq!(first.observed_generation, Some(3));
        let again = status(&server(Some(first.clone())), &ok, own, &at(20));
        assert_eq!(first, again);
        let failed = Err(Failure::new(Reason::ReferenceMissing, "no key"));
        let failed = status(&server(Some(first)), &failed, own, &at(30));
        let ready = &failed.conditions[0];
        assert_eq!(
            (&*ready.status, &*ready.reason),
            ("False", "ReferenceMissing")
        );
        assert_eq!(ready.last_transition_time, at(30));
    }

    #[test]
    fn an_operator_without_bindings_leaves_the_status_of_another_one() {
        let ok = Ok("http://a/api".to_owned());
        let theirs = status(&server(None), &ok, ("theirs", (0, 0)), &now());
        let theirs = server(Some(theirs));
        assert!(concerns(&server(None), "own", (0, 0)));
        assert!(!concerns(&theirs, "own", (0, 0)));
        assert!(concerns(&theirs, "own", (0, 1)) && concerns(&theirs, "theirs", (0, 0)));
    }

    #[test]
    fn only_numbers_and_a_first_refusal_wait() {
        let none = ClusterPrefectServerStatus::default();
        let of = |result: &Result<String, Failure>, numbers| {
            status(&server(None), result, ("own", numbers), &now())
        };
        let ok = Ok("http://a/api".to_owned());
        let forbidden = Err(Failure::new(Reason::SecretForbidden, "no permission"));
        assert_eq!(change(&none, &of(&ok, (0, 0))), Change::Result);
        assert_eq!(change(&none, &of(&forbidden, (0, 0))), Change::FirstRefusal);
        assert_eq!(change(&none, &of(&forbidden, (1, 0))), Change::Result);
        let one = of(&ok, (1, 0));
        let two = ClusterPrefectServerStatus {
            bindings: 2,
            ..one.clone()
        };
        assert_eq!(change(&one, &two), Change::Numbers);
        assert_eq!(change(&one, &of(&forbidden, (1, 0))), Change::Result);
    }
}

//! How to reach the servers of recorded entries that the spec no longer names.
//!
//! Input: the recorded entries, and how their servers were reached.
//! Output: a connection for each server, or why there is none.
//! Invariants: a recorded URL passes the same checks as a URL in a spec before any request. The
//! credentials of a server are those that were recorded for its own URL, and are never sent to
//! another one. Those of a `ClusterPrefectServer` are used only for what its lists allow.

use std::{collections::BTreeSet, sync::Arc};

use url::Url;

use crate::{
    controller::{
        pass::Pass,
        prefect_server::{PrefectServer, of_entry},
        recorded_entries::RecordedConnection,
        resolve::connect,
    },
    crd::ServerChoice,
    failure::Failure,
    prefect::{Connection, connection::server_at},
    reason::Reason,
};

/// Resolves how to reach the servers of recorded entries that neither the spec, over `current`, nor
/// an earlier pass reaches.
pub async fn connect_recorded(pass: &mut Pass<'_>, current: Option<&Arc<Connection>>) {
    let earlier = pass.read_state(|state| state.connections.clone());
    let is_known = |url: &str| {
        let mut known = current.into_iter().chain(&earlier);
        known.any(|connection| connection.api_url.as_str() == url)
    };
    let entries = pass.entries.recorded.entries.iter();
    let urls: BTreeSet<String> = entries
        .map(|entry| entry.server.clone())
        .filter(|url| !is_known(url))
        .collect();
    for url in urls {
        let resolved = resolve(pass, &url).await;
        pass.recorded_connections.insert(url, resolved);
    }
}

async fn resolve(pass: &Pass<'_>, text: &str) -> RecordedConnection {
    let Some(url) = Url::parse(text).ok().filter(|url| url.as_str() == text) else {
        let failure = Failure::new(Reason::InvalidSpec, "the recorded server is not a URL");
        return RecordedConnection {
            connection: None,
            failure: Some(failure),
        };
    };
    let namespace = pass.key.namespace();
    let servers = &pass.context.cluster_servers;
    let names_url =
        |server: &PrefectServer| server.api_url(namespace).is_ok_and(|built| built == url);
    let prefect = pass.binding.spec.prefect.as_ref();
    let in_spec = prefect.and_then(|prefect| servers.choice(prefect).ok());
    let recorded = pass.entries.recorded.servers.get(text).cloned();
    let choices = || in_spec.iter().chain(&recorded);
    let is_shared = choices()
        .last()
        .is_some_and(|choice| matches!(choice, ServerChoice::Shared(_)));
    let mut unusable = None;
    let found = choices().find_map(
        |choice| match of_entry(servers, namespace, choice.clone()) {
            Ok(server) => names_url(&server).then_some(server),
            Err(why) => {
                unusable = Some(Failure::from(why));
                None
            }
        },
    );
    let mut failure = None;
    if let Some(server) = found {
        match connect(pass, &server).await {
            Ok(connection) => return connection.into(),
            Err(error) if server.shared.is_some() => return unreachable(error),
            Err(error) => failure = Some(error),
        }
    } else if is_shared {
        // Nothing is sent to the server of a ClusterPrefectServer without its lists.
        let elsewhere = || {
            let message =
                "the ClusterPrefectServer by which the entry was written has another address now";
            Failure::new(Reason::ServerNotFound, message)
        };
        return unreachable(unusable.unwrap_or_else(elsewhere));
    }
    match connect(pass, &PrefectServer::own(server_at(&url))).await {
        Ok(connection) if connection.api_url == url => RecordedConnection {
            connection: Some(connection),
            failure,
        },
        Ok(_) => RecordedConnection {
            connection: None,
            failure: failure.or_else(|| {
                let message = "the recorded server is not a URL that the operator writes";
                Some(Failure::new(Reason::InvalidSpec, message))
            }),
        },
        // No request is sent to a host that is not allowed, whatever the credentials.
        Err(refused) => RecordedConnection {
            connection: None,
            failure: Some(refused),
        },
    }
}

/// A server to which no request is sent.
const fn unreachable(failure: Failure) -> RecordedConnection {
    RecordedConnection {
        connection: None,
        failure: Some(failure),
    }
}

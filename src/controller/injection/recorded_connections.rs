//! How to reach the servers of recorded entries that the spec no longer names.
//!
//! Input: the recorded entries, and how their servers were reached.
//! Output: a connection for each server, or why there is none.
//! Invariants: a recorded URL passes the same checks as a URL in a spec before any request. The
//! credentials of a server are those that were recorded for its own URL, and are never sent to
//! another one.

use std::{collections::BTreeSet, sync::Arc};

use url::Url;

use crate::{
    controller::{pass::Pass, recorded_entries::RecordedConnection, resolve::connect},
    crd::{PrefectSpec, ServerSpec},
    failure::Failure,
    prefect::{
        Connection,
        connection::{api_url_of, server_at},
    },
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
    let names_url =
        |server: &&ServerSpec| api_url_of(server, namespace).is_ok_and(|built| built == url);
    let spec = pass.binding.spec.prefect.as_ref();
    let with_credentials = spec
        .map(|prefect| &prefect.server)
        .filter(names_url)
        .or_else(|| pass.entries.recorded.servers.get(text).filter(names_url));
    let mut failure = None;
    if let Some(server) = with_credentials {
        match connect_to(pass, server.clone()).await {
            Ok(connection) => return connection.into(),
            Err(error) => failure = Some(error),
        }
    }
    match connect_to(pass, server_at(&url)).await {
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

async fn connect_to(pass: &Pass<'_>, server: ServerSpec) -> Result<Arc<Connection>, Failure> {
    let prefect = PrefectSpec {
        server,
        ..PrefectSpec::default()
    };
    connect(pass, &prefect).await
}

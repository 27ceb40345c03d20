//! Reads `ClusterPrefectServer`s without a watch, for `check`, `env` and `detach`.
//!
//! Input: the API server, with the permissions of the caller.
//! Output: calls of [`ClusterServers`].
//! Invariants: reads only. The labels of namespaces are read only if a server selects by label.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt, api::ListParams};
use tokio::time::timeout;

use super::{ClusterServers, Listing};
use crate::{crd::ClusterPrefectServer, server_access::selects_by_label};

/// Reads all servers, and the labels of all namespaces if a server selects by label.
pub async fn read_all(client: &Client, servers: &ClusterServers, limit: Duration) {
    let api: Api<ClusterPrefectServer> = Api::all(client.clone());
    let params = ListParams::default();
    let listed = match timeout(limit, api.list(&params)).await {
        Ok(Ok(listed)) => listed.items,
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            return servers.on_unavailable(Listing::NoKind);
        }
        Ok(Err(_)) | Err(_) => return servers.on_unavailable(Listing::Forbidden),
    };
    let selects = listed.iter().any(|server| selects_by_label(&server.spec));
    servers.on_listed(listed);
    if !selects {
        return;
    }
    let api: Api<Namespace> = Api::all(client.clone());
    match timeout(limit, api.list_metadata(&params)).await {
        Ok(Ok(listed)) => {
            let labels = listed.items.iter();
            let labels = labels.map(|one| (one.name_any(), one.labels().clone()));
            servers.on_labels_listed(labels.collect());
        }
        Ok(Err(_)) | Err(_) => servers.on_labels_unavailable(),
    }
}

/// Reads one server, unless it is known, and the labels of a namespace if the server selects by label.
/// A server that does not exist is no error.
///
/// # Errors
/// Why the server or the labels cannot be read.
pub async fn read_one(
    client: &Client,
    servers: &ClusterServers,
    (name, namespace): (&str, &str),
    limit: Duration,
) -> Result<(), String> {
    if servers.get(name).is_none() {
        let api: Api<ClusterPrefectServer> = Api::all(client.clone());
        match timeout(limit, api.get_opt(name)).await {
            Ok(Ok(Some(server))) => servers.on_apply(server),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                return Err(format!(
                    "ClusterPrefectServer {name} cannot be read: {}",
                    why(&error)
                ));
            }
            Err(_) => return Err("the API server did not answer".to_owned()),
        }
    }
    if !servers
        .get(name)
        .is_some_and(|server| selects_by_label(&server.spec))
    {
        return Ok(());
    }
    let api: Api<Namespace> = Api::all(client.clone());
    match timeout(limit, api.get_metadata(namespace)).await {
        Ok(Ok(found)) => {
            let labels = HashMap::from([(namespace.to_owned(), found.labels().clone())]);
            servers.on_labels_listed(labels);
            Ok(())
        }
        Ok(Err(error)) => Err(format!(
            "the labels of namespace {namespace} cannot be read: {}",
            why(&error)
        )),
        Err(_) => Err("the API server did not answer".to_owned()),
    }
}

fn why(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => "you have no permission".to_owned(),
        kube::Error::Api(status) => format!("the API server answered {}", status.code),
        _ => "the API server could not be reached".to_owned(),
    }
}

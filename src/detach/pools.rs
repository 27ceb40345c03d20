//! Removes the operator's entries from the work pools.
//!
//! Input: the bindings with their recorded entries. Output: clean work pools, and the entries that
//! could not be removed.
//! Invariants: an entry that another author wrote stays; one PATCH of a work pool serves all
//! bindings.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use kube::ResourceExt;
use tokio::time::Instant;
use url::Url;

use crate::{
    controller::{
        connect::{build_connection, check_service},
        prefect_server::{PrefectServer, of_entry},
    },
    crd::{InjectedEntry, PrefectSpec, ServerChoice},
    failure::Failure,
    inject::template::{Edit, EntryKey, edit},
    prefect::{Connection, PrefectError, WorkPool, connection::server_at},
    reason::Reason,
    upstream::limiter::Priority,
};

use super::{
    context::{Detacher, RETRY_INTERVAL, print_line},
    records::BindingEntries,
};

/// Entries of one pool, and the bindings that have them recorded.
type Entries<'a> = Vec<(&'a BindingEntries, InjectedEntry)>;

impl Detacher {
    /// Removes all entries from all work pools. Returns the entries that could not be removed.
    pub(super) async fn remove_all_entries(
        &self,
        bindings: &[BindingEntries],
    ) -> io::Result<BTreeSet<InjectedEntry>> {
        let mut pools: BTreeMap<(String, String), Entries<'_>> = BTreeMap::new();
        for binding in bindings {
            for entry in &binding.recorded.entries {
                pools
                    .entry((entry.server.clone(), entry.pool.clone()))
                    .or_default()
                    .push((binding, entry.clone()));
            }
        }
        let mut uncleaned = BTreeSet::new();
        for ((server, pool), entries) in pools {
            let failures = self.clean_pool(&server, &pool, entries).await;
            if failures.is_empty() {
                print_line(&format!("work pool {pool} on {server}: clean"))?;
            }
            for (entries, error) in failures {
                print_line(&format!(
                    "warning: detach could not clean work pool {pool} on {server}: {error}; its Secrets stay: {}",
                    names(&keys(&entries))
                ))?;
                uncleaned.extend(entries.into_iter().map(|(_, entry)| entry));
            }
        }
        Ok(uncleaned)
    }

    /// Removes entries from a pool. Returns those that could not be removed, and why.
    async fn clean_pool<'a>(
        &self,
        server: &str,
        pool: &str,
        entries: Entries<'a>,
    ) -> Vec<(Entries<'a>, String)> {
        let connection = match self.connection_for(server, &entries).await {
            Ok(connection) => connection,
            Err(why) => return vec![(entries, why)],
        };
        let refusal = |(binding, entry): &(&BindingEntries, InjectedEntry)| {
            self.refused_entry(&connection, binding, entry)
        };
        let why = entries.iter().find_map(refusal);
        let (refused, allowed): (Entries<'_>, Entries<'_>) = entries
            .into_iter()
            .partition(|entry| refusal(entry).is_some());
        let mut failures: Vec<_> = why.map(|why| (refused, why)).into_iter().collect();
        if !allowed.is_empty()
            && let Err(error) = self
                .remove_entries(&connection, pool, &keys(&allowed))
                .await
        {
            failures.push((allowed, error));
        }
        failures
    }

    async fn remove_entries(
        &self,
        connection: &Arc<Connection>,
        pool: &str,
        ours: &BTreeSet<EntryKey>,
    ) -> Result<(), String> {
        let client = self
            .connections
            .client(connection)
            .map_err(|error| error.to_string())?;
        loop {
            let done = async {
                let without_ours = |pool: &WorkPool| match edit(&pool.base_job_template, &[], ours)
                {
                    Ok(Edit::Changed(template)) => Some(template),
                    Ok(Edit::Unchanged) | Err(_) => None,
                };
                let mut before = client.work_pool(pool, Priority::Interactive).await?;
                if let Some(template) = without_ours(&before) {
                    let again = |pool: &WorkPool| Ok(without_ours(pool));
                    client
                        .edit_work_pool(pool, &mut before, template, again)
                        .await?;
                    let after = client.work_pool(pool, Priority::Interactive).await?;
                    return Ok::<_, PrefectError>(without_ours(&after).is_none());
                }
                Ok(true)
            };
            let error = match done.await {
                Ok(true) => return Ok(()),
                Ok(false) => "another process added the entry again".to_owned(),
                Err(error) if error.reason() == Reason::PoolMissing => return Ok(()),
                Err(error) => error.to_string(),
            };
            if Instant::now() + RETRY_INTERVAL >= self.deadline {
                return Err(error);
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Why an entry may not be removed with a shared connection: the lists of its `ClusterPrefectServer`
    /// do not allow it.
    fn refused_entry(
        &self,
        connection: &Connection,
        binding: &BindingEntries,
        entry: &InjectedEntry,
    ) -> Option<String> {
        let name = connection.shared.as_deref()?;
        let namespace = binding.binding.namespace().unwrap_or_default();
        let checked = self
            .cluster_servers
            .check_entry(name, &namespace, &entry.pool);
        Some(Failure::from(checked.err()?).message)
    }

    /// The connection to the server of entries: as a spec or a record says, else without
    /// credentials. A recorded URL passes the same checks as a URL in a spec.
    async fn connection_for(
        &self,
        server: &str,
        entries: &[(&BindingEntries, InjectedEntry)],
    ) -> Result<Arc<Connection>, String> {
        let url = Url::parse(server).map_err(|_| "the recorded server is not a URL".to_owned())?;
        let mut error = None;
        let mut is_shared = false;
        for (binding, _) in entries {
            let namespace = binding.binding.namespace().unwrap_or_default();
            let prefect = binding.binding.spec.prefect.as_ref();
            let in_spec = prefect.and_then(PrefectSpec::choice);
            let recorded = binding.recorded.servers.get(server).cloned();
            for choice in in_spec.into_iter().chain(recorded) {
                is_shared |= matches!(choice, ServerChoice::Shared(_));
                let target = match of_entry(&self.cluster_servers, &namespace, choice) {
                    Ok(target) => target,
                    Err(unusable) => {
                        error = Some(Failure::from(unusable).message);
                        continue;
                    }
                };
                if target.api_url(&namespace).is_ok_and(|built| built == url) {
                    match self.connect(&namespace, &target).await {
                        Ok(connection) => return Ok(connection),
                        Err(message) => error = Some(message),
                    }
                }
            }
        }
        if let Some(error) = error.clone().filter(|_| is_shared) {
            // Nothing is sent to the server of a ClusterPrefectServer without its lists.
            return Err(error);
        }
        let namespace = entries.first().and_then(|(one, _)| one.binding.namespace());
        let namespace = namespace.unwrap_or_default();
        let target = PrefectServer::own(server_at(&url));
        let connection = self.connect(&namespace, &target).await;
        match (connection, error) {
            (Ok(connection), None) if connection.api_url == url => Ok(connection),
            (Ok(_), Some(error)) | (Err(error), _) => Err(error),
            (Ok(_), None) => {
                Err("the recorded server is not a URL that the operator writes".to_owned())
            }
        }
    }

    async fn connect(
        &self,
        namespace: &str,
        server: &PrefectServer,
    ) -> Result<Arc<Connection>, String> {
        let built = build_connection(
            &self.references,
            &self.objects,
            &self.servers,
            namespace,
            server,
        );
        let connection = built.await.map_err(|failure| failure.message)?;
        let url = &connection.api_url;
        let checked = check_service(&self.service_types, namespace, server, url).await;
        checked.map_err(|error| server.explain(error.into()).message)?;
        Ok(self.connections.intern(connection))
    }
}

fn keys(entries: &[(&BindingEntries, InjectedEntry)]) -> BTreeSet<EntryKey> {
    let keys = entries.iter().map(|(_, entry)| EntryKey::from(entry));
    keys.collect()
}

fn names(entries: &BTreeSet<EntryKey>) -> String {
    let secrets: BTreeSet<&str> = entries.iter().map(|key| key.secret.as_str()).collect();
    secrets.into_iter().collect::<Vec<_>>().join(", ")
}

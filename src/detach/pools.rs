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

use crate::{
    controller::{
        connect::{build_connection, check_service},
        finalizer::{self, InjectedEntry},
    },
    crd::{DopplerPrefectBinding, WorkPoolState},
    failure::Failure,
    inject::template::{Edit, edit},
    prefect::{Connection, PrefectError},
    reason::Reason,
    upstream::limiter::Priority,
};

use super::context::{Detacher, RETRY_INTERVAL, print_line};

impl Detacher {
    /// Removes all entries from all work pools. Returns the entries that could not be removed.
    pub(super) async fn remove_all_entries(
        &self,
        bindings: &[DopplerPrefectBinding],
    ) -> io::Result<BTreeSet<InjectedEntry>> {
        let mut pools: BTreeMap<(String, String), Vec<(&DopplerPrefectBinding, InjectedEntry)>> =
            BTreeMap::new();
        for binding in bindings {
            for entry in finalizer::injected_entries(binding) {
                pools
                    .entry((entry.server.clone(), entry.pool.clone()))
                    .or_default()
                    .push((binding, entry));
            }
        }
        let mut uncleaned = BTreeSet::new();
        for ((server, pool), entries) in pools {
            let ours: BTreeSet<String> = entries
                .iter()
                .filter(|(binding, entry)| !is_written_by_other(binding, entry))
                .map(|(_, entry)| entry.secret.clone())
                .collect();
            match self.remove_entries(&server, &pool, &entries, &ours).await {
                Ok(()) => print_line(&format!("work pool {pool} on {server}: clean"))?,
                Err(error) => {
                    print_line(&format!(
                        "warning: detach could not clean work pool {pool} on {server}: {error}; its Secrets stay: {}",
                        names(&ours)
                    ))?;
                    uncleaned.extend(entries.into_iter().map(|(_, entry)| entry));
                }
            }
        }
        Ok(uncleaned)
    }

    async fn remove_entries(
        &self,
        server: &str,
        pool: &str,
        entries: &[(&DopplerPrefectBinding, InjectedEntry)],
        ours: &BTreeSet<String>,
    ) -> Result<(), String> {
        let connection = self.connection_for(server, entries).await?;
        let client = self
            .connections
            .client(&connection)
            .map_err(|error| error.to_string())?;
        loop {
            let done = async {
                let before = client.work_pool(pool, Priority::Interactive).await?;
                if let Ok(Edit::Changed(template)) = edit(&before.base_job_template, &[], ours) {
                    client.patch_work_pool(pool, &template).await?;
                    let after = client.work_pool(pool, Priority::Interactive).await?;
                    return Ok::<_, PrefectError>(matches!(
                        edit(&after.base_job_template, &[], ours),
                        Ok(Edit::Unchanged) | Err(_)
                    ));
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

    /// The connection to the server of an entry, from the spec of a binding that recorded it.
    async fn connection_for(
        &self,
        server: &str,
        entries: &[(&DopplerPrefectBinding, InjectedEntry)],
    ) -> Result<Arc<Connection>, String> {
        let mut error = format!("no binding names {server}, so its credentials are unknown");
        for (binding, _) in entries {
            let Some(prefect) = &binding.spec.prefect else {
                continue;
            };
            let namespace = binding.namespace().unwrap_or_default();
            let connection = build_connection(
                &self.references,
                &self.objects,
                &self.servers,
                &namespace,
                prefect,
            )
            .await;
            let connection = match connection {
                Ok(connection) => check_service(
                    &self.service_types,
                    &namespace,
                    prefect,
                    &connection.api_url,
                )
                .await
                .map(|()| connection)
                .map_err(Failure::from),
                Err(failure) => Err(failure),
            };
            match connection {
                Ok(connection) if connection.api_url.as_str() == server => {
                    return Ok(self.connections.intern(connection));
                }
                Ok(_) => {}
                Err(failure) => error = failure.message,
            }
        }
        Err(error)
    }
}

/// Whether another author wrote the entry, according to the status.
fn is_written_by_other(binding: &DopplerPrefectBinding, entry: &InjectedEntry) -> bool {
    let pools = binding.status.iter().flat_map(|status| &status.work_pools);
    pools
        .into_iter()
        .any(|pool| pool.name == entry.pool && pool.state == Some(WorkPoolState::AlreadyPresent))
}

fn names(secrets: &BTreeSet<String>) -> String {
    secrets
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

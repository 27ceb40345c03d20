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
    controller::connect::{build_connection, check_service},
    crd::{InjectedEntry, PrefectSpec, ServerSpec},
    inject::template::{Edit, edit},
    prefect::{
        Connection, PrefectError, WorkPool,
        connection::{api_url_of, server_at},
    },
    reason::Reason,
    upstream::limiter::Priority,
};

use super::{
    context::{Detacher, RETRY_INTERVAL, print_line},
    records::BindingEntries,
};

impl Detacher {
    /// Removes all entries from all work pools. Returns the entries that could not be removed.
    pub(super) async fn remove_all_entries(
        &self,
        bindings: &[BindingEntries],
    ) -> io::Result<BTreeSet<InjectedEntry>> {
        let mut pools: BTreeMap<(String, String), Vec<(&BindingEntries, InjectedEntry)>> =
            BTreeMap::new();
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
            let ours: BTreeSet<String> = entries
                .iter()
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
        entries: &[(&BindingEntries, InjectedEntry)],
        ours: &BTreeSet<String>,
    ) -> Result<(), String> {
        let connection = self.connection_for(server, entries).await?;
        let client = self
            .connections
            .client(&connection)
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

    /// The connection to the server of entries: as a spec or a record says, else without
    /// credentials. A recorded URL passes the same checks as a URL in a spec.
    async fn connection_for(
        &self,
        server: &str,
        entries: &[(&BindingEntries, InjectedEntry)],
    ) -> Result<Arc<Connection>, String> {
        let url = Url::parse(server).map_err(|_| "the recorded server is not a URL".to_owned())?;
        let mut error = None;
        for (binding, _) in entries {
            let namespace = binding.binding.namespace().unwrap_or_default();
            let spec = binding.binding.spec.prefect.as_ref();
            let spec = spec.map(|prefect| &prefect.server);
            let specs = spec.into_iter().chain(binding.recorded.servers.get(server));
            for spec in specs {
                if api_url_of(spec, &namespace).is_ok_and(|built| built == url) {
                    match self.connect(&namespace, spec.clone()).await {
                        Ok(connection) => return Ok(connection),
                        Err(message) => error = Some(message),
                    }
                }
            }
        }
        let namespace = entries.first().and_then(|(one, _)| one.binding.namespace());
        let namespace = namespace.unwrap_or_default();
        let connection = self.connect(&namespace, server_at(&url)).await;
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
        server: ServerSpec,
    ) -> Result<Arc<Connection>, String> {
        let prefect = PrefectSpec {
            server,
            ..PrefectSpec::default()
        };
        let built = build_connection(
            &self.references,
            &self.objects,
            &self.servers,
            namespace,
            &prefect,
        );
        let connection = built.await.map_err(|failure| failure.message)?;
        let url = &connection.api_url;
        let checked = check_service(&self.service_types, namespace, &prefect, url).await;
        checked.map_err(|error| error.to_string())?;
        Ok(self.connections.intern(connection))
    }
}

fn names(secrets: &BTreeSet<String>) -> String {
    secrets
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

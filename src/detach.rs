//! `release`: the operator's entries out of all pools, its finalizers off all bindings, before it is uninstalled.
//!
//! In: flags, and a way to the API server. Out: clean pools, bindings without our finalizer, Secrets that go with their bindings or, with
//! `--keep-secrets`, stay behind. A pool that cannot be cleaned is named, its Secret stays, and the finalizer goes all the same. Nothing is deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::DeserializeGuard,
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::{
    args::{DetachArgs, UpstreamArgs},
    controller::{
        connect::build_connection,
        finalizer::{self, FinalizerError, InjectedEntry},
        key_refs::KeyRefs,
        object_cache::ObjectCache,
        watches::scoped_api,
        work_queue::Scope,
    },
    crd::{DeletionPolicy, DopplerPrefectBinding, WorkPoolState},
    inject::template::{Edit, edit},
    outbound::{AllowedHosts, PatternError},
    prefect::{Clients, Connection, PrefectError},
    process::{
        leader_election::{LeaderElector, LeaderLease, LeaseClient, LeaseLost},
        run::{RunError, kubernetes},
    },
    reason::Reason,
    secret::{SecretClient, WriteError, owner_reference},
    upstream::limiter::{Priority, RateLimiter},
};

/// Time limit of a step at the API server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait for the lease: longer than one lasts that nobody gave back.
const LEASE_TIMEOUT: Duration = Duration::from_secs(40);
/// Bindings in one page of a list.
const PAGE_SIZE: u32 = 500;
/// Wait before something that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How often a binding that keeps changing is tried.
const MAX_ATTEMPTS: usize = 5;

/// Nothing, or not everything, was released.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// An allowed host is none.
    #[error(transparent)]
    Hosts(#[from] PatternError),
    /// No way to the API server.
    #[error(transparent)]
    Kubernetes(#[from] RunError),
    /// The bindings cannot be listed.
    #[error("the bindings cannot be listed ({0}); give the account list on dopplerprefectbindings")]
    List(String),
    /// A finalizer is still there.
    #[error(
        "{0} bindings still carry the finalizer; run it again, or remove doppler-prefect.dev/injected from their metadata.finalizers"
    )]
    FinalizersLeft(usize),
    /// An operator runs.
    #[error("an operator works again: scale its Deployment to zero and run it again")]
    Lease(#[from] LeaseLost),
    /// Nobody listens.
    #[error("standard output is closed")]
    Output(#[from] io::Error),
}

struct Detach {
    client: Client,
    secrets: SecretClient,
    clients: Clients,
    references: KeyRefs,
    objects: ObjectCache,
    hosts: AllowedHosts,
    keep_secrets: bool,
    deadline: Instant,
}

/// Releases all bindings of the scopes.
///
/// # Errors
/// If they cannot be listed, or one still carries the finalizer at the end.
pub async fn detach(args: DetachArgs) -> Result<(), DetachError> {
    let DetachArgs {
        keep_secrets,
        watch_namespaces,
        scale_down,
        operator_namespace,
        lease_name,
        timeout: retry_limit,
        upstream,
    } = args;
    let UpstreamArgs {
        allowed_prefect_hosts,
        prefect_timeout,
        allowed_doppler_hosts: _,
        doppler_timeout: _,
    } = upstream;
    let hosts = AllowedHosts::parse("--allowed-prefect-host", &allowed_prefect_hosts)?;
    let client = kubernetes().await?;
    let detach = Detach {
        secrets: SecretClient::new(client.clone(), REQUEST_TIMEOUT),
        clients: Clients::new(prefect_timeout, RateLimiter::small()),
        references: KeyRefs::new(client.clone(), REQUEST_TIMEOUT),
        objects: ObjectCache::new(Box::new(|_| {})),
        hosts,
        keep_secrets,
        deadline: Instant::now() + retry_limit,
        client,
    };
    if let Some(deployment) = scale_down {
        detach
            .scale_down_operator(&operator_namespace, &deployment)
            .await?;
    }
    let lease = match lease_name {
        Some(name) => detach.acquire_lease(&operator_namespace, &name).await?,
        None => None,
    };
    let work = detach.detach_all(&watch_namespaces);
    match lease {
        // It is not given back: a replica that has still not ended would take it.
        Some(mut lease) => Box::pin(lease.run_while_held(work)).await?,
        None => work.await,
    }
}

fn print_line(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

impl Detach {
    async fn detach_all(&self, watch_namespaces: &[String]) -> Result<(), DetachError> {
        let mut bindings = Vec::new();
        for scope in Scope::of(watch_namespaces) {
            bindings.extend(self.list(&scope).await?);
        }
        let uncleaned = self.remove_all_entries(&bindings).await?;
        let mut remaining = 0;
        for binding in &bindings {
            if !self.detach_binding(binding, &uncleaned).await? {
                remaining += 1;
            }
        }
        print_line(&format!("{} bindings released", bindings.len() - remaining))?;
        if remaining == 0 {
            Ok(())
        } else {
            Err(DetachError::FinalizersLeft(remaining))
        }
    }

    /// The lease of the replicas, once the last of them has given it back.
    async fn acquire_lease(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<LeaderLease>, DetachError> {
        let leases = LeaseClient::new(self.client.clone(), namespace, name);
        let candidate = LeaderElector::new(leases, "release", None);
        let lease = timeout(LEASE_TIMEOUT, candidate.acquire(|| {})).await;
        if lease.is_err() {
            print_line(&format!(
                "warning: lease {namespace}/{name} could not be had; an operator that runs may put entries back"
            ))?;
        }
        Ok(lease.ok())
    }

    /// An operator that runs would put back what is taken out.
    async fn scale_down_operator(&self, namespace: &str, name: &str) -> Result<(), DetachError> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let scale = Patch::Merge(json!({"spec": {"replicas": 0}}));
        let params = PatchParams::default();
        match timeout(REQUEST_TIMEOUT, api.patch_scale(name, &params, &scale)).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(()),
            _ => {
                return Ok(print_line(&format!(
                    "warning: deployment {namespace}/{name} could not be scaled to zero; if it runs, it may put entries back"
                ))?);
            }
        }
        while Instant::now() < self.deadline {
            if let Ok(Ok(deployment)) = timeout(REQUEST_TIMEOUT, api.get(name)).await
                && deployment
                    .status
                    .and_then(|status| status.replicas)
                    .unwrap_or(0)
                    == 0
            {
                return Ok(print_line(&format!(
                    "deployment {namespace}/{name} is scaled to zero"
                ))?);
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        Ok(print_line(&format!(
            "warning: deployment {namespace}/{name} still has pods; they may put entries back"
        ))?)
    }

    async fn list(&self, scope: &Scope) -> Result<Vec<DopplerPrefectBinding>, DetachError> {
        let api: Api<DeserializeGuard<DopplerPrefectBinding>> =
            scoped_api(self.client.clone(), scope);
        let mut params = ListParams::default().limit(PAGE_SIZE);
        let mut bindings = Vec::new();
        loop {
            let page = match timeout(REQUEST_TIMEOUT, api.list(&params)).await {
                Ok(Ok(page)) => page,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(bindings),
                Ok(Err(kube::Error::Api(status))) => {
                    return Err(DetachError::List(format!("status {}", status.code)));
                }
                Ok(Err(_)) | Err(_) => {
                    return Err(DetachError::List(
                        "the API server could not be reached".to_owned(),
                    ));
                }
            };
            bindings.extend(page.items.into_iter().map(|binding| match binding.0 {
                Ok(binding) => binding,
                Err(invalid) => DopplerPrefectBinding {
                    metadata: invalid.metadata,
                    ..DopplerPrefectBinding::new(
                        "",
                        crate::crd::DopplerPrefectBindingSpec::default(),
                    )
                },
            }));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => return Ok(bindings),
            }
        }
    }

    /// Takes all entries out of all pools, each pool at once. Gives the entries that are still in.
    async fn remove_all_entries(
        &self,
        bindings: &[DopplerPrefectBinding],
    ) -> Result<BTreeSet<InjectedEntry>, DetachError> {
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
                        "warning: work pool {pool} on {server} could not be cleaned: {error}; its Secrets stay: {}",
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
            .clients
            .get(&connection)
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
                Ok(false) => "somebody put the entry back".to_owned(),
                Err(error) if error.reason() == Reason::PoolMissing => return Ok(()),
                Err(error) => error.to_string(),
            };
            if Instant::now() + RETRY_INTERVAL >= self.deadline {
                return Err(error);
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// How the server of an entry is reached: as one of the bindings that noted it says.
    async fn connection_for(
        &self,
        server: &str,
        entries: &[(&DopplerPrefectBinding, InjectedEntry)],
    ) -> Result<Arc<Connection>, String> {
        let mut error =
            format!("no binding names {server} any more, so that its credentials are not known");
        for (binding, _) in entries {
            let Some(prefect) = &binding.spec.prefect else {
                continue;
            };
            let namespace = binding.namespace().unwrap_or_default();
            match build_connection(
                &self.references,
                &self.objects,
                &self.hosts,
                &namespace,
                prefect,
            )
            .await
            {
                Ok(connection) if connection.api_url.as_str() == server => {
                    return Ok(connection.into());
                }
                Ok(_) => {}
                Err(fault) => error = fault.message,
            }
        }
        Err(error)
    }

    /// The binding's Secrets, then its finalizer. False if the finalizer is still there.
    async fn detach_binding(
        &self,
        binding: &DopplerPrefectBinding,
        uncleaned: &BTreeSet<InjectedEntry>,
    ) -> io::Result<bool> {
        let namespace = binding.namespace().unwrap_or_default();
        let entries = finalizer::injected_entries(binding);
        let secrets: BTreeSet<&str> = entries
            .iter()
            .map(|entry| entry.secret.as_str())
            .chain([binding.secret_name()])
            .collect();
        for name in secrets {
            let in_use = uncleaned
                .iter()
                .any(|entry| entries.contains(entry) && entry.secret == name);
            if let Err(error) = self.detach_secret(binding, &namespace, name, in_use).await {
                print_line(&format!("warning: Secret {namespace}/{name}: {error}"))?;
            }
        }
        if !finalizer::has_finalizer(binding) {
            return Ok(true);
        }
        let mut current = binding.clone();
        for _ in 0..MAX_ATTEMPTS {
            match finalizer::patch_finalizer(
                self.client.clone(),
                &current,
                &BTreeSet::new(),
                REQUEST_TIMEOUT,
            )
            .await
            {
                Ok(()) => return Ok(true),
                Err(FinalizerError::Conflict) => {
                    let api: Api<DopplerPrefectBinding> =
                        Api::namespaced(self.client.clone(), &namespace);
                    match timeout(REQUEST_TIMEOUT, api.get_opt(&binding.name_any())).await {
                        Ok(Ok(Some(again))) => current = again,
                        Ok(Ok(None)) => return Ok(true),
                        _ => tokio::time::sleep(RETRY_INTERVAL).await,
                    }
                }
                Err(error) => {
                    print_line(&format!(
                        "warning: binding {namespace}/{}: {error}",
                        binding.name_any()
                    ))?;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
        Ok(false)
    }

    /// The Secret stays; from now on it goes with its binding, or, if it is to be kept or still in use, with nobody.
    async fn detach_secret(
        &self,
        binding: &DopplerPrefectBinding,
        namespace: &str,
        name: &str,
        in_use: bool,
    ) -> Result<(), WriteError> {
        let uid = binding.metadata.uid.as_deref().unwrap_or_default();
        let Some(found) = self.secrets.get(namespace, name).await? else {
            return Ok(());
        };
        if !found.observed.belongs_to(uid) {
            return Ok(());
        }
        let keep = self.keep_secrets
            || in_use
            || binding.spec.managed_secret.deletion_policy == DeletionPolicy::Retain;
        if keep {
            self.secrets
                .disown(namespace, name, &found.observed, uid)
                .await?;
        } else {
            self.secrets
                .set_owner(
                    namespace,
                    name,
                    &found.observed,
                    &owner_reference(&binding.name_any(), uid),
                )
                .await?;
        }
        Ok(())
    }
}

/// Whether somebody else wrote the entry, as the status last said.
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

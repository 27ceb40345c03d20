//! The subcommand `detach`: prepares the removal of the operator from a cluster.
//!
//! Input: flags and a connection to the API server. Output: work pools without the operator's entries
//! and bindings without its finalizer, whose status says so. A Secret is deleted later with its binding, or with
//! `--keep-secrets` it has no owner.
//! Invariants: nothing is deleted here. If a work pool cannot be cleaned, a warning names it, its
//! Secrets are kept, and the finalizers are removed nevertheless.

mod bindings;
mod context;
mod pools;
mod records;
mod status;

use std::{io, sync::Arc, time::Duration};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use self::context::{Detacher, REQUEST_TIMEOUT, RETRY_INTERVAL, print_line};
use crate::{
    args::{DetachArgs, UpstreamArgs},
    controller::{
        cluster_servers::{ClusterServers, Listing, read::read_all},
        key_refs::KeyRefs,
        object_cache::ObjectCache,
        scope::WatchScope,
        service_types::ServiceTypes,
    },
    outbound::{AllowedServers, PatternError},
    prefect::ConnectionInterner,
    printable::count,
    process::{
        leader_election::{LeaderElector, LeaderLease, LeaseClient, LeaseLost},
        run::{RunError, kubernetes},
    },
    secret::SecretClient,
    upstream::limiter::RateLimiter,
};

/// How long to wait for the Lease: longer than a Lease is valid that its holder did not release.
const LEASE_TIMEOUT: Duration = Duration::from_secs(40);

/// Why not everything was detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// Invalid `--allowed-prefect-host` or `--allowed-prefect-service` pattern.
    #[error(transparent)]
    Hosts(#[from] PatternError),
    /// The API server cannot be reached.
    #[error(transparent)]
    Kubernetes(#[from] RunError),
    /// The bindings cannot be listed.
    #[error(
        "detach cannot list the bindings ({0}): check that your account has permission to list dopplerprefectbindings"
    )]
    List(String),
    /// The metadata of Secrets cannot be listed.
    #[error(
        "detach cannot list the metadata of Secrets ({0}), which record the pool entries: check that your account has permission to list secrets"
    )]
    ListSecrets(String),
    /// Some bindings still have the finalizer.
    #[error(
        "bindings that still have the finalizer: {0}. Run detach again, or remove doppler-prefect.dev/injected from their metadata.finalizers"
    )]
    FinalizersLeft(usize),
    /// A replica of the operator acquired the Lease.
    #[error("an operator is running again: scale its Deployment to zero and run detach again")]
    Lease(#[from] LeaseLost),
    /// The output cannot be written.
    #[error("standard output is closed")]
    Output(#[from] io::Error),
}

/// Detaches all bindings of the watched namespaces.
///
/// # Errors
/// If the bindings cannot be listed, another replica acquires the Lease, or a binding still has the
/// finalizer at the end.
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
        allowed_prefect_services,
        allowed_doppler_hosts: _,
        block_overrides: _,
        doppler_timeout: _,
    } = upstream;
    let servers = AllowedServers::parse(&allowed_prefect_hosts, &allowed_prefect_services)?;
    let client = kubernetes().await?;
    let detacher = Detacher {
        secrets: SecretClient::new(client.clone(), REQUEST_TIMEOUT),
        connections: ConnectionInterner::new(prefect_timeout, RateLimiter::small()),
        references: KeyRefs::new(client.clone(), REQUEST_TIMEOUT),
        objects: ObjectCache::new(Arc::new(|_| {})),
        servers,
        service_types: ServiceTypes::new(client.clone(), REQUEST_TIMEOUT),
        cluster_servers: ClusterServers::new(Listing::Pending, None, Arc::new(|_| {})),
        keep_secrets,
        deadline: Instant::now() + retry_limit,
        client,
    };
    if let Some(deployment) = scale_down {
        detacher
            .scale_down_operator(&operator_namespace, &deployment)
            .await?;
    }
    let lease = match lease_name {
        Some(name) => detacher.acquire_lease(&operator_namespace, &name).await?,
        None => None,
    };
    let work = detacher.detach_all(&watch_namespaces);
    match lease {
        // The Lease is not released: a replica that is still shutting down could acquire it.
        Some(mut lease) => Box::pin(lease.run_while_held(work)).await?,
        None => work.await,
    }
}

impl Detacher {
    async fn detach_all(&self, watch_namespaces: &[String]) -> Result<(), DetachError> {
        let mut bindings = Vec::new();
        for scope in WatchScope::of(watch_namespaces) {
            bindings.extend(self.list(&scope).await.map_err(DetachError::List)?);
        }
        let bindings = self.with_entries(bindings, watch_namespaces).await?;
        read_all(&self.client, &self.cluster_servers, REQUEST_TIMEOUT).await;
        let uncleaned = self.remove_all_entries(&bindings).await?;
        let (mut detached, mut remaining) = (0, 0);
        for binding in &bindings {
            if binding.is_orphan {
                self.detach_orphan(binding, &uncleaned).await?;
            } else if self.detach_binding(binding, &uncleaned).await? {
                detached += 1;
            } else {
                remaining += 1;
            }
        }
        print_line(&format!("{} detached", count(detached, "binding")))?;
        if remaining == 0 {
            Ok(())
        } else {
            Err(DetachError::FinalizersLeft(remaining))
        }
    }

    /// Acquires the Lease of the replicas once the last of them has released it.
    async fn acquire_lease(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<LeaderLease>, DetachError> {
        let leases = LeaseClient::new(self.client.clone(), namespace, name);
        let elector = LeaderElector::new(leases, "detach", None);
        let lease = timeout(LEASE_TIMEOUT, elector.acquire(|| {})).await;
        if lease.is_err() {
            print_line(&format!(
                "warning: detach could not acquire lease {namespace}/{name}; a running operator may add the entries again"
            ))?;
        }
        Ok(lease.ok())
    }

    /// Scales the operator to zero: a running operator would add the entries again.
    async fn scale_down_operator(&self, namespace: &str, name: &str) -> Result<(), DetachError> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let scale = Patch::Merge(json!({"spec": {"replicas": 0}}));
        let params = PatchParams::default();
        match timeout(REQUEST_TIMEOUT, api.patch_scale(name, &params, &scale)).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(()),
            _ => {
                return Ok(print_line(&format!(
                    "warning: detach could not scale deployment {namespace}/{name} to zero; a running operator may add the entries again"
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
            "warning: deployment {namespace}/{name} still has pods; they may add the entries again"
        ))?)
    }
}

//! `run`: arguments become what every replica does, and then what the leader does.
//!
//! In: the arguments. Out: health, metrics and hooks on every replica; [`Lead`] on the one that holds the lease, or at once where there is no
//! election. Ends on a signal, with a task that dies, or with the lease.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kube::{Client, Config, client::ClientBuilder};
use tokio::time::Instant;
use tower::limit::ConcurrencyLimitLayer;
use tracing::{error, info, warn};

use super::{
    doppler_webhook::{self, Forwarder, SecretDir, SecretDirError, WebhookReceiver},
    leader_election::{LeaderElector, LeaseClient, LeaseLost},
    manager::ControllerManager,
    server::{self, GaugeUpdater, ListenError, Readiness},
    tasks::{TaskEnded, Tasks},
    telemetry::{self, FilterError},
    upstreams::UpstreamSettings,
};
use crate::{
    args::{ElectionArgs, RunArgs, UpstreamArgs, WebhookArgs},
    controller::context::ControllerSettings,
    metrics::{Metrics, NotificationLabels},
    outbound::{AllowedHosts, ClientError, PatternError},
    secret::{HashKey, HashKeyError, SecretClient, load_or_create_hash_key},
};

/// Requests to the API server that may be in flight. A watch counts until it is answered.
const TO_KUBERNETES: usize = 64;
/// How long the API server may take to give the hash key before the process ends and is started again.
const KEY_TRIES: usize = 5;

/// The process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log filter is none.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// An allowed host is none.
    #[error(transparent)]
    Hosts(#[from] PatternError),
    /// No HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No way to the API server.
    #[error(
        "no way to the API server is configured: run in a cluster with a service account, or set KUBECONFIG"
    )]
    Kubernetes,
    /// No hash key.
    #[error(transparent)]
    Key(#[from] HashKeyError),
    /// An address is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No hook secrets.
    #[error(transparent)]
    HookSecrets(#[from] SecretDirError),
    /// A task ended.
    #[error(transparent)]
    Task(#[from] TaskEnded),
    /// The lease was lost.
    #[error(transparent)]
    Lease(#[from] LeaseLost),
}

/// Runs until a signal ends it.
///
/// # Errors
/// If it cannot start, a task dies, or the lease is lost.
pub async fn run(args: RunArgs) -> Result<(), RunError> {
    let RunArgs {
        watch_namespaces,
        prefect_namespaces,
        operator_namespace,
        concurrency,
        refresh_interval,
        stale_after,
        release_wait,
        release_timeout,
        kubernetes_timeout,
        upstream:
            UpstreamArgs {
                allowed_doppler_hosts,
                allowed_prefect_hosts,
                prefect_timeout,
                doppler_timeout,
            },
        prefect_account_budget,
        max_streams,
        pushed_refresh_interval,
        webhook: hook_args,
        election,
        metrics_address,
        health_address,
        log_format,
        log_filter,
    } = args;
    telemetry::start(log_format, &log_filter)?;
    let prefect_hosts = AllowedHosts::parse("--allowed-prefect-host", &allowed_prefect_hosts)?;
    let doppler_hosts = AllowedHosts::parse("--allowed-doppler-host", &allowed_doppler_hosts)?;
    let settings = ControllerSettings {
        refresh_interval,
        stale_after,
        release_wait,
        release_timeout,
        kubernetes_timeout,
    };

    let mut tasks = Tasks::new();
    let shutdown = tasks.shutdown();
    let metrics = Arc::new(Metrics::new());
    let readiness = Readiness::default();
    let refreshed = GaugeUpdater::default();
    let health = server::listen(health_address, "health").await?;
    tasks.spawn(
        "health",
        server::serve(health, server::health(readiness.clone()), shutdown.clone()),
    );
    let listener = server::listen(metrics_address, "metrics").await?;
    tasks.spawn(
        "metrics",
        server::serve(
            listener,
            server::metrics(Arc::clone(&metrics), refreshed.clone()),
            shutdown.clone(),
        ),
    );

    let client = kubernetes().await?;
    let leases = election
        .leader_election
        .then(|| LeaseClient::new(client.clone(), &operator_namespace, &election.lease_name));
    let hooks_at = reached_at(&hook_args, &election);
    let hooks = take_hooks(hook_args, leases.clone(), &metrics, &mut tasks).await?;
    info!(version = env!("CARGO_PKG_VERSION"), "running");

    let held = match leases {
        None => None,
        Some(leases) => {
            let candidate = LeaderElector::new(leases, &election.pod_name, hooks_at);
            let held = tasks
                .until_ready(candidate.acquire(|| readiness.set()))
                .await?;
            if held.is_none() {
                tasks.stop().await;
                return Ok(());
            }
            held
        }
    };
    // A replica that stood by was ready.
    readiness.unset();
    metrics.leader.set(1);
    let secrets = SecretClient::new(client.clone(), kubernetes_timeout);
    let lead = ControllerManager {
        client,
        secrets: secrets.clone(),
        settings,
        watch_namespaces,
        prefect_namespaces,
        operator_namespace: operator_namespace.clone(),
        concurrency,
        prefect_hosts,
        doppler_hosts,
        upstream_settings: UpstreamSettings {
            prefect_timeout,
            doppler_timeout,
            prefect_account_budget,
            max_streams,
            pushed_refresh_interval,
        },
        metrics: Arc::clone(&metrics),
        readiness,
        gauge_updater: refreshed,
    };
    let work = async move {
        let Some(key) = tasks
            .until_ready(hash_key(&secrets, &operator_namespace))
            .await?
        else {
            tasks.stop().await;
            return Ok(());
        };
        let configs = lead.start(key?, &mut tasks)?;
        if let Some(hooks) = hooks {
            hooks.start_leading(Arc::new(move |hook| {
                let kind = NotificationLabels { source: "webhook" };
                metrics.change_notifications.get_or_create(&kind).inc();
                configs.refresh(Instant::now(), |of, _| {
                    hook.affects(&of.project, &of.config)
                });
            }));
        }
        Ok(tasks.run_to_end().await?)
    };
    match held {
        Some(mut held) => {
            let ended = Box::pin(held.run_while_held(work)).await?;
            held.release().await;
            ended
        }
        None => work.await,
    }
}

/// Where the other replicas reach this one's door for hooks.
fn reached_at(hooks: &WebhookArgs, election: &ElectionArgs) -> Option<SocketAddr> {
    hooks.webhook_secrets.as_ref()?;
    let address = election
        .pod_ip
        .map(|ip| SocketAddr::new(ip, hooks.webhook_address.port()));
    if election.leader_election && address.is_none() {
        warn!(
            "hooks that come to another replica cannot be forwarded to this one: POD_IP is not set"
        );
    }
    address
}

/// Opens the door for hooks, if there are secrets for them.
async fn take_hooks(
    args: WebhookArgs,
    leases: Option<LeaseClient>,
    metrics: &Arc<Metrics>,
    tasks: &mut Tasks,
) -> Result<Option<Arc<WebhookReceiver>>, RunError> {
    let WebhookArgs {
        webhook_secrets: hook_secrets,
        webhook_address: hooks_address,
    } = args;
    let Some(folder) = hook_secrets else {
        return Ok(None);
    };
    let forward = leases.map(Forwarder::new).transpose()?;
    let secrets = SecretDir::open(folder)?;
    let hooks = Arc::new(WebhookReceiver::new(secrets, forward, Arc::clone(metrics)));
    let listener = server::listen(hooks_address, "hooks").await?;
    let router = doppler_webhook::router(Arc::clone(&hooks));
    tasks.spawn(
        "hooks",
        doppler_webhook::serve(listener, router, tasks.shutdown()),
    );
    tasks.spawn("pace", Arc::clone(&hooks).flush_coalesced(tasks.shutdown()));
    Ok(Some(hooks))
}

/// The client of the API server, from the service account or the kubeconfig.
///
/// # Errors
/// If neither is there.
pub async fn kubernetes() -> Result<Client, RunError> {
    let config = Config::infer().await.map_err(|_| RunError::Kubernetes)?;
    let client = ClientBuilder::try_from(config).map_err(|_| RunError::Kubernetes)?;
    let bound = ConcurrencyLimitLayer::new(TO_KUBERNETES);
    Ok(client.with_layer(&bound).build())
}

async fn hash_key(secrets: &SecretClient, namespace: &str) -> Result<HashKey, HashKeyError> {
    let mut tries = 0;
    loop {
        match load_or_create_hash_key(secrets, namespace).await {
            Ok(key) => return Ok(key),
            Err(failure) => {
                tries += 1;
                if tries >= KEY_TRIES {
                    return Err(failure);
                }
                error!(%failure, "the key of the content hashes cannot be had; it is tried again");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    }
}

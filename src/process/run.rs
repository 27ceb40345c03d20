//! `run`: what every replica does, and then what the leader does.
//!
//! Input: the arguments.
//! Output: health, metrics and webhooks on every replica; the [`ControllerManager`] on the leader, or
//! at once without leader election.
//! Invariants: the process ends on a signal, when a task ends, or when the lease is lost.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kube::{Client, Config, client::ClientBuilder};
use tokio::time::sleep;
use tower::limit::ConcurrencyLimitLayer;
use tracing::{error, info, warn};

use super::{
    descriptors::{bounded, descriptor_limit},
    doppler_webhook::{self, Forwarder, SecretDir, SecretDirError, WebhookReceiver},
    leader_election::{LeaderElector, LeaderLease, LeaseClient, LeaseLost},
    manager::ControllerManager,
    metrics_port::{MetricsPortError, metrics_port},
    serve::serve,
    server::{self, GaugeUpdater, ListenError, Readiness},
    tasks::{TaskEnded, Tasks},
    telemetry::{self, FilterError},
};
use crate::{
    args::{ElectionArgs, RunArgs, WebhookArgs},
    metrics::Metrics,
    outbound::ClientError,
    secret::{HashKey, HashKeyError, SecretClient, load_or_create_hash_key},
    settings::{ManagerSettings, SettingsError},
};

/// The maximum number of requests in flight to the API server. A watch counts until its response
/// begins.
const KUBERNETES_CONCURRENCY: usize = 64;
/// How often the hash key is requested before the process ends.
const HASH_KEY_ATTEMPTS: usize = 5;
/// Delay between these requests.
const HASH_KEY_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Why the process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Invalid `--log-filter`.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A flag is not a valid pattern.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The TLS backend cannot build an HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No configuration of the API server.
    #[error(
        "no access to the API server is configured: run in a cluster with a service account, or set KUBECONFIG"
    )]
    Kubernetes,
    /// The hash key cannot be read or created.
    #[error(transparent)]
    HashKey(#[from] HashKeyError),
    /// An address cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Metrics cannot be served as the flags ask.
    #[error(transparent)]
    Metrics(#[from] MetricsPortError),
    /// The directory of the webhook secrets cannot be read.
    #[error(transparent)]
    WebhookSecrets(#[from] SecretDirError),
    /// A task ended.
    #[error(transparent)]
    Task(#[from] TaskEnded),
    /// The lease was lost.
    #[error(transparent)]
    Lease(#[from] LeaseLost),
}

/// Runs until a signal ends the process.
///
/// # Errors
/// If it cannot start, a task ends, or the lease is lost.
pub async fn run(args: RunArgs) -> Result<(), RunError> {
    telemetry::start(args.log_format, &args.log_filter)?;
    let settings = ManagerSettings::new(&args)?;
    let mut replica = Replica::start(&args).await?;
    let client = kubernetes().await?;
    let leases = args.election.leader_election.then(|| {
        let namespace = &args.operator_namespace;
        LeaseClient::new(client.clone(), namespace, &args.election.lease_name)
    });
    let webhooks = replica.receive_webhooks(&args, leases.clone()).await?;
    info!(version = env!("CARGO_PKG_VERSION"), "running");

    let mut lease = None;
    if let Some(leases) = leases {
        let address = webhook_address(&args.webhook, &args.election);
        let elector = LeaderElector::new(leases, &args.election.pod_name, address);
        lease = replica.acquire(elector).await?;
        if lease.is_none() {
            replica.tasks.stop().await;
            return Ok(());
        }
    }
    let lead = replica.lead(settings, client, webhooks);
    match lease {
        Some(mut lease) => {
            let ended = Box::pin(lease.run_while_held(lead)).await?;
            lease.release().await;
            ended
        }
        None => lead.await,
    }
}

/// What every replica runs.
struct Replica {
    tasks: Tasks,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    gauge_updater: GaugeUpdater,
}

impl Replica {
    /// Serves health and metrics.
    async fn start(args: &RunArgs) -> Result<Self, RunError> {
        let mut tasks = Tasks::new();
        let shutdown = tasks.shutdown();
        let metrics = Arc::new(Metrics::new());
        let readiness = Readiness::default();
        let gauge_updater = GaugeUpdater::default();
        let listener = server::listen(args.health_address, "health").await?;
        let router = server::health(readiness.clone());
        let served = serve(
            listener,
            router,
            server::HEALTH_CONNECTIONS,
            shutdown.clone(),
        );
        tasks.spawn("health", served);
        // A client of its own, so that scrapes do not wait for reconciles.
        let reviews = if args.metrics.metrics_authorization {
            Some(kubernetes().await?)
        } else {
            None
        };
        let router = server::metrics(Arc::clone(&metrics), gauge_updater.clone());
        let (port, router) = metrics_port(&args.metrics, router, reviews).await?;
        let served = serve(port, router, server::METRICS_CONNECTIONS, shutdown);
        tasks.spawn("metrics", served);
        Ok(Self {
            tasks,
            metrics,
            readiness,
            gauge_updater,
        })
    }

    /// Receives webhooks, if a directory with their secrets is configured.
    async fn receive_webhooks(
        &mut self,
        args: &RunArgs,
        leases: Option<LeaseClient>,
    ) -> Result<Option<Arc<WebhookReceiver>>, RunError> {
        let WebhookArgs {
            webhook_secrets,
            webhook_address,
        } = &args.webhook;
        let Some(dir) = webhook_secrets else {
            return Ok(None);
        };
        let forwarder = leases.map(Forwarder::new).transpose()?;
        let secrets = SecretDir::open(dir.clone())?;
        let metrics = Arc::clone(&self.metrics);
        let receiver = Arc::new(WebhookReceiver::new(secrets, forwarder, metrics));
        let listener = server::listen(*webhook_address, "webhooks").await?;
        let router = doppler_webhook::router(Arc::clone(&receiver));
        let shutdown = self.tasks.shutdown();
        let served = serve(
            listener,
            router,
            doppler_webhook::MAX_CONNECTIONS,
            shutdown.clone(),
        );
        self.tasks.spawn("webhooks", served);
        let flushed = Arc::clone(&receiver).flush_coalesced(shutdown);
        self.tasks.spawn("coalesced webhooks", flushed);
        Ok(Some(receiver))
    }

    /// Waits for the lease. A standby replica is ready. `None` if the process ends first.
    async fn acquire(&mut self, elector: LeaderElector) -> Result<Option<LeaderLease>, RunError> {
        let readiness = self.readiness.clone();
        let lease = elector.acquire(|| readiness.set());
        let lease = self.tasks.until_ready(lease).await?;
        self.readiness.unset();
        Ok(lease)
    }

    /// Runs the controller manager until the process ends.
    async fn lead(
        self,
        settings: ManagerSettings,
        client: Client,
        webhooks: Option<Arc<WebhookReceiver>>,
    ) -> Result<(), RunError> {
        let Self {
            mut tasks,
            metrics,
            readiness,
            gauge_updater,
        } = self;
        metrics.leader.set(1);
        let secrets = SecretClient::new(client.clone(), settings.controller.kubernetes_timeout);
        let hash_key = hash_key(&secrets, &settings.operator_namespace);
        let Some(hash_key) = tasks.until_ready(hash_key).await? else {
            tasks.stop().await;
            return Ok(());
        };
        let manager = ControllerManager {
            client,
            secrets,
            hash_key: hash_key?,
            settings,
            metrics: Arc::clone(&metrics),
            readiness,
            gauge_updater,
        };
        let pollers = manager.start(&mut tasks)?;
        if let Some(webhooks) = webhooks {
            webhooks.start_leading(pollers.handlers(metrics));
        }
        Ok(tasks.run_to_end().await?)
    }
}

/// The address at which other replicas forward webhooks to this one.
fn webhook_address(webhook: &WebhookArgs, election: &ElectionArgs) -> Option<SocketAddr> {
    webhook.webhook_secrets.as_ref()?;
    let address = election
        .pod_ip
        .map(|ip| SocketAddr::new(ip, webhook.webhook_address.port()));
    if address.is_none() {
        warn!(
            "other replicas cannot forward webhooks to this one, because its IP address is unknown: set POD_IP"
        );
    }
    address
}

/// The client of the API server, from the service account or the kubeconfig.
///
/// # Errors
/// If neither is configured.
pub async fn kubernetes() -> Result<Client, RunError> {
    let config = Config::infer().await.map_err(|_| RunError::Kubernetes)?;
    let client = ClientBuilder::try_from(config).map_err(|_| RunError::Kubernetes)?;
    let limit = ConcurrencyLimitLayer::new(bounded(KUBERNETES_CONCURRENCY, descriptor_limit(), 4));
    Ok(client.with_layer(&limit).build())
}

/// Reads or creates the hash key, and retries while the API server fails.
async fn hash_key(secrets: &SecretClient, namespace: &str) -> Result<HashKey, HashKeyError> {
    let mut attempt = 1;
    loop {
        match load_or_create_hash_key(secrets, namespace).await {
            Ok(key) => return Ok(key),
            Err(failure) if attempt == HASH_KEY_ATTEMPTS => return Err(failure),
            Err(failure) => {
                error!(%failure, "cannot read or create the key of the content hashes; retrying");
                sleep(HASH_KEY_RETRY_INTERVAL).await;
                attempt += 1;
            }
        }
    }
}

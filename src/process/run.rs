//! `run`: arguments become the context and its tasks.

use std::{sync::Arc, time::Duration};

use futures::Stream;
use kube::{
    Client, Config,
    runtime::{reflector::Store, watcher},
};
use tokio::sync::{Semaphore, watch as signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    server::{self, ListenError, Readiness, Refreshed},
    tasks::{TaskEnded, Tasks},
    telemetry::{self, FilterError},
    upstream::{self, Limits, Upstreams},
};
use crate::{
    args::{RunArgs, UpstreamArgs},
    controller::{
        self,
        context::{Context, Settings},
        managed,
        memory::Memory,
        objects::Objects,
        references::References,
        wake::{BindingRef, Scope, Wakes},
        watch::{self, Guarded},
    },
    metrics::Metrics,
    outbound::{AllowedHosts, ClientError, PatternError},
    prefect::Clients,
    report::Report,
    secret::{HashKey, KeyError, Secrets, load_or_create_key},
};

/// How long the API server may take to give the hash key before the process ends and is started again.
const KEY_TRIES: usize = 5;
/// How often clients that nobody uses any more are let go.
const TIDY: Duration = Duration::from_mins(5);

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
    Key(#[from] KeyError),
    /// An address is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A task ended.
    #[error(transparent)]
    Task(#[from] TaskEnded),
}

/// Runs the controller until it is told to end.
///
/// # Errors
/// If it cannot start, or a task dies.
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
        metrics_address,
        health_address,
        log_format,
        log_filter,
    } = args;
    telemetry::start(log_format, &log_filter)?;
    let prefect_hosts = AllowedHosts::parse("--allowed-prefect-host", &allowed_prefect_hosts)?;
    let doppler_hosts = AllowedHosts::parse("--allowed-doppler-host", &allowed_doppler_hosts)?;
    let settings = Settings {
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
    let refreshed = Refreshed::default();
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
    let secrets = Secrets::new(client.clone(), kubernetes_timeout);
    let hash_key = hash_key(&secrets, &operator_namespace).await?;
    let wakes = Arc::new(Wakes::default());
    let wake: Arc<dyn Fn(&BindingRef) + Send + Sync> = {
        let wakes = Arc::clone(&wakes);
        Arc::new(move |who: &BindingRef| wakes.wake(who))
    };
    let objects = {
        let wake = Arc::clone(&wake);
        Arc::new(Objects::new(Box::new(move |who| wake(who))))
    };
    let limits = Limits {
        prefect_timeout,
        doppler_timeout,
        prefect_account_budget,
        max_streams,
        pushed_refresh_interval,
    };
    let Upstreams {
        clients,
        blocks,
        configs,
        pools,
        refresh,
        deliver,
    } = upstream::upstreams(&limits, &metrics, &wake, &shutdown)?;
    refreshed.set(refresh);
    tasks.spawn("deliver", deliver);
    let (report, events) = Report::new(client.clone(), Arc::clone(&metrics), shutdown.clone());
    tasks.spawn("events", events);
    tasks.spawn("tidy", tidy(clients, shutdown.clone()));

    let scopes = Scope::of(&watch_namespaces);
    let (gone, mut hear_gone) = tokio::sync::mpsc::unbounded_channel();
    let watched: Vec<_> = scopes
        .iter()
        .map(|scope| {
            let gone = gone.clone();
            watch::bindings(client.clone(), scope, move |who| drop(gone.send(who)))
        })
        .collect();
    let context = Arc::new(Context {
        references: References::new(client.clone(), kubernetes_timeout),
        client: client.clone(),
        settings,
        prefect_hosts,
        doppler_hosts,
        blocks,
        configs,
        pools: pools.clone(),
        objects: Arc::clone(&objects),
        secrets,
        hash_key,
        memory: Memory::default(),
        report,
        metrics,
        reconciles: Semaphore::new(concurrency.into()),
        operator_namespace,
        bindings: watched.iter().map(|(store, _)| store.clone()).collect(),
    });
    let forgetting = Arc::clone(&context);
    let end = shutdown.clone();
    tasks.spawn("forget", async move {
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                who = hear_gone.recv() => match who {
                    Some(who) => forgetting.forget(&who),
                    None => return,
                },
            }
        }
    });
    let mut ready = Vec::new();
    for (scope, (store, changed)) in scopes.into_iter().zip(watched) {
        let (bindings_seen, hears) = signal::channel(false);
        ready.push(hears);
        let woken = wakes.stream(scope.clone());
        let scope_task = ScopeTask {
            scope,
            store,
            client: client.clone(),
            objects: Arc::clone(&objects),
            context: Arc::clone(&context),
            concurrency,
        };
        tasks.spawn(
            "controller",
            scope_task.run(changed, woken, bindings_seen, shutdown.clone()),
        );
    }
    let scopes = managed::scopes(&watch_namespaces, &prefect_namespaces);
    tasks.spawn(
        "managed pools",
        managed::follow(client, scopes, pools, shutdown.clone()),
    );
    tasks.spawn("ready", become_ready(ready, readiness, shutdown));
    info!(version = env!("CARGO_PKG_VERSION"), "running");
    Ok(tasks.until_end().await?)
}

/// The client of the API server, from the service account or the kubeconfig.
///
/// # Errors
/// If neither is there.
pub async fn kubernetes() -> Result<Client, RunError> {
    let config = Config::infer().await.map_err(|_| RunError::Kubernetes)?;
    Client::try_from(config).map_err(|_| RunError::Kubernetes)
}

async fn hash_key(secrets: &Secrets, namespace: &str) -> Result<HashKey, KeyError> {
    let mut tries = 0;
    loop {
        match load_or_create_key(secrets, namespace).await {
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

async fn tidy(clients: Arc<Clients>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TIDY) => clients.forget_unused(),
        }
    }
}

async fn become_ready(
    scopes: Vec<signal::Receiver<bool>>,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    for mut scope in scopes {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = scope.wait_for(|seen| *seen) => {}
        }
    }
    readiness.set();
    shutdown.cancelled().await;
}

/// One scope: first what is there, then the reconciles.
struct ScopeTask {
    scope: Scope,
    store: Store<Guarded>,
    client: Client,
    objects: Arc<Objects>,
    context: Arc<Context>,
    concurrency: u16,
}

impl ScopeTask {
    async fn run(
        self,
        changed: impl Stream<Item = Result<Guarded, watcher::Error>> + Send + 'static,
        woken: impl Stream<Item = BindingRef> + Send + 'static,
        seen: signal::Sender<bool>,
        shutdown: CancellationToken,
    ) {
        let Self {
            scope,
            store,
            client,
            objects,
            context,
            concurrency,
        } = self;
        let (secrets_seen, mut secrets) = signal::channel(false);
        let (maps_seen, mut maps) = signal::channel(false);
        let watches = async {
            tokio::join!(
                watch::secrets(
                    client.clone(),
                    scope.clone(),
                    Arc::clone(&objects),
                    secrets_seen,
                    shutdown.clone()
                ),
                watch::config_maps(client, scope, objects, maps_seen, shutdown.clone()),
            );
        };
        let reconciles = async {
            // Secrets that are ours are kept by their label: a reconcile that ran before they were seen would try to create them.
            let listed = async {
                let _ = secrets.wait_for(|seen| *seen).await;
                let _ = maps.wait_for(|seen| *seen).await;
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = listed => {}
            }
            let ready = async {
                let _ = store.wait_until_ready().await;
                seen.send_replace(true);
            };
            let reconciles = controller::run(
                context,
                store.clone(),
                changed,
                woken,
                concurrency,
                shutdown.clone(),
            );
            tokio::join!(ready, reconciles);
        };
        tokio::join!(watches, reconciles);
    }
}

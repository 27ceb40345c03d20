//! The controller manager: builds everything that the working replica runs.
//!
//! Input: settings, clients, and the key of the content hashes.
//! Output: the tasks of watches, pollers, pool workers and controller, and the configs, so that webhooks can refresh them.
//! Invariants: nothing of this runs on a standby replica.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::sync::watch as signal;
use tokio_util::sync::CancellationToken;

use super::{
    scope_watch::ScopeWatch,
    server::{GaugeUpdater, Readiness},
    tasks::Tasks,
    upstreams::{self, UpstreamSettings, Upstreams},
};
use crate::{
    controller::{
        self,
        binding_state::BindingStates,
        context::{Configs, Context, ControllerSettings},
        key_refs::KeyRefs,
        object_cache::ObjectCache,
        prefect_work_pools,
        scope::Scope,
        work_queue::WorkQueue,
    },
    crd::BindingRef,
    metrics::Metrics,
    outbound::{AllowedHosts, ClientError},
    prefect::{Clients, ConnectionInterner},
    report::Report,
    secret::{HashKey, SecretClient},
};

/// How often unused clients and connections are dropped.
const TIDY: Duration = Duration::from_mins(5);

/// Everything that the working replica is built from.
pub struct ControllerManager {
    /// The API server.
    pub client: Client,
    /// Requests about Secrets.
    pub secrets: SecretClient,
    /// Waits and limits.
    pub settings: ControllerSettings,
    /// Namespaces whose bindings the operator serves; none means all.
    pub watch_namespaces: Vec<String>,
    /// Further namespaces with `PrefectWorkPool`s.
    pub prefect_namespaces: Vec<String>,
    /// Namespace of the operator itself.
    pub operator_namespace: String,
    /// Bindings reconciled at the same time.
    pub concurrency: u16,
    /// Hosts that bindings may name as Prefect servers.
    pub prefect_hosts: AllowedHosts,
    /// Hosts that bindings may name as Doppler's API.
    pub doppler_hosts: AllowedHosts,
    /// Time limits and bounds of upstreams.
    pub upstream_settings: UpstreamSettings,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Set once all existing objects are listed.
    pub readiness: Readiness,
    /// Gets the function that updates the gauges.
    pub gauge_updater: GaugeUpdater,
}

impl ControllerManager {
    /// Spawns the tasks. Returns the pollers of configs, so that webhooks can refresh them.
    ///
    /// # Errors
    /// If the TLS backend cannot build an HTTP client.
    pub fn start(self, hash_key: HashKey, tasks: &mut Tasks) -> Result<Configs, ClientError> {
        let Self {
            client,
            secrets,
            settings,
            watch_namespaces,
            prefect_namespaces,
            operator_namespace,
            concurrency,
            prefect_hosts,
            doppler_hosts,
            upstream_settings,
            metrics,
            readiness,
            gauge_updater,
        } = self;
        let shutdown = tasks.shutdown();
        let queue = Arc::new(WorkQueue::default());
        let enqueue: Arc<dyn Fn(&BindingRef) + Send + Sync> = {
            let queue = Arc::clone(&queue);
            Arc::new(move |key: &BindingRef| queue.add(key))
        };
        let objects = {
            let enqueue = Arc::clone(&enqueue);
            Arc::new(ObjectCache::new(Box::new(move |key| enqueue(key))))
        };
        let Upstreams {
            clients,
            blocks,
            configs,
            pools,
            update_gauges,
            deliver,
        } = upstreams::upstreams(&upstream_settings, &metrics, &enqueue, &shutdown)?;
        let (depth, gauge) = (Arc::clone(&queue), metrics.workqueue_depth.clone());
        gauge_updater.set(Box::new(move || {
            update_gauges();
            gauge.set(i64::try_from(depth.depth()).unwrap_or(i64::MAX));
        }));
        tasks.spawn("deliver", deliver);
        let (report, events) = Report::new(client.clone(), Arc::clone(&metrics), shutdown.clone());
        tasks.spawn("events", events);
        let connections = Arc::new(ConnectionInterner::default());
        let tidied = tidy(clients, Arc::clone(&connections), shutdown.clone());
        tasks.spawn("tidy", tidied);

        let states = Arc::new(BindingStates::default());
        let mut listed = Vec::new();
        let mut stores = Vec::new();
        for scope in Scope::of(&watch_namespaces) {
            let (scope_watch, all_listed) = ScopeWatch::new(
                client.clone(),
                scope,
                Arc::clone(&queue),
                Arc::clone(&states),
            );
            listed.push(all_listed);
            let (store, watch) = scope_watch.run(&objects, shutdown.clone());
            stores.push(store);
            tasks.spawn("watches", watch);
        }
        let context = Arc::new(Context {
            key_refs: KeyRefs::new(client.clone(), settings.kubernetes_timeout),
            client: client.clone(),
            settings,
            prefect_hosts,
            doppler_hosts,
            connections,
            blocks,
            configs: configs.clone(),
            pools: pools.clone(),
            objects,
            secrets,
            hash_key,
            states,
            report,
            metrics,
            queue,
            operator_namespace,
            bindings: stores,
        });
        let reconciles = controller::run(context, concurrency.into(), shutdown.clone());
        tasks.spawn("controller", reconciles);
        let scopes = prefect_work_pools::scopes(&watch_namespaces, &prefect_namespaces);
        tasks.spawn(
            "managed pools",
            prefect_work_pools::watch_work_pools(client, scopes, pools, shutdown.clone()),
        );
        tasks.spawn("ready", become_ready(listed, readiness, shutdown));
        Ok(configs)
    }
}

async fn tidy(
    clients: Arc<Clients>,
    connections: Arc<ConnectionInterner>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TIDY) => {
                clients.forget_unused();
                connections.forget_unused();
            }
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
            _ = scope.wait_for(|listed| *listed) => {}
        }
    }
    readiness.set();
    shutdown.cancelled().await;
}

//! The controller manager: builds everything that the working replica runs.
//!
//! Input: settings, clients, and the key of the content hashes.
//! Output: the tasks of watches, pollers, pool workers and controller, and the pollers that
//! webhooks refresh.
//! Invariants: nothing of this runs on a standby replica.

use std::{sync::Arc, time::Duration};

use kube::{Client, runtime::reflector::Store};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    scope_watch::ScopeWatch,
    server::{GaugeUpdater, Readiness},
    tasks::Tasks,
    upstreams::{Upstreams, upstreams},
    webhook_handlers::RefreshedPollers,
};
use crate::{
    controller::{
        self,
        admission_policy::AdmissionPolicy,
        binding_state::BindingStates,
        cluster_servers::{
            ClusterServers, Listing,
            watch::{ReferencedObjects, watch_labels, watch_servers},
        },
        context::Context,
        credential::request_jwts,
        key_refs::KeyRefs,
        object_cache::ObjectCache,
        prefect_work_pools,
        run_pods::RunPods,
        scope::WatchScope,
        scope_state::{Progress, ScopeState},
        service_types::ServiceTypes,
        stored_binding::StoredBinding,
        work_queue::WorkQueue,
    },
    crd::BindingRef,
    metrics::{BindingSample, Metrics},
    outbound::ClientError,
    prefect::ConnectionInterner,
    report::Report,
    restart::WorkloadClient,
    secret::{HashKey, SecretClient},
    settings::ManagerSettings,
    upstream::poller::Enqueue,
};

/// How often unused connections are dropped.
const EVICTION_INTERVAL: Duration = Duration::from_mins(5);

/// Builds and starts everything that the leader runs.
pub struct ControllerManager {
    /// The client of the API server.
    pub client: Client,
    /// The client for Secrets.
    pub secrets: SecretClient,
    /// The installation's key for content hashes.
    pub hash_key: HashKey,
    /// The settings that the flags set.
    pub settings: ManagerSettings,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Set once all existing objects are listed.
    pub readiness: Readiness,
    /// Gets the function that updates the gauges.
    pub gauge_updater: GaugeUpdater,
}

impl ControllerManager {
    /// Spawns the tasks. Returns the pollers that webhooks refresh.
    ///
    /// # Errors
    /// If the TLS backend cannot build an HTTP client.
    pub fn start(self, tasks: &mut Tasks) -> Result<RefreshedPollers, ClientError> {
        let Self {
            client,
            secrets,
            hash_key,
            settings,
            metrics,
            readiness,
            gauge_updater,
        } = self;
        let shutdown = tasks.shutdown();
        let queue = Arc::new(WorkQueue::default());
        let enqueue = enqueue_in(&queue);
        let objects = Arc::new(ObjectCache::new(Arc::clone(&enqueue)));
        let limit = settings.controller.kubernetes_timeout;
        let jwts = request_jwts(client.clone(), limit);
        let upstreams = upstreams(&settings.upstream, jwts, &metrics, &enqueue, &shutdown)?;
        let Upstreams {
            connections,
            blocks,
            identities,
            configs,
            pools,
            runs,
            update_gauges,
            background,
        } = upstreams;
        update_at_scrape(&gauge_updater, update_gauges, &queue, &metrics);
        for (name, task) in background {
            tasks.spawn(name, task);
        }
        let (report, events) = Report::new(client.clone(), Arc::clone(&metrics), shutdown.clone());
        tasks.spawn("events", events);
        let evictions = evict_unused(Arc::clone(&connections), shutdown.clone());
        tasks.spawn("connections", evictions);
        let run_pods = settings
            .watch_run_pods
            .then(|| Arc::new(RunPods::new(Arc::clone(&enqueue))));
        let states = Arc::new(BindingStates::default());
        let watched = Watched {
            client: client.clone(),
            queue: Arc::clone(&queue),
            states: Arc::clone(&states),
            run_pods: run_pods.clone(),
            objects: Arc::clone(&objects),
            metrics: Arc::clone(&metrics),
        };
        let (served, stores) = watched.scopes(&settings.watch_namespaces, tasks);
        let (cluster_servers, referenced_objects) =
            cluster_servers(&settings, &client, (&enqueue, &objects), tasks);
        let scopes = work_pool_scopes(&settings);
        let context = Arc::new(Context {
            key_refs: KeyRefs::new(client.clone(), limit),
            client: client.clone(),
            settings: settings.controller,
            prefect_servers: settings.prefect_servers,
            admission_policy: AdmissionPolicy::new(client.clone(), limit),
            service_types: ServiceTypes::new(client.clone(), limit),
            cluster_servers,
            referenced_objects,
            identities,
            block_overrides: settings.block_overrides,
            doppler_hosts: settings.doppler_hosts,
            forbidden_names: settings.forbidden_names,
            connections,
            blocks: blocks.clone(),
            configs: configs.clone(),
            pools: pools.clone(),
            runs,
            run_pods,
            objects,
            workloads: WorkloadClient::new(client.clone(), limit),
            secrets,
            hash_key,
            states,
            report,
            metrics,
            queue,
            operator_namespace: settings.operator_namespace,
            bindings: stores,
            scopes: served.clone(),
        });
        if settings.metrics_per_binding {
            show_bindings(&context);
        }
        let reconciles = controller::run(context, settings.concurrency.into(), shutdown.clone());
        tasks.spawn("controller", reconciles);
        tasks.spawn(
            "managed pools",
            prefect_work_pools::watch_work_pools(client, scopes, pools, shutdown.clone()),
        );
        tasks.spawn("ready", become_ready(served, readiness, shutdown));
        Ok(RefreshedPollers { blocks, configs })
    }
}

/// What the watches of all scopes have in common.
struct Watched {
    client: Client,
    queue: Arc<WorkQueue>,
    states: Arc<BindingStates>,
    run_pods: Option<Arc<RunPods>>,
    objects: Arc<ObjectCache>,
    metrics: Arc<Metrics>,
}

impl Watched {
    /// Spawns the watches of each scope. Returns the states of the scopes, and their bindings.
    fn scopes(
        self,
        namespaces: &[String],
        tasks: &mut Tasks,
    ) -> (Vec<Arc<ScopeState>>, Vec<Store<StoredBinding>>) {
        let scopes = WatchScope::of(namespaces).into_iter();
        let watched = scopes.map(|scope| {
            let state = Arc::new(ScopeState::new(scope, Arc::clone(&self.metrics)));
            let scope_watch = ScopeWatch {
                client: self.client.clone(),
                state: Arc::clone(&state),
                queue: Arc::clone(&self.queue),
                states: Arc::clone(&self.states),
                run_pods: self.run_pods.clone(),
            };
            let (store, watch) = scope_watch.run(&self.objects, tasks.shutdown());
            tasks.spawn("watches", watch);
            (state, store)
        });
        watched.unzip()
    }
}

/// Where `PrefectWorkPool`s are watched.
fn work_pool_scopes(settings: &ManagerSettings) -> Vec<WatchScope> {
    prefect_work_pools::scopes(&settings.watch_namespaces, &settings.prefect_namespaces)
}

/// A function that puts keys into the queue.
fn enqueue_in(queue: &Arc<WorkQueue>) -> Enqueue<BindingRef> {
    let queue = Arc::clone(queue);
    Arc::new(move |key: &BindingRef| queue.add(key))
}

/// The `ClusterPrefectServer`s and the objects that they reference, and their watches if the flags ask for
/// them.
fn cluster_servers(
    settings: &ManagerSettings,
    client: &Client,
    (enqueue, objects): (&Enqueue<BindingRef>, &Arc<ObjectCache>),
    tasks: &mut Tasks,
) -> (Arc<ClusterServers>, ReferencedObjects) {
    let shutdown = tasks.shutdown();
    let objects = Arc::clone(objects);
    let referenced = ReferencedObjects::new(client.clone(), objects, shutdown.clone());
    let listing = if settings.cluster_servers {
        Listing::Pending
    } else {
        Listing::Disabled
    };
    let default = settings.default_prefect_server.clone();
    let servers = Arc::new(ClusterServers::new(listing, default, Arc::clone(enqueue)));
    if settings.cluster_servers {
        let watched = watch_servers(client.clone(), Arc::clone(&servers), shutdown.clone());
        tasks.spawn("cluster servers", watched);
        let watched = watch_labels(client.clone(), Arc::clone(&servers), shutdown);
        tasks.spawn("labels of namespaces", watched);
    }
    (servers, referenced)
}

/// Updates the gauges each time that the metrics are read.
fn update_at_scrape(
    gauge_updater: &GaugeUpdater,
    update_upstreams: Box<dyn Fn() + Send + Sync>,
    queue: &Arc<WorkQueue>,
    metrics: &Metrics,
) {
    let (queue, depth) = (Arc::clone(queue), metrics.workqueue_depth.clone());
    gauge_updater.set(Box::new(move || {
        update_upstreams();
        depth.set(i64::try_from(queue.depth()).unwrap_or(i64::MAX));
    }));
}

/// Shows each binding in the metrics, as it is at the scrape.
fn show_bindings(context: &Arc<Context>) {
    // Weak: the metrics are a part of the context.
    let shown = Arc::downgrade(context);
    context.metrics.per_binding.set(Box::new(move || {
        let Some(context) = shown.upgrade() else {
            return Vec::new();
        };
        let (bindings, ready): (Vec<_>, Vec<_>) = context.report.readiness().into_iter().unzip();
        let ages = context.configs.ages(&bindings, Instant::now());
        let samples = bindings.iter().zip(ready).zip(ages);
        let samples = samples.map(|((binding, ready), age)| BindingSample {
            namespace: binding.namespace().to_owned(),
            name: binding.name().to_owned(),
            ready,
            age,
        });
        samples.collect()
    }));
}

/// Drops unused connections at an interval.
async fn evict_unused(connections: Arc<ConnectionInterner>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVICTION_INTERVAL) => connections.evict_unused(),
        }
    }
}

/// Sets the replica ready once all scopes are listed or cannot be served.
async fn become_ready(
    scopes: Vec<Arc<ScopeState>>,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    for scope in scopes {
        let mut progress = scope.subscribe();
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = progress.wait_for(Progress::is_settled) => {}
        }
    }
    readiness.set();
    shutdown.cancelled().await;
}

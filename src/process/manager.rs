//! What the leader does: it watches, reads and writes.
//!
//! In: settings, clients, and the key of the content hashes, which is had once the lease is (if there is one). Out: the tasks of the controllers,
//! and the sources, so that hooks can wake them. Nothing of this runs on a replica that does not lead.

use std::{sync::Arc, time::Duration};

use kube::{Client, runtime::reflector::Store};
use tokio::sync::{Semaphore, mpsc, watch as signal};
use tokio_util::sync::CancellationToken;

use super::{
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
        stored_binding::StoredBinding,
        watches::{self, BindingEvent},
        work_queue::{BindingRef, Scope, WorkQueue, WorkQueues},
    },
    metrics::Metrics,
    outbound::{AllowedHosts, ClientError},
    prefect::{Clients, ConnectionInterner},
    report::Report,
    secret::{HashKey, SecretClient},
};

/// How often clients and connections that nobody uses any more are let go.
const TIDY: Duration = Duration::from_mins(5);

/// Bindings that the controller of a scope is handed before it begins with them, for each reconcile that may run.
const HANDED: usize = 2;

/// What leading takes.
pub struct ControllerManager {
    /// The API server.
    pub client: Client,
    /// Requests about Secrets.
    pub secrets: SecretClient,
    /// Waits and limits.
    pub settings: ControllerSettings,
    /// Namespaces whose bindings are served; none means all.
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
    /// What the flags say of upstreams.
    pub upstream_settings: UpstreamSettings,
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
    /// Set once everything that is there has been seen.
    pub readiness: Readiness,
    /// Told how gauges are brought up to date.
    pub gauge_updater: GaugeUpdater,
}

impl ControllerManager {
    /// Spawns the tasks. Gives the configs that are read, to be woken from outside.
    ///
    /// # Errors
    /// If no HTTP client can be made.
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
            upstream_settings: limits,
            metrics,
            readiness,
            gauge_updater: refreshed,
        } = self;
        let shutdown = tasks.shutdown();
        let scopes = Scope::of(&watch_namespaces);
        let wakes = WorkQueues::new(&scopes, HANDED * usize::from(concurrency));
        let wake: Arc<dyn Fn(&BindingRef) + Send + Sync> = {
            let wakes = wakes.clone();
            Arc::new(move |who: &BindingRef| wakes.add(who))
        };
        let objects = {
            let wake = Arc::clone(&wake);
            Arc::new(ObjectCache::new(Box::new(move |who| wake(who))))
        };
        let Upstreams {
            clients,
            blocks,
            configs,
            pools,
            update_gauges: refresh,
            deliver,
        } = upstreams::upstreams(&limits, &metrics, &wake, &shutdown)?;
        let (queues, gauge) = (wakes.clone(), metrics.workqueue_depth.clone());
        refreshed.set(Box::new(move || {
            refresh();
            gauge.set(i64::try_from(queues.depth()).unwrap_or(i64::MAX));
        }));
        tasks.spawn("deliver", deliver);
        let (report, events) = Report::new(client.clone(), Arc::clone(&metrics), shutdown.clone());
        tasks.spawn("events", events);
        let connections = Arc::new(ConnectionInterner::default());
        let tidied = tidy(clients, Arc::clone(&connections), shutdown.clone());
        tasks.spawn("tidy", tidied);

        let memory = Arc::new(BindingStates::default());
        let (gone, mut hear_gone) = mpsc::unbounded_channel();
        let watched: Vec<_> = scopes
            .iter()
            .map(|scope| {
                let (gone, memory) = (gone.clone(), Arc::clone(&memory));
                let wakes = wakes.clone();
                let tell = move |heard: BindingEvent<'_>| match heard {
                    BindingEvent::Stored(binding) => memory.observe_stored(binding),
                    BindingEvent::SpecChanged(who) => wakes.add(&memory.intern(who)),
                    BindingEvent::Deleted(who) => drop(gone.send(Some(who))),
                    BindingEvent::Relisted => drop(gone.send(None)),
                };
                watches::watch_bindings(client.clone(), scope, tell, shutdown.clone())
            })
            .collect();
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
            objects: Arc::clone(&objects),
            secrets,
            hash_key,
            states: Arc::clone(&memory),
            report,
            metrics,
            queues: wakes.clone(),
            reconcile_permits: Semaphore::new(concurrency.into()),
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
                        Some(Some(who)) => forgetting.forget(&who),
                        Some(None) => forgetting.forget_absent(),
                        None => return,
                    },
                }
            }
        });
        let mut ready = Vec::new();
        for (scope, (store, following)) in scopes.into_iter().zip(watched) {
            let Some(queue) = wakes.of(&scope) else {
                continue;
            };
            let (bindings_seen, hears) = signal::channel(false);
            ready.push(hears);
            let scope_task = ScopeTask {
                scope,
                store,
                queue,
                client: client.clone(),
                objects: Arc::clone(&objects),
                context: Arc::clone(&context),
                concurrency,
            };
            tasks.spawn(
                "controller",
                scope_task.run(following, bindings_seen, shutdown.clone()),
            );
        }
        let scopes = prefect_work_pools::scopes(&watch_namespaces, &prefect_namespaces);
        tasks.spawn(
            "managed pools",
            prefect_work_pools::watch_work_pools(client, scopes, pools, shutdown.clone()),
        );
        tasks.spawn("ready", become_ready(ready, readiness, shutdown));
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
            _ = scope.wait_for(|seen| *seen) => {}
        }
    }
    readiness.set();
    shutdown.cancelled().await;
}

/// One scope: first what is there, then the reconciles.
struct ScopeTask {
    scope: Scope,
    store: Store<StoredBinding>,
    queue: Arc<WorkQueue>,
    client: Client,
    objects: Arc<ObjectCache>,
    context: Arc<Context>,
    concurrency: u16,
}

impl ScopeTask {
    async fn run(
        self,
        following: impl Future<Output = ()> + Send + 'static,
        seen: signal::Sender<bool>,
        shutdown: CancellationToken,
    ) {
        let Self {
            scope,
            store,
            queue,
            client,
            objects,
            context,
            concurrency,
        } = self;
        let (secrets_seen, mut secrets) = signal::channel(false);
        let (maps_seen, mut maps) = signal::channel(false);
        let watches = async {
            tokio::join!(
                following,
                watches::watch_secrets(
                    client.clone(),
                    scope.clone(),
                    Arc::clone(&objects),
                    secrets_seen,
                    shutdown.clone()
                ),
                watches::watch_config_maps(client, scope, objects, maps_seen, shutdown.clone()),
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
            let reconciles =
                controller::run(context, store.clone(), queue, concurrency, shutdown.clone());
            tokio::join!(ready, reconciles);
        };
        tokio::join!(watches, reconciles);
    }
}

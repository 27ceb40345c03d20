//! Builds everything that reads Prefect and Doppler.
//!
//! Input: the upstream settings, the metrics, and the function that enqueues a binding.
//! Output: [`Upstreams`]: the pollers, the work pools, and the task that dispatches change events.
//! Invariants: the requests of one upstream share one rate limiter.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::descriptors::{bounded, descriptor_limit};
use super::dispatch::{ChangeEvent, Dispatcher, event_queue};
use super::run_starts::RunStarts;
use crate::{
    crd::BindingRef,
    doppler::{self, Configs, DopplerError, Identities, RequestJwt},
    inject::pools::Pools,
    metrics::{Metrics, SourceLabels, UpstreamLabels},
    outbound::ClientError,
    prefect::{
        self, Blocks, Connection, ConnectionInterner, EventSockets, PrefectError, ServerEvent,
    },
    runs::{self, RunRegistry},
    settings::UpstreamSettings,
    upstream::{change_feed::ChangeFeed, limiter::RateLimiter, poller::Enqueue},
};

/// The maximum number of requests in flight to one Prefect server.
const PREFECT_CONCURRENCY: usize = 8;
/// The maximum number of requests in flight to one host of Doppler.
const DOPPLER_CONCURRENCY: usize = 32;

/// Everything that reads Prefect and Doppler.
pub struct Upstreams {
    /// Connections to Prefect servers, and their clients.
    pub connections: Arc<ConnectionInterner>,
    /// Pollers of blocks.
    pub blocks: Blocks,
    /// The identities whose tokens read configs.
    pub identities: Identities,
    /// Pollers of configs.
    pub configs: Configs,
    /// Workers of the work pools.
    pub pools: Pools,
    /// The flow runs that bindings serve.
    pub runs: Arc<RunRegistry>,
    /// Updates the gauges of sources and queues.
    pub update_gauges: Box<dyn Fn() + Send + Sync>,
    /// What runs until the shutdown, by name: dispatches change events, reports flow runs, revokes the
    /// tokens of identities that are not used any more.
    pub background: Vec<(&'static str, BoxFuture<'static, ()>)>,
}

/// Builds everything that reads. `jwts` requests tokens of service accounts.
///
/// # Errors
/// If the TLS backend cannot build an HTTP client.
pub fn upstreams(
    settings: &UpstreamSettings,
    jwts: RequestJwt,
    metrics: &Arc<Metrics>,
    enqueue: &Enqueue<BindingRef>,
    shutdown: &CancellationToken,
) -> Result<Upstreams, ClientError> {
    let (sender, events) = event_queue();
    let send = move |event| sender.send(event);
    let descriptors = descriptor_limit();
    let settings = &within(settings, descriptors);
    let limiters = Limiters::new(settings, descriptors, &send, shutdown);
    let connections = Arc::new(ConnectionInterner::new(
        settings.prefect_timeout,
        limiters.prefect.clone(),
    ));
    let streams = doppler::watch_streams(settings, metrics, shutdown)?;
    let timeout = settings.doppler_timeout;
    let (identities, revoker) =
        Identities::new(timeout, limiters.doppler.clone(), jwts, Arc::clone(metrics))?;
    let client = doppler::Client::new(timeout, limiters.doppler.clone())?;
    let configs = doppler::configs(
        Arc::new(client),
        Some(ChangeFeed {
            subscribe: Box::new(move |key, tenant, trigger| {
                streams.subscribe(&key.stream_key(), tenant, trigger)
            }),
            // A lost update of a config would go unnoticed, so its polling does not slow down.
            poll_interval: Duration::ZERO,
        }),
        Arc::clone(metrics),
        Arc::clone(enqueue),
        shutdown.clone(),
    );
    let registry = Arc::new(RunRegistry::default());
    let (started, reporter) = runs::started_runs(
        Arc::clone(&connections),
        Arc::clone(metrics),
        settings.sends_run_events,
    );
    let starts = RunStarts {
        runs: Arc::clone(&registry),
        configs: configs.clone(),
        started,
    };
    let sockets = prefect::event_sockets(
        settings,
        &connections,
        metrics,
        Box::new(move |connection: &Arc<Connection>, event| match event {
            ServerEvent::RunPending(run) => starts.on_pending(connection, &run),
            ServerEvent::RunStarted(run) => starts.on_started(connection, run),
            event => send(ChangeEvent::Received(
                Arc::clone(connection),
                event,
                Instant::now(),
            )),
        }),
        shutdown,
    );
    let blocks = prefect::blocks(
        Arc::clone(&connections),
        Some(block_feed(&sockets, settings)),
        Arc::clone(metrics),
        Arc::clone(enqueue),
        shutdown.clone(),
    );
    let pools = Pools::new(
        Arc::clone(&connections),
        Some(ChangeFeed {
            subscribe: Box::new(move |connection, tenant, trigger| {
                sockets.subscribe(connection, tenant, trigger)
            }),
            poll_interval: settings.pushed_refresh_interval,
        }),
        Arc::clone(enqueue),
        Arc::clone(metrics),
        shutdown.clone(),
    );
    let dispatcher = Dispatcher {
        blocks: blocks.clone(),
        configs: configs.clone(),
        pools: pools.clone(),
    };
    let gauges = Gauges {
        metrics: Arc::clone(metrics),
        blocks: blocks.clone(),
        configs: configs.clone(),
        pools: pools.clone(),
        limiters,
    };
    Ok(Upstreams {
        connections,
        blocks,
        identities,
        configs,
        pools,
        runs: registry,
        update_gauges: Box::new(move || gauges.update()),
        background: vec![
            (
                "dispatch",
                Box::pin(dispatcher.run(events, shutdown.clone())),
            ),
            ("runs", Box::pin(reporter.run(shutdown.clone()))),
            ("revocations", Box::pin(revoker.run(shutdown.clone()))),
        ],
    })
}

/// The settings with connections that leave descriptors for requests.
fn within(settings: &UpstreamSettings, descriptors: usize) -> UpstreamSettings {
    UpstreamSettings {
        max_streams: bounded(settings.max_streams, descriptors, 4),
        max_sockets: bounded(settings.max_sockets, descriptors, 4),
        ..*settings
    }
}

/// A block is read again at each change that its server reports.
fn block_feed(
    sockets: &EventSockets,
    settings: &UpstreamSettings,
) -> ChangeFeed<prefect::BlockKey> {
    let sockets = sockets.clone();
    ChangeFeed {
        subscribe: Box::new(move |key, tenant, trigger| {
            sockets.subscribe(&key.connection, tenant, trigger)
        }),
        poll_interval: settings.pushed_refresh_interval,
    }
}

/// One rate limiter for each upstream.
struct Limiters {
    prefect: RateLimiter<PrefectError>,
    doppler: RateLimiter<DopplerError>,
}

impl Limiters {
    fn new(
        settings: &UpstreamSettings,
        descriptors: usize,
        send: &(impl Fn(ChangeEvent) + Clone + Send + Sync + 'static),
        shutdown: &CancellationToken,
    ) -> Self {
        let (send_prefect, send_doppler) = (send.clone(), send.clone());
        Self {
            prefect: RateLimiter::new(
                bounded(PREFECT_CONCURRENCY, descriptors, 16),
                Some(settings.prefect_account_budget),
                Box::new(move |origin| {
                    send_prefect(ChangeEvent::PrefectRecovered(origin.to_owned()));
                }),
                shutdown.clone(),
            ),
            doppler: RateLimiter::new(
                bounded(DOPPLER_CONCURRENCY, descriptors, 8),
                None,
                Box::new(move |origin| {
                    send_doppler(ChangeEvent::DopplerRecovered(origin.to_owned()));
                }),
                shutdown.clone(),
            ),
        }
    }
}

/// What the gauges of sources and queues measure.
struct Gauges {
    metrics: Arc<Metrics>,
    blocks: Blocks,
    configs: Configs,
    pools: Pools,
    limiters: Limiters,
}

impl Gauges {
    fn update(&self) {
        let now = Instant::now();
        for (kind, number, max_age, overdue) in [
            (
                "block",
                self.blocks.len(),
                self.blocks.max_age(now),
                self.blocks.max_overdue(now),
            ),
            (
                "config",
                self.configs.len(),
                self.configs.max_age(now),
                self.configs.max_overdue(now),
            ),
            (
                "pool",
                self.pools.len(),
                self.pools.max_age(),
                self.pools.max_overdue(),
            ),
        ] {
            let labels = SourceLabels { kind };
            let sources = self.metrics.sources.get_or_create(&labels);
            sources.set(i64::try_from(number).unwrap_or(i64::MAX));
            let gauge = self.metrics.source_max_age_seconds.get_or_create(&labels);
            gauge.set(whole_seconds(max_age));
            let gauge = self.metrics.source_overdue_seconds.get_or_create(&labels);
            gauge.set(whole_seconds(overdue));
        }
        for (upstream, depth) in [
            ("prefect", self.limiters.prefect.queue_depth()),
            ("doppler", self.limiters.doppler.queue_depth()),
        ] {
            let labels = UpstreamLabels { upstream };
            let gauge = self.metrics.upstream_queue_depth.get_or_create(&labels);
            gauge.set(i64::try_from(depth).unwrap_or(i64::MAX));
        }
    }
}

fn whole_seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

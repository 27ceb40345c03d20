//! The upstreams: clients, what keeps them from being asked too much, what tells of changes, and the sources that read.
//!
//! In: limits, and who is woken. Out: [`Upstreams`], and the task that delivers what links tell to the sources that it concerns. Each read is counted
//! by its outcome.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    dispatch::{ChangeEvent, deliver},
    feeds,
};
use crate::{
    controller::context::{BlockKey, Blocks, Configs},
    crd::BindingRef,
    doppler::{self, ConfigKey, Download, Snapshot},
    failure::Failure,
    inject::pools::{ChangeFeed, Pools},
    metrics::{Metrics, ReadLabels, SourceLabels, UpstreamLabels},
    outbound::ClientError,
    prefect::{BlockDocument, Clients, Connection},
    upstream::limiter::RateLimiter,
    upstream::poller::{Enqueue, Poll, Pollers, ReadFn, SubscribeFn},
};

/// Requests to one Prefect server that may be in flight.
const TO_PREFECT: usize = 8;
/// Requests to one host of Doppler that may be in flight.
const TO_DOPPLER: usize = 32;
/// What the flags say of upstreams.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamSettings {
    /// Time limit of a request to Prefect.
    pub prefect_timeout: Duration,
    /// Time limit of a request to Doppler.
    pub doppler_timeout: Duration,
    /// Requests a minute for each account of Prefect Cloud.
    pub prefect_account_budget: u32,
    /// Watch streams.
    pub max_streams: u16,
    /// Poll interval at least, while changes are pushed.
    pub pushed_refresh_interval: Duration,
}

/// Everything that reads.
pub struct Upstreams {
    /// Clients of Prefect servers.
    pub clients: Arc<Clients>,
    /// Blocks that are read.
    pub blocks: Blocks,
    /// Configs that are read.
    pub configs: Configs,
    /// Pools that are looked at.
    pub pools: Pools,
    /// Brings gauges up to date.
    pub update_gauges: Box<dyn Fn() + Send + Sync>,
    /// Dispatches notifications, until the shutdown.
    pub deliver: BoxFuture<'static, ()>,
}

/// Builds everything that reads.
///
/// # Errors
/// If no HTTP client can be made.
pub fn upstreams(
    limits: &UpstreamSettings,
    metrics: &Arc<Metrics>,
    wake: &Enqueue<BindingRef>,
    shutdown: &CancellationToken,
) -> Result<Upstreams, ClientError> {
    let (words, heard) = mpsc::unbounded_channel();
    // A closed channel means that the process is ending.
    let say = move |word| drop(words.send(word));
    let back = say.clone();
    let prefect = RateLimiter::new(
        TO_PREFECT,
        Some(limits.prefect_account_budget),
        Box::new(move |name| back(ChangeEvent::PrefectRecovered(name.to_owned()))),
        shutdown.clone(),
    );
    let back = say.clone();
    let doppler = RateLimiter::new(
        TO_DOPPLER,
        None,
        Box::new(move |name| back(ChangeEvent::DopplerRecovered(name.to_owned()))),
        shutdown.clone(),
    );
    let on_event = Box::new(move |connection: &Arc<Connection>, event| {
        say(ChangeEvent::Received(
            Arc::clone(connection),
            event,
            Instant::now(),
        ));
    });
    let sockets = feeds::event_sockets(limits, metrics, on_event, shutdown);
    let streams = feeds::watch_streams(limits, metrics, shutdown)?;
    let clients = Arc::new(Clients::new(limits.prefect_timeout, prefect.clone()));
    let of_blocks = sockets.clone();
    let blocks = blocks(
        Arc::clone(&clients),
        Arc::clone(metrics),
        Some(Box::new(move |key, poke| {
            of_blocks.subscribe(&key.connection, poke)
        })),
        limits.pushed_refresh_interval,
        Arc::clone(wake),
        shutdown.clone(),
    );
    let client = doppler::Client::new(limits.doppler_timeout, doppler.clone())?;
    let configs = configs(
        Arc::new(client),
        Arc::clone(metrics),
        Some(Box::new(move |key, poke| {
            streams.subscribe(&key.stream_key(), poke)
        })),
        Arc::clone(wake),
        shutdown.clone(),
    );
    let pools = Pools::new(
        Arc::clone(&clients),
        Some(ChangeFeed {
            subscribe: Box::new(move |connection, trigger| sockets.subscribe(connection, trigger)),
            interval: limits.pushed_refresh_interval,
        }),
        Arc::clone(wake),
        Arc::clone(metrics),
        shutdown.clone(),
    );
    let deliver = deliver(
        heard,
        blocks.clone(),
        configs.clone(),
        pools.clone(),
        shutdown.clone(),
    );
    let refresh = refresh(
        Arc::clone(metrics),
        blocks.clone(),
        configs.clone(),
        pools.clone(),
        (prefect, doppler),
    );
    Ok(Upstreams {
        clients,
        blocks,
        configs,
        pools,
        update_gauges: refresh,
        deliver: Box::pin(deliver),
    })
}

fn refresh(
    metrics: Arc<Metrics>,
    blocks: Blocks,
    configs: Configs,
    pools: Pools,
    gates: (
        RateLimiter<crate::prefect::PrefectError>,
        RateLimiter<doppler::DopplerError>,
    ),
) -> Box<dyn Fn() + Send + Sync> {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let seconds = |age: Duration| i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    Box::new(move || {
        let now = Instant::now();
        for (kind, number, oldest) in [
            ("block", blocks.len(), blocks.max_age(now)),
            ("config", configs.len(), configs.max_age(now)),
            ("pool", pools.len(), pools.max_age()),
        ] {
            let labels = SourceLabels { kind };
            metrics.sources.get_or_create(&labels).set(count(number));
            let oldest_seconds = metrics.source_max_age_seconds.get_or_create(&labels);
            oldest_seconds.set(seconds(oldest));
        }
        for (upstream, waiting) in [
            ("prefect", gates.0.queue_depth()),
            ("doppler", gates.1.queue_depth()),
        ] {
            let labels = UpstreamLabels { upstream };
            metrics
                .upstream_queue_depth
                .get_or_create(&labels)
                .set(count(waiting));
        }
    })
}

/// Pollers of blocks, through `clients`. While a subscription is connected, they poll at most every `pushed_interval`.
#[must_use]
pub fn blocks(
    clients: Arc<Clients>,
    metrics: Arc<Metrics>,
    hold: Option<SubscribeFn<BlockKey>>,
    pushed_interval: Duration,
    wake: Enqueue<BindingRef>,
    shutdown: CancellationToken,
) -> Blocks {
    let read: ReadFn<BlockKey, BlockDocument> = Box::new(move |key: BlockKey, last, wish| {
        let (clients, metrics) = (Arc::clone(&clients), Arc::clone(&metrics));
        Box::pin(async move {
            let document = match clients.get(&key.connection) {
                Ok(client) => client.block(&key.type_slug, &key.name, &wish).await,
                Err(error) => Err(error),
            };
            let answer = document
                .map(|document| {
                    if last.as_deref() == Some(&document) {
                        Poll::Unchanged
                    } else {
                        Poll::Changed(document)
                    }
                })
                .map_err(|error| Failure {
                    reason: error.reason(),
                    message: error.to_string(),
                    retry_after: error.retry_after(),
                });
            count(&metrics, "prefect", &answer);
            answer
        })
    });
    Pollers::new(read, hold, pushed_interval, wake, shutdown)
}

/// Pollers of Doppler configs, through `client`, with subscriptions that notify them of changes.
#[must_use]
pub fn configs(
    client: Arc<doppler::Client>,
    metrics: Arc<Metrics>,
    hold: Option<SubscribeFn<ConfigKey>>,
    wake: Enqueue<BindingRef>,
    shutdown: CancellationToken,
) -> Configs {
    let read: ReadFn<ConfigKey, Snapshot> =
        Box::new(move |key: ConfigKey, last: Option<Arc<Snapshot>>, wish| {
            let (client, metrics) = (Arc::clone(&client), Arc::clone(&metrics));
            Box::pin(async move {
                let answer = client
                    .download(&key, last.as_deref(), &wish)
                    .await
                    .map(|download| match download {
                        Download::Unchanged => Poll::Unchanged,
                        // A new tag of the same content is taken in, so that the next read can be answered with 304.
                        Download::Changed(snapshot)
                            if snapshot.is_empty() && last.as_deref() == Some(&snapshot) =>
                        {
                            Poll::Unchanged
                        }
                        Download::Changed(snapshot) => Poll::Changed(snapshot),
                    })
                    .map_err(|error| Failure {
                        reason: error.reason(),
                        message: error.to_string(),
                        retry_after: error.retry_after(),
                    });
                count(&metrics, "doppler", &answer);
                answer
            })
        });
    Pollers::new(read, hold, Duration::ZERO, wake, shutdown)
}

fn count<V>(metrics: &Metrics, upstream: &'static str, answer: &Result<Poll<V>, Failure>) {
    let outcome = match answer {
        Ok(Poll::Unchanged) => "unchanged",
        Ok(Poll::Changed(_)) => "changed",
        Err(fault) => fault.reason.as_str(),
    };
    metrics
        .reads
        .get_or_create(&ReadLabels { upstream, outcome })
        .inc();
}

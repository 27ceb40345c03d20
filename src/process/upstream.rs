//! The upstreams: clients, what keeps them from being asked too much, what tells of changes, and the sources that read.
//!
//! In: limits, and who is woken. Out: [`Upstreams`], and the task that delivers what links tell to the sources that it concerns. Each read is counted
//! by its outcome.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    future::{BoxFuture, ready},
    stream::FuturesUnordered,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    controller::{
        context::{BlockKey, Blocks, Configs},
        wake::BindingRef,
    },
    doppler::{self, Coordinates, Download, Frame, Snapshot, WatchError, Watcher},
    inject::Pools,
    link::{Closed, Kind, Links, Open},
    metrics::{LinkLabels, Metrics, ReadLabels, SourceLabels},
    outbound::ClientError,
    pace::Gate,
    prefect::{BlockDocument, Clients, Connection, SocketError, Told, events},
    source::{Answer, Fault, Hold, Read, Sources, Wake},
};

/// Requests to one Prefect server that may be in flight.
const TO_PREFECT: usize = 8;
/// Requests to one host of Doppler that may be in flight.
const TO_DOPPLER: usize = 32;
/// Watch streams of one host that may be opening.
const TO_STREAMS: usize = 8;
/// A watch stream without a frame for so long is dead: Doppler pings every 30 s or so.
const SILENCE: Duration = Duration::from_mins(1);
/// Event sockets.
const SOCKETS: usize = 256;
/// A Prefect server tells of a change before it is committed: it is read at once, and again after these.
const ECHOES: [Duration; 2] = [Duration::from_millis(60), Duration::from_secs(1)];
/// A Prefect server does not say when it has understood which events are wanted.
const LISTENS: Duration = Duration::from_secs(1);
/// Echoes that may wait; beyond that the poll has to do.
const MOST_ECHOES: usize = 1024;

/// What the flags say of upstreams.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
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
    pub refresh: Box<dyn Fn() + Send + Sync>,
    /// Delivers what is told, until the shutdown.
    pub deliver: BoxFuture<'static, ()>,
}

/// What is to be delivered.
enum Word {
    /// A Prefect server that was dead has answered.
    PrefectIsBack(String),
    /// A host of Doppler that was dead has answered.
    DopplerIsBack(String),
    /// A Prefect server told of a change.
    Told(Arc<Connection>, Told, Instant),
}

/// Builds everything that reads.
///
/// # Errors
/// If no HTTP client can be made.
pub fn upstreams(
    limits: &Limits,
    metrics: &Arc<Metrics>,
    wake: &Wake<BindingRef>,
    shutdown: &CancellationToken,
) -> Result<Upstreams, ClientError> {
    let (words, heard) = mpsc::unbounded_channel();
    // A closed channel means that the process is ending.
    let say = move |word| drop(words.send(word));
    let back = say.clone();
    let prefect = Gate::new(
        TO_PREFECT,
        Some(limits.prefect_account_budget),
        Box::new(move |name| back(Word::PrefectIsBack(name.to_owned()))),
        shutdown.clone(),
    );
    let back = say.clone();
    let doppler = Gate::new(
        TO_DOPPLER,
        None,
        Box::new(move |name| back(Word::DopplerIsBack(name.to_owned()))),
        shutdown.clone(),
    );
    let sockets = sockets(limits, metrics, say, shutdown);
    let streams = streams(limits, metrics, shutdown)?;
    let clients = Arc::new(Clients::new(limits.prefect_timeout, prefect.clone()));
    let of_blocks = sockets.clone();
    let blocks = blocks(
        Arc::clone(&clients),
        Arc::clone(metrics),
        Some(Box::new(move |key, poke| {
            of_blocks.hold(&key.connection, poke)
        })),
        limits.pushed_refresh_interval,
        Arc::clone(wake),
        shutdown.clone(),
    );
    let client = doppler::Client::new(limits.doppler_timeout, doppler.clone())?;
    let configs = configs(
        Arc::new(client),
        Arc::clone(metrics),
        Some(Box::new(move |key, poke| streams.hold(&key.stream(), poke))),
        Arc::clone(wake),
        shutdown.clone(),
    );
    let pools = Pools::new(
        Arc::clone(&clients),
        Some(Box::new(move |connection, poke| {
            sockets.hold(connection, poke)
        })),
        limits.pushed_refresh_interval,
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
        refresh,
        deliver: Box::pin(deliver),
    })
}

/// Doppler's watch streams: one for each config, token and host.
fn streams(
    limits: &Limits,
    metrics: &Arc<Metrics>,
    shutdown: &CancellationToken,
) -> Result<Links<Coordinates, ()>, ClientError> {
    // Not the gate of downloads: those are not to wait behind streams that do not open.
    let gate = Gate::new(TO_STREAMS, None, Box::new(|_| {}), shutdown.clone());
    let watcher = Arc::new(Watcher::new(limits.doppler_timeout, SILENCE, gate)?);
    let first = limits.doppler_timeout;
    let open: Open<Coordinates, ()> = Box::new(move |at| {
        let watcher = Arc::clone(&watcher);
        Box::pin(async move {
            let mut frames = Box::pin(watcher.watch(&at).await.map_err(|error| lost(&error))?);
            // Doppler says so when it listens: what changes from then on is told.
            match timeout(first, frames.next()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(lost(&error)),
                Ok(None) | Err(_) => return Err(Closed::lost()),
            }
            let updates = frames.filter_map(|frame| {
                ready(match frame {
                    Ok(Frame::Updated) => Some(Ok(())),
                    Ok(Frame::Connected | Frame::Alive) => None,
                    Err(error) => Some(Err(lost(&error))),
                })
            });
            Ok(updates.boxed())
        })
    });
    let kind = Kind {
        upstream: "doppler",
        open,
        told: None,
        slows_polls: false,
        listens_after: None,
        most: limits.max_streams.into(),
    };
    Ok(Links::new(kind, Arc::clone(metrics), shutdown.clone()))
}

/// Why a watch stream is not there.
fn lost(error: &WatchError) -> Closed {
    debug!(reason = error.reason().as_str(), "{error}");
    Closed {
        refused: error.is_refusal().then(|| error.to_string()),
        retry_after: error.retry_after(),
    }
}

/// Event sockets of Prefect servers: one for each server and credentials.
fn sockets(
    limits: &Limits,
    metrics: &Arc<Metrics>,
    say: impl Fn(Word) + Send + Sync + 'static,
    shutdown: &CancellationToken,
) -> Links<Arc<Connection>, Told> {
    let bounds = events::Limits {
        open: limits.prefect_timeout,
        ..events::Limits::default()
    };
    let open: Open<Arc<Connection>, Told> = Box::new(move |connection| {
        Box::pin(async move {
            let closed = |error: &SocketError| {
                debug!("{error}");
                let refused = matches!(error, SocketError::Refused { .. });
                Closed {
                    refused: refused.then(|| error.to_string()),
                    retry_after: error.retry_after(),
                }
            };
            let told = events::events(&connection, bounds).await;
            let told = told.map_err(|error| closed(&error))?;
            let changes = told.filter_map(move |told| {
                ready(match told {
                    Ok(Told::Alive) => None,
                    told => Some(told.map_err(|error| closed(&error))),
                })
            });
            Ok(changes.boxed())
        })
    });
    let kind = Kind {
        upstream: "prefect",
        open,
        told: Some(Box::new(move |connection: &Arc<Connection>, told| {
            say(Word::Told(Arc::clone(connection), told, Instant::now()));
        })),
        slows_polls: true,
        listens_after: Some(LISTENS),
        most: SOCKETS,
    };
    Links::new(kind, Arc::clone(metrics), shutdown.clone())
}

/// Delivers words to the sources that they concern.
async fn deliver(
    mut heard: mpsc::UnboundedReceiver<Word>,
    blocks: Blocks,
    configs: Configs,
    pools: Pools,
    shutdown: CancellationToken,
) {
    let mut echoes = FuturesUnordered::new();
    loop {
        let word = tokio::select! {
            () = shutdown.cancelled() => return,
            word = heard.recv() => word,
            Some((connection, told, at)) = echoes.next() => {
                pass_on(&blocks, &pools, &connection, &told, at);
                continue;
            }
        };
        match word {
            Some(Word::PrefectIsBack(name)) => {
                blocks.retry(|key| key.connection.api_url.origin().ascii_serialization() == name);
                pools.poke(&|server, _| server.starts_with(&name));
            }
            Some(Word::DopplerIsBack(name)) => {
                configs.retry(|key| key.host.origin().ascii_serialization() == name);
            }
            Some(Word::Told(connection, told, at)) => {
                if pass_on(&blocks, &pools, &connection, &told, at) && echoes.len() < MOST_ECHOES {
                    for echo in ECHOES {
                        let (connection, told) = (Arc::clone(&connection), told.clone());
                        echoes.push(async move {
                            sleep(echo).await;
                            (connection, told, at)
                        });
                    }
                }
            }
            None => return,
        }
    }
}

/// Has whatever a change concerns read again. True if it concerns anything.
fn pass_on(
    blocks: &Blocks,
    pools: &Pools,
    connection: &Arc<Connection>,
    told: &Told,
    at: Instant,
) -> bool {
    match told {
        Told::Block { id, name } => blocks.push(at, |key, document| {
            key.connection == *connection
                && (name.as_ref() == Some(&key.name)
                    || document.is_some_and(|document| document.is_of(id)))
        }),
        Told::Pool { name } => {
            pools.poke(&|server, pool| server == connection.api_url.as_str() && pool == name)
        }
        Told::Alive => false,
    }
}

fn refresh(
    metrics: Arc<Metrics>,
    blocks: Blocks,
    configs: Configs,
    pools: Pools,
    gates: (
        Gate<crate::prefect::PrefectError>,
        Gate<doppler::DopplerError>,
    ),
) -> Box<dyn Fn() + Send + Sync> {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let seconds = |age: Duration| i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    Box::new(move || {
        let now = Instant::now();
        for (kind, number, oldest) in [
            ("block", blocks.len(), blocks.oldest(now)),
            ("config", configs.len(), configs.oldest(now)),
        ] {
            let labels = SourceLabels { kind };
            metrics.sources.get_or_create(&labels).set(count(number));
            let oldest_seconds = metrics.oldest_seconds.get_or_create(&labels);
            oldest_seconds.set(seconds(oldest));
        }
        let pool = SourceLabels { kind: "pool" };
        metrics.sources.get_or_create(&pool).set(count(pools.len()));
        for (upstream, waiting) in [
            ("prefect", gates.0.waiting()),
            ("doppler", gates.1.waiting()),
        ] {
            let labels = LinkLabels { upstream };
            metrics.waiting.get_or_create(&labels).set(count(waiting));
        }
    })
}

/// Blocks, read through `clients`; told of changes by what `hold` gives, and polled no more often than every `pushed_interval` while they are.
#[must_use]
pub fn blocks(
    clients: Arc<Clients>,
    metrics: Arc<Metrics>,
    hold: Option<Hold<BlockKey>>,
    pushed_interval: Duration,
    wake: Wake<BindingRef>,
    shutdown: CancellationToken,
) -> Blocks {
    let read: Read<BlockKey, BlockDocument> = Box::new(move |key: BlockKey, last, wish| {
        let (clients, metrics) = (Arc::clone(&clients), Arc::clone(&metrics));
        Box::pin(async move {
            let document = match clients.get(&key.connection) {
                Ok(client) => client.block(&key.type_slug, &key.name, &wish).await,
                Err(error) => Err(error),
            };
            let answer = document
                .map(|document| {
                    if last.as_deref() == Some(&document) {
                        Answer::Same
                    } else {
                        Answer::New(document)
                    }
                })
                .map_err(|error| Fault {
                    reason: error.reason(),
                    message: error.to_string(),
                    retry_after: error.retry_after(),
                });
            count(&metrics, "prefect", &answer);
            answer
        })
    });
    Sources::new(read, hold, pushed_interval, wake, shutdown)
}

/// Configs of Doppler, read through `client`; told of changes by what `hold` gives.
#[must_use]
pub fn configs(
    client: Arc<doppler::Client>,
    metrics: Arc<Metrics>,
    hold: Option<Hold<Coordinates>>,
    wake: Wake<BindingRef>,
    shutdown: CancellationToken,
) -> Configs {
    let read: Read<Coordinates, Snapshot> =
        Box::new(move |key: Coordinates, last: Option<Arc<Snapshot>>, wish| {
            let (client, metrics) = (Arc::clone(&client), Arc::clone(&metrics));
            Box::pin(async move {
                let answer = client
                    .download(&key, last.as_deref(), &wish)
                    .await
                    .map(|download| match download {
                        Download::Unchanged => Answer::Same,
                        // A new tag of the same content is taken in, so that the next read can be answered with 304.
                        Download::New(snapshot)
                            if snapshot.is_empty() && last.as_deref() == Some(&snapshot) =>
                        {
                            Answer::Same
                        }
                        Download::New(snapshot) => Answer::New(snapshot),
                    })
                    .map_err(|error| Fault {
                        reason: error.reason(),
                        message: error.to_string(),
                        retry_after: error.retry_after(),
                    });
                count(&metrics, "doppler", &answer);
                answer
            })
        });
    Sources::new(read, hold, Duration::ZERO, wake, shutdown)
}

fn count<V>(metrics: &Metrics, upstream: &'static str, answer: &Result<Answer<V>, Fault>) {
    let outcome = match answer {
        Ok(Answer::Same) => "same",
        Ok(Answer::New(_)) => "new",
        Err(fault) => fault.reason.as_str(),
    };
    metrics
        .reads
        .get_or_create(&ReadLabels { upstream, outcome })
        .inc();
}

//! The feed of a Prefect server: subscriptions to its event socket.
//!
//! Input: a [`Connection`].
//! Output: one event socket for each connection. Its events go to `on_message`, and each triggers a
//! re-read of everything that is subscribed to the connection.
//! Invariants: an event carries no value. A socket that sends many events is read slowly, so that it
//! delays no other. A Prefect server reports a change before it commits it, so
//! a read that follows an event at once may still return the old value.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::ready};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    connection::Connection,
    connection_interner::ConnectionInterner,
    event::ServerEvent,
    event_socket::{SocketError, SocketLimits, events},
};
use crate::{
    metrics::Metrics,
    settings::UpstreamSettings,
    upstream::pace::{Pace, PaceLimit},
    upstream::subscription::{Connect, Disconnect, FeedSpec, OnMessage, Opened, Subscriptions},
};

/// A Prefect server does not confirm the event filter. After this time it is in force.
const FILTER_DELAY: Duration = Duration::from_secs(1);

/// How many events of one socket are received.
const EVENTS: PaceLimit = PaceLimit {
    burst: 200,
    period: Duration::from_millis(50),
};
/// How many events of flow runs are received. They come from all work pools of the server and cost
/// little, and many of them must not delay those of blocks.
const RUN_EVENTS: PaceLimit = PaceLimit {
    burst: 2000,
    period: Duration::from_millis(5),
};

/// Time limit for the version of a server. Without it, the first event of a block has to show that
/// the server reports them.
const VERSION_TIMEOUT: Duration = Duration::from_secs(1);

/// Event sockets of Prefect servers.
pub type EventSockets = Subscriptions<Arc<Connection>, ServerEvent>;

/// Event sockets of Prefect servers: one for each server and credentials.
#[must_use]
pub fn event_sockets(
    settings: &UpstreamSettings,
    connections: &Arc<ConnectionInterner>,
    metrics: &Arc<Metrics>,
    on_message: OnMessage<Arc<Connection>, ServerEvent>,
    shutdown: &CancellationToken,
) -> EventSockets {
    let limits = SocketLimits {
        open_timeout: settings.prefect_timeout,
        ..SocketLimits::default()
    };
    let connections = Arc::clone(connections);
    let connect: Connect<Arc<Connection>, ServerEvent> = Box::new(move |connection| {
        let connections = Arc::clone(&connections);
        Box::pin(async move {
            let opened = events(&connection, limits).await;
            let has_version = match &opened {
                Ok(_) => true,
                // A server without a socket may be too old.
                Err(error) => error.concerns_version(),
            };
            let version = if connection.is_cloud() || !has_version {
                None
            } else {
                let read = connections.read_version(&connection);
                timeout(VERSION_TIMEOUT, read).await.ok().flatten()
            };
            let opened = opened.map_err(|error| error.of_version(version.as_ref()));
            let events = opened.map_err(disconnect)?;
            let (mut changes, mut runs) = (Pace::default(), Pace::default());
            let events = events.then(move |event| {
                let (pace, limit) = match &event {
                    Ok(ServerEvent::RunPending(_) | ServerEvent::RunStarted(_)) => {
                        (&mut runs, RUN_EVENTS)
                    }
                    _ => (&mut changes, EVENTS),
                };
                let wait = pace.take(limit, Instant::now()).err().unwrap_or_default();
                // After the wait it may be received, and is counted.
                if !wait.is_zero() {
                    let _ = pace.take(limit, Instant::now() + wait);
                }
                async move {
                    if !wait.is_zero() {
                        sleep(wait).await;
                    }
                    event
                }
            });
            let changes = events.filter_map(|event| {
                ready(match event {
                    Ok(ServerEvent::Heartbeat) => None,
                    Ok(event) => Some(Ok(event)),
                    Err(error) => Some(Err(disconnect(error))),
                })
            });
            if let Some(version) = &version {
                let (host, version) = (connection.host(), version.to_string());
                info!(
                    host,
                    version, "the event socket of the Prefect server is connected"
                );
            }
            Ok(Opened {
                messages: changes.boxed(),
                is_proven: version.is_some_and(|version| version.reports_blocks()),
            })
        })
    });
    let spec = FeedSpec {
        upstream: "prefect",
        connect,
        on_message: Some(on_message),
        // Servers before 3.7.4 accept the socket, and report some changes of pools only.
        proves: |event| matches!(event, ServerEvent::Block { .. }),
        source: |event| match event {
            ServerEvent::RunPending(_) => "prefect-run",
            _ => "prefect",
        },
        slows_polling: true,
        reread_after: Some(FILTER_DELAY),
        host: |connection| connection.api_url.origin().ascii_serialization(),
        max_connections: settings.max_sockets,
    };
    Subscriptions::new(spec, Arc::clone(metrics), shutdown.clone())
}

#[allow(clippy::needless_pass_by_value)] // the signature of map_err
fn disconnect(error: SocketError) -> Disconnect {
    debug!("{error}");
    Disconnect {
        rejected: error.is_rejection().then(|| error.to_string()),
        retry_after: error.retry_after(),
    }
}

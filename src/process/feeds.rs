//! The feeds: Doppler's watch streams, and the event sockets of Prefect servers.
//!
//! Input: limits.
//! Output: [`Subscriptions`] of each kind. Events of a socket go to its `on_message`; a stream
//! triggers its subscribers itself.
//! Invariants: a notification carries no value.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::ready};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::upstreams::UpstreamSettings;
use crate::{
    doppler::{ConfigKey, StreamEvent, WatchClient, WatchError},
    metrics::Metrics,
    outbound::ClientError,
    prefect::{Connection, ServerEvent, SocketError, event_socket},
    upstream::limiter::RateLimiter,
    upstream::subscription::{self, Connect, Disconnect, FeedSpec, Subscriptions},
};

/// Watch streams of one host that may be opening.
const TO_STREAMS: usize = 8;
/// A watch stream without a frame for so long is dead: Doppler pings every 30 s or so.
const SILENCE: Duration = Duration::from_mins(1);
/// Event sockets.
const SOCKETS: usize = 256;
/// A Prefect server does not say when it has understood which events are wanted.
const LISTENS: Duration = Duration::from_secs(1);

/// Doppler's watch streams: one for each config, token and host.
pub(super) fn watch_streams(
    limits: &UpstreamSettings,
    metrics: &Arc<Metrics>,
    shutdown: &CancellationToken,
) -> Result<Subscriptions<ConfigKey, ()>, ClientError> {
    // Not the gate of downloads: those are not to wait behind streams that do not open.
    let gate = RateLimiter::new(TO_STREAMS, None, Box::new(|_| {}), shutdown.clone());
    let watcher = Arc::new(WatchClient::new(limits.doppler_timeout, SILENCE, gate)?);
    let first = limits.doppler_timeout;
    let open: Connect<ConfigKey, ()> = Box::new(move |at| {
        let watcher = Arc::clone(&watcher);
        Box::pin(async move {
            let mut frames = Box::pin(watcher.watch(&at).await.map_err(|error| lost(&error))?);
            // Doppler confirms the subscription: it reports every later change.
            match timeout(first, frames.next()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(lost(&error)),
                Ok(None) | Err(_) => return Err(Disconnect::transient()),
            }
            let updates = frames.filter_map(|frame| {
                ready(match frame {
                    Ok(StreamEvent::Updated) => Some(Ok(())),
                    Ok(StreamEvent::Connected | StreamEvent::KeepAlive) => None,
                    Err(error) => Some(Err(lost(&error))),
                })
            });
            Ok(updates.boxed())
        })
    });
    let kind = FeedSpec {
        upstream: "doppler",
        connect: open,
        on_message: None,
        slows_polling: false,
        reread_after: None,
        max_connections: limits.max_streams.into(),
    };
    Ok(Subscriptions::new(
        kind,
        Arc::clone(metrics),
        shutdown.clone(),
    ))
}

/// Why a watch stream is not there.
fn lost(error: &WatchError) -> Disconnect {
    debug!(reason = error.reason().as_str(), "{error}");
    Disconnect {
        rejected: error.is_rejection().then(|| error.to_string()),
        retry_after: error.retry_after(),
    }
}

/// Event sockets of Prefect servers: one for each server and credentials.
pub(super) fn event_sockets(
    limits: &UpstreamSettings,
    metrics: &Arc<Metrics>,
    on_message: subscription::OnMessage<Arc<Connection>, ServerEvent>,
    shutdown: &CancellationToken,
) -> Subscriptions<Arc<Connection>, ServerEvent> {
    let bounds = event_socket::SocketLimits {
        open_timeout: limits.prefect_timeout,
        ..event_socket::SocketLimits::default()
    };
    let open: Connect<Arc<Connection>, ServerEvent> = Box::new(move |connection| {
        Box::pin(async move {
            let closed = |error: &SocketError| {
                debug!("{error}");
                let refused = matches!(error, SocketError::Rejected { .. });
                Disconnect {
                    rejected: refused.then(|| error.to_string()),
                    retry_after: error.retry_after(),
                }
            };
            let events = event_socket::events(&connection, bounds).await;
            let events = events.map_err(|error| closed(&error))?;
            let changes = events.filter_map(move |event| {
                ready(match event {
                    Ok(ServerEvent::Heartbeat) => None,
                    event => Some(event.map_err(|error| closed(&error))),
                })
            });
            Ok(changes.boxed())
        })
    });
    let kind = FeedSpec {
        upstream: "prefect",
        connect: open,
        on_message: Some(on_message),
        slows_polling: true,
        reread_after: Some(LISTENS),
        max_connections: SOCKETS,
    };
    Subscriptions::new(kind, Arc::clone(metrics), shutdown.clone())
}

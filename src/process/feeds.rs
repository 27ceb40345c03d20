//! The links that tell of changes: Doppler's watch streams, and the event sockets of Prefect servers.
//!
//! In: limits. Out: [`Links`] of each kind, which say what a client of its room hears. What a socket is told goes to `told`; whoever holds a stream is
//! poked by the link itself.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::ready};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::upstreams::Limits;
use crate::{
    doppler::{Coordinates, Frame, WatchError, Watcher},
    metrics::Metrics,
    outbound::ClientError,
    prefect::{Connection, SocketError, Told, event_socket},
    upstream::limiter::Gate,
    upstream::subscription::{self, Closed, Kind, Links, Open},
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
pub(super) fn streams(
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
pub(super) fn sockets(
    limits: &Limits,
    metrics: &Arc<Metrics>,
    told: subscription::Told<Arc<Connection>, Told>,
    shutdown: &CancellationToken,
) -> Links<Arc<Connection>, Told> {
    let bounds = event_socket::Limits {
        open: limits.prefect_timeout,
        ..event_socket::Limits::default()
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
            let told = event_socket::events(&connection, bounds).await;
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
        told: Some(told),
        slows_polls: true,
        listens_after: Some(LISTENS),
        most: SOCKETS,
    };
    Links::new(kind, Arc::clone(metrics), shutdown.clone())
}

//! The feed of Doppler: subscriptions to its watch streams.
//!
//! Input: a [`ConfigKey`].
//! Output: one watch stream for each config, token and host. Each update triggers a re-read by its
//! subscribers.
//! Invariants: an update carries no value. A stream that does not confirm its subscription in time
//! is closed.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::ready};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{config_key::ConfigKey, sse::StreamEvent, watch::WatchClient, watch_error::WatchError};
use crate::{
    metrics::Metrics,
    outbound::ClientError,
    settings::UpstreamSettings,
    upstream::{
        limiter::RateLimiter,
        subscription::{Connect, Disconnect, FeedSpec, Opened, Subscriptions},
    },
};

/// The maximum number of watch streams of one host that are being opened.
const MAX_OPENING: usize = 8;
/// A watch stream without an event for this long is dead: Doppler sends one about every 30 s.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Watch streams of Doppler configs.
pub type WatchStreams = Subscriptions<ConfigKey, ()>;

/// Watch streams of Doppler configs: one for each config, token and host.
///
/// # Errors
/// If the TLS backend cannot build an HTTP client.
pub fn watch_streams(
    settings: &UpstreamSettings,
    metrics: &Arc<Metrics>,
    shutdown: &CancellationToken,
) -> Result<WatchStreams, ClientError> {
    // Not the rate limiter of downloads: a download must not wait for a stream that does not open.
    let limiter = RateLimiter::new(MAX_OPENING, None, Box::new(|_| {}), shutdown.clone());
    let open_timeout = settings.doppler_timeout;
    let client = Arc::new(WatchClient::new(open_timeout, IDLE_TIMEOUT, limiter)?);
    let connect: Connect<ConfigKey, ()> = Box::new(move |key| {
        let client = Arc::clone(&client);
        Box::pin(async move {
            let mut events = Box::pin(client.watch(&key).await.map_err(disconnect)?);
            // The first event confirms the subscription: Doppler reports every later change.
            match timeout(open_timeout, events.next()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(disconnect(error)),
                Ok(None) | Err(_) => return Err(Disconnect::transient()),
            }
            let updates = events.filter_map(|event| {
                ready(match event {
                    Ok(StreamEvent::Updated) => Some(Ok(())),
                    Ok(StreamEvent::Connected | StreamEvent::KeepAlive) => None,
                    Err(error) => Some(Err(disconnect(error))),
                })
            });
            Ok(Opened {
                messages: updates.boxed(),
                is_proven: true,
            })
        })
    });
    let spec = FeedSpec {
        upstream: "doppler",
        connect,
        on_message: None,
        proves: |()| true,
        source: |()| "doppler",
        slows_polling: false,
        reread_after: None,
        host: |key| key.host.origin().ascii_serialization(),
        max_connections: settings.max_streams,
    };
    Ok(Subscriptions::new(
        spec,
        Arc::clone(metrics),
        shutdown.clone(),
    ))
}

#[allow(clippy::needless_pass_by_value)] // the signature of map_err
fn disconnect(error: WatchError) -> Disconnect {
    debug!(reason = error.reason().as_str(), "{error}");
    Disconnect {
        rejected: error.is_rejection().then(|| error.to_string()),
        retry_after: error.retry_after(),
    }
}

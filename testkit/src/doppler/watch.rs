//! Opens watch streams.
//!
//! Input: a config. Output: the body of the response, which ends when the stand-in closes the
//! stream, or at a given time.
//! Invariants: the stream is removed when the client disconnects.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use futures::stream;
use tokio::sync::mpsc;

use super::config_id::ConfigId;
use super::shared::Shared;

/// Long enough that a client reads two chunks separately.
const CHUNK_DELAY: Duration = Duration::from_millis(15);

/// Opens a stream for a config.
pub(super) fn open(shared: &Arc<Shared>, config: ConfigId, closes_at: Option<Instant>) -> Body {
    let (id, queue) = shared.state().streams.open(config);
    let reader = StreamReader {
        shared: Arc::clone(shared),
        id,
        queue,
        closes_at,
    };
    Body::from_stream(stream::unfold(
        (reader, false),
        |(mut reader, wrote)| async move {
            if wrote {
                tokio::time::sleep(CHUNK_DELAY).await;
            }
            let chunk = reader.next().await?;
            Some((Ok::<_, Infallible>(chunk), (reader, true)))
        },
    ))
}

/// The client of a stream. Its value is dropped when the client disconnects, which removes the
/// stream.
struct StreamReader {
    shared: Arc<Shared>,
    id: u64,
    queue: mpsc::Receiver<Bytes>,
    closes_at: Option<Instant>,
}

impl StreamReader {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let ping = self.shared.state().streams.ping_interval;
            let closing = async {
                match self.closes_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                chunk = self.queue.recv() => return chunk,
                () = closing => return None,
                () = tokio::time::sleep(ping) => self.shared.state().streams.ping(self.id),
            }
        }
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.shared.state().streams.remove(self.id);
    }
}

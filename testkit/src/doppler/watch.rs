//! The watch streams. In: changes of configs and how the wire is to behave. Out: the chunks of each open stream's body.
//! A chunk is one write to the socket, so a test decides where frames are cut or joined.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::stream;
use tokio::sync::mpsc;

use super::Shared;
use super::state::ConfigId;

/// Long enough that two chunks are two reads at the other end, short enough not to be felt.
const CHUNK_DELAY: Duration = Duration::from_millis(15);
/// A reader that is this far behind is cut off.
const QUEUE_SIZE: usize = 1024;

/// How the server treats watch streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WatchMode {
    /// As Doppler does on a plan that has them.
    #[default]
    Open,
    /// Accepted, and then not a byte: neither updates nor pings.
    Silent,
    /// Refused with this status and message, as on a plan without them.
    Refused(u16, String),
}

/// How frames become chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// One frame, one chunk.
    #[default]
    Whole,
    /// Each frame is cut at these byte positions.
    Split(Vec<usize>),
    /// This many frames are held back and sent as one chunk.
    Merge(usize),
}

struct OpenStream {
    config: ConfigId,
    buffer: Vec<u8>,
    buffered_frames: usize,
    chunks: mpsc::Sender<Bytes>,
}

pub(super) struct Streams {
    next_id: u64,
    open: BTreeMap<u64, OpenStream>,
    pub(super) mode: WatchMode,
    pub(super) framing: Framing,
    pub(super) ping_interval: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            next_id: 0,
            open: BTreeMap::new(),
            mode: WatchMode::default(),
            framing: Framing::default(),
            ping_interval: Duration::from_secs(30),
        }
    }
}

impl Streams {
    pub(super) fn count(&self, place: Option<&ConfigId>) -> usize {
        self.open
            .values()
            .filter(|open| place.is_none_or(|place| *place == open.config))
            .count()
    }

    /// Sends a frame of that type to every stream of the config.
    pub(super) fn send_event(&mut self, place: &ConfigId, kind: &str) {
        if self.mode == WatchMode::Silent {
            return;
        }
        let framing = self.framing.clone();
        self.open
            .retain(|_, open| open.config != *place || open.send_frame(&framing, &frame(kind)));
    }

    /// Sends these chunks as they are.
    pub(super) fn send_chunks(&mut self, place: &ConfigId, chunks: &[Vec<u8>]) {
        self.open.retain(|_, open| {
            open.config != *place || chunks.iter().all(|chunk| open.send(chunk.clone()))
        });
    }

    /// Ends every open stream.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    fn ping(&mut self, id: u64) {
        if self.mode == WatchMode::Silent {
            return;
        }
        let framing = self.framing.clone();
        if let Some(open) = self.open.get_mut(&id) {
            open.send_frame(&framing, &frame("ping"));
        }
    }
}

impl OpenStream {
    fn send_frame(&mut self, framing: &Framing, frame: &str) -> bool {
        let bytes = frame.as_bytes();
        match framing {
            Framing::Whole => self.send(bytes.to_vec()),
            Framing::Split(at) => split(bytes, at).into_iter().all(|chunk| self.send(chunk)),
            Framing::Merge(frames) => {
                self.buffer.extend_from_slice(bytes);
                self.buffered_frames += 1;
                if self.buffered_frames < *frames {
                    return true;
                }
                self.buffered_frames = 0;
                let held = std::mem::take(&mut self.buffer);
                self.send(held)
            }
        }
    }

    fn send(&self, chunk: Vec<u8>) -> bool {
        self.chunks.try_send(Bytes::from(chunk)).is_ok()
    }
}

fn frame(kind: &str) -> String {
    format!("event: message\ndata: {{\"type\":\"{kind}\"}}\n\n")
}

fn split(bytes: &[u8], at: &[usize]) -> Vec<Vec<u8>> {
    let mut cuts: Vec<usize> = at
        .iter()
        .copied()
        .filter(|cut| (1..bytes.len()).contains(cut))
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.push(bytes.len());
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    starts
        .zip(cuts.iter().copied())
        .map(|(from, to)| bytes[from..to].to_vec())
        .collect()
}

/// Opens a stream for a config: the body of the answer, which ends with [`Streams::close`] or the connection.
pub(super) fn open(shared: &Arc<Shared>, place: ConfigId) -> Body {
    let (chunks, queue) = mpsc::channel(QUEUE_SIZE);
    let id = {
        let mut state = shared.state();
        let streams = &mut state.streams;
        let id = streams.next_id;
        streams.next_id += 1;
        streams.open.insert(
            id,
            OpenStream {
                config: place,
                buffer: Vec::new(),
                buffered_frames: 0,
                chunks,
            },
        );
        if streams.mode != WatchMode::Silent {
            let framing = streams.framing.clone();
            if let Some(open) = streams.open.get_mut(&id) {
                open.send_frame(&framing, &frame("connected"));
            }
        }
        id
    };
    let reader = StreamReader {
        shared: Arc::clone(shared),
        id,
        queue,
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

/// One client at the other end. Dropped when it goes, and the stream is forgotten.
struct StreamReader {
    shared: Arc<Shared>,
    id: u64,
    queue: mpsc::Receiver<Bytes>,
}

impl StreamReader {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let ping = self.shared.state().streams.ping_interval;
            match tokio::time::timeout(ping, self.queue.recv()).await {
                Ok(chunk) => return chunk,
                Err(_) => self.shared.state().streams.ping(self.id),
            }
        }
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.shared.state().streams.open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_a_frame_at_the_given_positions() {
        assert_eq!(
            split(b"abcdef", &[4, 2, 4, 0, 99]),
            [b"ab".to_vec(), b"cd".to_vec(), b"ef".to_vec()]
        );
        assert_eq!(split(b"abc", &[]), [b"abc".to_vec()]);
    }
}

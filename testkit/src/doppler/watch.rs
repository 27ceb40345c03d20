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
use super::state::Place;

/// Long enough that two chunks are two reads at the other end, short enough not to be felt.
const BETWEEN_CHUNKS: Duration = Duration::from_millis(15);
/// A reader that is this far behind is cut off.
const WAITING: usize = 1024;

/// How the server treats watch streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Watch {
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

struct Open {
    place: Place,
    held: Vec<u8>,
    frames_held: usize,
    chunks: mpsc::Sender<Bytes>,
}

pub(super) struct Streams {
    next: u64,
    open: BTreeMap<u64, Open>,
    pub(super) watch: Watch,
    pub(super) framing: Framing,
    pub(super) ping: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            next: 0,
            open: BTreeMap::new(),
            watch: Watch::default(),
            framing: Framing::default(),
            ping: Duration::from_secs(30),
        }
    }
}

impl Streams {
    pub(super) fn count(&self, place: Option<&Place>) -> usize {
        self.open
            .values()
            .filter(|open| place.is_none_or(|place| *place == open.place))
            .count()
    }

    /// Sends a frame of that type to every stream of the config.
    pub(super) fn emit(&mut self, place: &Place, kind: &str) {
        if self.watch == Watch::Silent {
            return;
        }
        let framing = self.framing.clone();
        self.open
            .retain(|_, open| open.place != *place || open.send_frame(&framing, &frame(kind)));
    }

    /// Sends these chunks as they are.
    pub(super) fn send(&mut self, place: &Place, chunks: &[Vec<u8>]) {
        self.open.retain(|_, open| {
            open.place != *place || chunks.iter().all(|chunk| open.send(chunk.clone()))
        });
    }

    /// Ends every open stream.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }

    fn ping(&mut self, id: u64) {
        if self.watch == Watch::Silent {
            return;
        }
        let framing = self.framing.clone();
        if let Some(open) = self.open.get_mut(&id) {
            open.send_frame(&framing, &frame("ping"));
        }
    }
}

impl Open {
    fn send_frame(&mut self, framing: &Framing, frame: &str) -> bool {
        let bytes = frame.as_bytes();
        match framing {
            Framing::Whole => self.send(bytes.to_vec()),
            Framing::Split(at) => split(bytes, at).into_iter().all(|chunk| self.send(chunk)),
            Framing::Merge(frames) => {
                self.held.extend_from_slice(bytes);
                self.frames_held += 1;
                if self.frames_held < *frames {
                    return true;
                }
                self.frames_held = 0;
                let held = std::mem::take(&mut self.held);
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
pub(super) fn open(shared: &Arc<Shared>, place: Place) -> Body {
    let (chunks, queue) = mpsc::channel(WAITING);
    let id = {
        let mut state = shared.state();
        let streams = &mut state.streams;
        let id = streams.next;
        streams.next += 1;
        streams.open.insert(
            id,
            Open {
                place,
                held: Vec::new(),
                frames_held: 0,
                chunks,
            },
        );
        if streams.watch != Watch::Silent {
            let framing = streams.framing.clone();
            if let Some(open) = streams.open.get_mut(&id) {
                open.send_frame(&framing, &frame("connected"));
            }
        }
        id
    };
    let reader = Reader {
        shared: Arc::clone(shared),
        id,
        queue,
    };
    Body::from_stream(stream::unfold(
        (reader, false),
        |(mut reader, wrote)| async move {
            if wrote {
                tokio::time::sleep(BETWEEN_CHUNKS).await;
            }
            let chunk = reader.next().await?;
            Some((Ok::<_, Infallible>(chunk), (reader, true)))
        },
    ))
}

/// One client at the other end. Dropped when it goes, and the stream is forgotten.
struct Reader {
    shared: Arc<Shared>,
    id: u64,
    queue: mpsc::Receiver<Bytes>,
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let ping = self.shared.state().streams.ping;
            match tokio::time::timeout(ping, self.queue.recv()).await {
                Ok(chunk) => return chunk,
                Err(_) => self.shared.state().streams.ping(self.id),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.state().streams.open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_a_frame_where_it_is_told_to() {
        assert_eq!(
            split(b"abcdef", &[4, 2, 4, 0, 99]),
            [b"ab".to_vec(), b"cd".to_vec(), b"ef".to_vec()]
        );
        assert_eq!(split(b"abc", &[]), [b"abc".to_vec()]);
    }
}

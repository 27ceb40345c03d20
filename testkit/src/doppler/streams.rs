//! The open watch streams.
//!
//! Input: events of configs, and the framing. Output: the chunks of each stream's body.
//! Invariants: a chunk is one write to the socket, so that a test decides where frames are split or
//! merged.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::mpsc;

use super::config_id::ConfigId;

/// A stream whose reader has this many unread chunks is closed.
const QUEUE_SIZE: usize = 1024;

/// How the server treats watch streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WatchMode {
    /// As Doppler does on a plan with watch streams.
    #[default]
    Open,
    /// Accepted, without any byte afterwards: no event and no ping.
    Silent,
    /// Rejected with this status and message, as on a plan without watch streams.
    Refused(u16, String),
}

/// How frames become chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Each frame is one chunk.
    #[default]
    Whole,
    /// Each frame is split at these byte positions.
    Split(Vec<usize>),
    /// This number of frames is sent as one chunk.
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

    /// Sends an event to every stream of the config.
    pub(super) fn send_event(&mut self, place: &ConfigId, kind: &str) {
        if self.mode == WatchMode::Silent {
            return;
        }
        let framing = self.framing.clone();
        self.open
            .retain(|_, open| open.config != *place || open.send_frame(&framing, &frame(kind)));
    }

    /// Sends chunks without framing.
    pub(super) fn send_chunks(&mut self, place: &ConfigId, chunks: &[Vec<u8>]) {
        self.open.retain(|_, open| {
            open.config != *place || chunks.iter().all(|chunk| open.send(chunk.clone()))
        });
    }

    /// Closes every open stream.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    /// Opens a stream of a config. The receiver gets its chunks.
    pub(super) fn open(&mut self, config: ConfigId) -> (u64, mpsc::Receiver<Bytes>) {
        let (chunks, queue) = mpsc::channel(QUEUE_SIZE);
        let mut stream = OpenStream {
            config,
            buffer: Vec::new(),
            buffered_frames: 0,
            chunks,
        };
        if self.mode != WatchMode::Silent {
            stream.send_frame(&self.framing, &frame("connected"));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.open.insert(id, stream);
        (id, queue)
    }

    /// Removes a stream whose client has disconnected.
    pub(super) fn remove(&mut self, id: u64) {
        self.open.remove(&id);
    }

    /// Sends a ping to one stream.
    pub(super) fn ping(&mut self, id: u64) {
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

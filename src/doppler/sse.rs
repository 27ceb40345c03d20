//! A decoder of server-sent events.
//!
//! Input: the chunks of a stream's body, cut anywhere.
//! Output: [`StreamEvent`]s in their order, independent of the cuts.
//! Invariants: the decoder holds at most one unfinished event, up to [`MAX_EVENT_BYTES`]. Lines end
//! with CR, LF or both. Of an event only its type is kept, and nothing is logged.
//!
//! The crate `eventsource-stream` is not used: its 0.2.3 panics on a byte order mark, holds an
//! event of any size, and parses an unfinished line again with each chunk.

use std::collections::VecDeque;

use serde::Deserialize;

/// Doppler's events have about 50 bytes.
pub(super) const MAX_EVENT_BYTES: usize = 64 << 10;

/// An event of a watch stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamEvent {
    /// The stream is open: from now on it reports each change.
    Connected,
    /// The config has changed. Read it again.
    Updated,
    /// The server is alive: a ping, a comment, or an unknown event.
    KeepAlive,
}

/// Why the bytes are not an event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// An event of more than [`MAX_EVENT_BYTES`].
    TooLarge,
    /// Bytes that are not UTF-8.
    NotUtf8,
}

/// The part of the stream that is not a complete event yet.
#[derive(Default)]
pub(super) struct Decoder {
    line: Vec<u8>,
    /// The `data` lines of the current event.
    data: Vec<u8>,
    /// The current event has a line that is not a comment.
    started: bool,
    /// The last byte was a carriage return, so a line feed does not end a second line.
    after_return: bool,
    /// The first line, which may begin with a byte order mark, is complete.
    past_first_line: bool,
}

impl Decoder {
    /// Decodes the next chunk and appends the events that it completes.
    ///
    /// # Errors
    /// If an event is too large or a line is not UTF-8. The decoder is then of no further use.
    pub(super) fn push(
        &mut self,
        chunk: &[u8],
        events: &mut VecDeque<StreamEvent>,
    ) -> Result<(), Malformed> {
        for &byte in chunk {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()?),
                _ if self.line.len() + self.data.len() >= MAX_EVENT_BYTES => {
                    return Err(Malformed::TooLarge);
                }
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<StreamEvent>, Malformed> {
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).map_err(|_| Malformed::NotUtf8)?;
        let first = !std::mem::replace(&mut self.past_first_line, true);
        let line = if first {
            line.strip_prefix('\u{feff}').unwrap_or(line)
        } else {
            line
        };
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let started = std::mem::take(&mut self.started);
            return Ok(started.then(|| parse_event(&data)));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        if field.is_empty() {
            // A comment. Many servers send comments to keep a connection open.
            return Ok(Some(StreamEvent::KeepAlive));
        }
        self.started = true;
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            self.data.extend_from_slice(value.as_bytes());
            self.data.push(b'\n');
        }
        Ok(None)
    }
}

/// Parses the data of an event. The name of the event is ignored: it could only decide whether an
/// unchanged config is read once more.
fn parse_event(data: &[u8]) -> StreamEvent {
    #[derive(Deserialize)]
    struct EventData {
        r#type: String,
    }
    let kind = serde_json::from_slice(data).map(|data: EventData| data.r#type);
    match kind.as_deref() {
        Ok("connected") => StreamEvent::Connected,
        Ok("secrets.update") => StreamEvent::Updated,
        _ => StreamEvent::KeepAlive,
    }
}

#[cfg(test)]
mod tests;

//! Server-sent events: bytes as they come become frames.
//!
//! In: the pieces of a stream's body, cut anywhere. Out: [`StreamEvent`]s in their order, however they were cut. It holds no more than one unfinished
//! frame, and that up to a bound. Lines end with CR, LF or both. It never keeps or shows what a frame says beyond its type.
//!
//! Not the crate `eventsource-stream`: its 0.2.3 panics on a byte order mark, holds a frame of any size, and parses an unfinished line anew with each piece.

use std::collections::VecDeque;

use serde::Deserialize;

/// A frame of Doppler has some 50 bytes.
pub(super) const MAX_EVENT_BYTES: usize = 64 << 10;

/// What a watch stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamEvent {
    /// The stream is open: from now on each change is told.
    Connected,
    /// The config has changed. Read it again.
    Updated,
    /// Somebody is at the other end: a ping, or anything that is not known.
    KeepAlive,
}

/// What is no stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// A frame beyond [`MAX_EVENT_BYTES`].
    TooLarge,
    /// Bytes that are not UTF-8.
    NotUtf8,
}

/// What of the stream has not become a frame yet.
#[derive(Default)]
pub(super) struct Decoder {
    line: Vec<u8>,
    /// The `data` lines of the frame so far.
    data: Vec<u8>,
    /// The frame has begun: it has a line that is not a comment.
    started: bool,
    /// A line feed after a carriage return ends no second line.
    after_return: bool,
    /// The first line, before which a byte order mark may stand, is over.
    past_first_line: bool,
}

impl Decoder {
    /// Takes the next piece, and appends the frames that it completes.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        frames: &mut VecDeque<StreamEvent>,
    ) -> Result<(), Malformed> {
        for &byte in piece {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => frames.extend(self.end_line()?),
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
            let begun = std::mem::take(&mut self.started);
            return Ok(begun.then(|| parse_event(&data)));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        if field.is_empty() {
            // A comment, with which many servers keep a connection open.
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

/// Reads the data of a frame. The name of the event is not looked at: all that it could change is whether an unchanged config is read once more.
fn parse_event(data: &[u8]) -> StreamEvent {
    #[derive(Deserialize)]
    struct EventData {
        r#type: String,
    }
    let kind = serde_json::from_slice(data).map(|said: EventData| said.r#type);
    match kind.as_deref() {
        Ok("connected") => StreamEvent::Connected,
        Ok("secrets.update") => StreamEvent::Updated,
        _ => StreamEvent::KeepAlive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: &str = "event: message\ndata: {\"type\":\"connected\"}\n\n\
        event: message\ndata: {\"type\":\"ping\"}\n\n\
        event: message\ndata: {\"type\":\"secrets.update\"}\n\n";
    const FRAMES: [StreamEvent; 3] = [
        StreamEvent::Connected,
        StreamEvent::KeepAlive,
        StreamEvent::Updated,
    ];

    fn decode<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<StreamEvent>, Malformed> {
        let (mut decoder, mut frames) = (Decoder::default(), VecDeque::new());
        for piece in pieces {
            decoder.push(piece, &mut frames)?;
        }
        Ok(frames.into())
    }

    fn whole(text: &str) -> Vec<StreamEvent> {
        decode([text.as_bytes()]).unwrap()
    }

    #[test]
    fn decodes_events_cut_at_each_byte_and_joined() {
        for cut in 0..=ALL.len() {
            let (head, tail) = ALL.as_bytes().split_at(cut);
            assert_eq!(decode([head, tail]).unwrap(), FRAMES, "cut at {cut}");
        }
        assert_eq!(decode(ALL.as_bytes().chunks(1)).unwrap(), FRAMES);
        assert_eq!(whole(&ALL.repeat(2)), [FRAMES, FRAMES].concat());
    }

    #[test]
    fn accepts_three_line_endings_at_every_cut() {
        for end in ["\r\n", "\r"] {
            let text = ALL.replace('\n', end);
            assert_eq!(whole(&text), FRAMES);
            assert_eq!(decode(text.as_bytes().chunks(1)).unwrap(), FRAMES);
        }
    }

    #[test]
    fn recognises_each_form_of_an_update() {
        for text in [
            "data: {\"type\":\"secrets.update\"}\n\n",
            "\u{feff}data: {\"type\":\"secrets.update\"}\n\n",
            "data:{\"type\":\"secrets.update\"}\n\n",
            "data: {\"config\":{\"type\":\"x\"},\"type\":\"secrets.\\u0075pdate\"}\n\n",
            "data: {\ndata:   \"type\":\ndata: \"secrets.update\"}\n\n",
            "id: 7\nretry: 1\nevent: secrets\ndata: {\"type\":\"secrets.update\"}\n\n",
            "\n\n\ndata: {\"type\":\"secrets.update\"}\n\n\n",
        ] {
            assert_eq!(whole(text), [StreamEvent::Updated], "{text}");
        }
    }

    #[test]
    fn unknown_events_count_as_keep_alives() {
        for text in [
            ": comment\n",
            ":\n",
            "event: message\n\n",
            "data\n\n",
            "data: \n\n",
            "data: secrets.update\n\n",
            "data: {\"type\":\"secrets.updated\"}\n\n",
            "data: {\"type\":7}\n\n",
            "data: {\"type\":\"secrets.update\"\n\n",
            " data: {\"type\":\"secrets.update\"}\n\n",
            "{\"type\":\"secrets.update\"}\n\n",
        ] {
            assert_eq!(whole(text), [StreamEvent::KeepAlive], "{text}");
        }
    }

    #[test]
    fn ignores_blank_lines_and_unfinished_events() {
        for text in ["", "\n\r\n\n", "data: {\"type\":\"connected\"}\n"] {
            assert_eq!(whole(text), [], "{text}");
        }
    }

    #[test]
    fn a_comment_does_not_split_an_event() {
        let text = "event: message\n: comment\ndata: {\"type\":\"connected\"}\n\n";
        assert_eq!(
            whole(text),
            [StreamEvent::KeepAlive, StreamEvent::Connected]
        );
    }

    #[test]
    fn rejects_events_beyond_the_size_limit() {
        let line = |length: usize| [&b"x".repeat(length)[..], b"\n\n"].concat();
        assert_eq!(
            decode([&line(MAX_EVENT_BYTES)[..]]),
            Ok(vec![StreamEvent::KeepAlive])
        );
        assert_eq!(
            decode([&line(MAX_EVENT_BYTES + 1)[..]]),
            Err(Malformed::TooLarge)
        );
        assert_eq!(
            decode([b"data: x\n".repeat(MAX_EVENT_BYTES).as_slice()]),
            Err(Malformed::TooLarge)
        );
        // What does not become part of a frame is not kept either.
        let comments = b"event: x\n:\n".repeat(MAX_EVENT_BYTES);
        assert_eq!(
            decode([&comments[..]]).map(|f| f.len()),
            Ok(MAX_EVENT_BYTES)
        );
    }

    #[test]
    fn rejects_bytes_that_are_not_utf8() {
        assert_eq!(decode([&b"data: \xff\n"[..]]), Err(Malformed::NotUtf8));
        let two_bytes = "data: \u{e9}\n\n".as_bytes();
        assert_eq!(
            decode(two_bytes.chunks(1)),
            Ok(vec![StreamEvent::KeepAlive])
        );
    }

    proptest! {
        #[test]
        fn the_cuts_make_no_difference(
            text in "(data|:|event|\r|\n|\r\n|\u{feff}| |\\{\"type\":\"secrets.update\"\\}|x){0,40}",
            at in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = at.iter().map(|at| at.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            let ends = cuts.iter().copied().chain([bytes.len()]);
            let pieces = starts.zip(ends).map(|(from, to)| &bytes[from..to]);
            prop_assert_eq!(decode(pieces), decode([bytes]));
        }
    }
}

use super::*;
use proptest::prelude::*;

const ALL: &str = "event: message\ndata: {\"type\":\"connected\"}\n\n\
    event: message\ndata: {\"type\":\"ping\"}\n\n\
    event: message\ndata: {\"type\":\"secrets.update\"}\n\n";
const EVENTS: [StreamEvent; 3] = [
    StreamEvent::Connected,
    StreamEvent::KeepAlive,
    StreamEvent::Updated,
];

fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<StreamEvent>, Malformed> {
    let (mut decoder, mut events) = (Decoder::default(), VecDeque::new());
    for chunk in chunks {
        decoder.push(chunk, &mut events)?;
    }
    Ok(events.into())
}

fn whole(text: &str) -> Vec<StreamEvent> {
    decode([text.as_bytes()]).unwrap()
}

#[test]
fn decodes_events_cut_at_each_byte_and_joined() {
    for cut in 0..=ALL.len() {
        let (head, tail) = ALL.as_bytes().split_at(cut);
        assert_eq!(decode([head, tail]).unwrap(), EVENTS, "cut at {cut}");
    }
    assert_eq!(decode(ALL.as_bytes().chunks(1)).unwrap(), EVENTS);
    assert_eq!(whole(&ALL.repeat(2)), [EVENTS, EVENTS].concat());
}

#[test]
fn accepts_three_line_endings_at_every_cut() {
    for end in ["\r\n", "\r"] {
        let text = ALL.replace('\n', end);
        assert_eq!(whole(&text), EVENTS);
        assert_eq!(decode(text.as_bytes().chunks(1)).unwrap(), EVENTS);
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
    // Ignored lines are not kept.
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
    fn decoding_is_independent_of_the_cuts(
        text in "(data|:|event|\r|\n|\r\n|\u{feff}| |\\{\"type\":\"secrets.update\"\\}|x){0,40}",
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes = text.as_bytes();
        let mut cuts: Vec<_> = at.iter().map(|at| at.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let chunks = starts.zip(ends).map(|(from, to)| &bytes[from..to]);
        prop_assert_eq!(decode(chunks), decode([bytes]));
    }
}

//! Text that authors, upstreams or the API server chose, in a form that may be shown.
//!
//! Input: a message or a name.
//! Output: one bounded line ([`one_line`], [`name`]), or whether a name has a control character.
//! Invariants: pure and idempotent. A line has no line break, no terminal sequence and no mark that
//! reorders text, so it can neither begin another line nor look like one.

/// Longest name that is shown, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest message of a condition or of a log line, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// The end of a shortened line.
const ELLIPSIS: char = '…';

/// `text` as one line of at most `max_bytes` bytes. A longer line ends in `…`.
#[must_use]
pub fn one_line(text: &str, max_bytes: usize) -> String {
    // A character has at least one byte.
    let line: String = characters(text)
        .skip_while(|c| *c == ' ')
        .take(max_bytes.saturating_add(1))
        .collect();
    let line = line.trim_end();
    if line.len() <= max_bytes {
        return line.to_owned();
    }
    let end = line.floor_char_boundary(max_bytes.saturating_sub(ELLIPSIS.len_utf8()));
    let mut short = line[..end].trim_end().to_owned();
    if short.len() + ELLIPSIS.len_utf8() <= max_bytes {
        short.push(ELLIPSIS);
    }
    short
}

/// `text` as a name in a message or a status.
#[must_use]
pub fn name(text: &str) -> String {
    one_line(text, MAX_NAME_BYTES)
}

/// A number of things: `1 key`, `2 keys`.
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// The printable characters of `text`. Each white space becomes a space.
pub fn characters(text: &str) -> impl Iterator<Item = char> {
    text.chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|c| !is_control(*c) && !is_invisible(*c))
}

/// Whether a name has a character that no name needs: a control character, a line or paragraph
/// separator, or a mark that reorders text.
#[must_use]
pub fn has_control(name: &str) -> bool {
    name.chars().any(is_control)
}

/// The characters of [`crate::crd::PLAIN_TEXT_RULE`].
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Characters without a width, which some scripts and emoji need in a name.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn line_is_printable_bounded_and_stable(
            text in "(\\PC|[\n\r\t\u{0}\u{1b}\u{85}\u{2028}\u{202e} ]){0,80}",
            max_bytes in 0_usize..100,
        ) {
            let line = one_line(&text, max_bytes);
            prop_assert!(line.len() <= max_bytes);
            prop_assert!(!has_control(&line));
            prop_assert_eq!(line.lines().count(), usize::from(!line.is_empty()));
            prop_assert_eq!(one_line(&line, max_bytes), line);
        }
    }

    #[test]
    fn control_characters_end_no_line() {
        for (text, shown) in [
            ("a\nINFO b", "a INFO b"),
            ("a\r\nb", "a  b"),
            ("a\u{2028}b\u{2029}c\u{85}d", "a b c d"),
            ("\u{1b}[2Ka\u{0}", "[2Ka"),
            ("\u{202e}txt\u{2066}.\u{200f}", "txt."),
            (" é ", "é"),
        ] {
            assert_eq!(one_line(text, 100), shown);
        }
    }

    #[test]
    fn counts_one_thing_in_the_singular() {
        let shown = [0, 1, 2].map(|number| count(number, "binding"));
        assert_eq!(shown, ["0 bindings", "1 binding", "2 bindings"]);
    }

    #[test]
    fn long_line_is_cut_at_a_character() {
        assert_eq!(one_line("abcdef", 6), "abcdef");
        assert_eq!(one_line("abcdefg", 6), "abc…");
        assert_eq!(one_line("ééééé", 8), "éé…");
        assert_eq!(name(&"x".repeat(300)).len(), MAX_NAME_BYTES);
    }

    #[test]
    fn names_of_all_scripts_have_no_control_character() {
        for name in ["k8s", "Größe", "می\u{200c}خواهم", "👩\u{200d}💻", "a b"] {
            assert!(!has_control(name), "{name}");
        }
        for name in [
            "a\tb",
            "a\u{0}",
            "a\u{7f}",
            "a\u{9b}",
            "\u{202e}a",
            "a\u{2028}",
        ] {
            assert!(has_control(name), "{name:?}");
        }
    }
}

//! The UID of an object, small enough to be kept for every cached object.
//!
//! Input: the text of a UID.
//! Output: a [`Uid`] that displays as the same text.
//! Invariants: a UUID takes no heap memory; any other text is kept as it is.

use std::fmt;

/// The UID of an object.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Uid(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Uuid([u8; 16]),
    Other(Box<str>),
}

impl Uid {
    /// The text; a UUID is formatted into `buffer`.
    fn write_text<'a>(&'a self, buffer: &'a mut [u8; 36]) -> &'a str {
        let bytes = match &self.0 {
            Repr::Other(text) => return text,
            Repr::Uuid(bytes) => bytes,
        };
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).map_or(b'?', |c| c as u8);
        let digits = bytes
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
        let places = (0..36).filter(|at| !matches!(at, 8 | 13 | 18 | 23));
        buffer.fill(b'-');
        for (at, digit) in places.zip(digits) {
            buffer[at] = digit;
        }
        std::str::from_utf8(buffer).unwrap_or_default()
    }
}

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        let number = u128::from_str_radix(&text.replace('-', ""), 16).ok();
        let uuid = number.map(|number| Self::from(number.to_be_bytes()));
        // Only the canonical form of a UUID can be restored from its bytes.
        uuid.filter(|uuid| uuid == text)
            .unwrap_or_else(|| Self(Repr::Other(text.into())))
    }
}

impl From<[u8; 16]> for Uid {
    /// The UUID of these bytes.
    fn from(bytes: [u8; 16]) -> Self {
        Self(Repr::Uuid(bytes))
    }
}

impl PartialEq<str> for Uid {
    fn eq(&self, text: &str) -> bool {
        self.write_text(&mut [0; 36]) == text
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.write_text(&mut [0; 36]))
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stores_a_uuid_inline() {
        let uid = Uid::from("01234567-89ab-cdef-0123-456789abcdef");
        assert!(matches!(uid.0, Repr::Uuid(_)));
        assert_eq!(uid, *"01234567-89ab-cdef-0123-456789abcdef");
        assert_ne!(uid, *"01234567-89ab-cdef-0123-456789abcdee");
    }

    proptest! {
        #[test]
        fn every_text_comes_back_as_it_was(text in "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[+0-9a-f-]{0,40}|\\PC*") {
            prop_assert_eq!(Uid::from(text.as_str()).to_string(), text);
        }
    }
}

//! A page of a list.
//!
//! Input: the items of an answer.
//! Output: a [`Page`] of them.
//! Invariants: a page with more items than were requested does not parse, so that an answer of many
//! small items takes no more memory than its text allows for.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// Items per page: Prefect's maximum.
pub(super) const PAGE_SIZE: usize = 200;

/// A page of items.
pub(super) struct Page<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Page<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = Page<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == PAGE_SIZE {
                        return Err(A::Error::custom("more items than requested"));
                    }
                    items.push(item);
                }
                Ok(Page(items))
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_at_most_the_requested_items() {
        for (items, fits) in [
            (0, true),
            (1, true),
            (PAGE_SIZE, true),
            (PAGE_SIZE + 1, false),
        ] {
            let text = serde_json::to_string(&vec![7; items]).unwrap();
            let page: Result<Page<u8>, _> = serde_json::from_str(&text);
            assert_eq!(page.is_ok(), fits, "{items}");
        }
        assert!(serde_json::from_str::<Page<u8>>("{}").is_err());
    }
}

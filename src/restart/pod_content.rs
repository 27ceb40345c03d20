//! The content that the pods of a workload have, as its pod template says.
//!
//! Input: the annotation of a pod template: `BINDING=HASH`, with a comma between two.
//! Output: the hash of one binding, and the annotation with another one.
//! Invariants: pure. The pods of one workload may use the Secrets of several bindings, so the hash of one
//! binding replaces only its own. Text of another form counts as no hash.

use std::collections::BTreeMap;

/// Bindings that one annotation holds. Of more, the first by name are kept.
const MAX_BINDINGS: usize = 64;

/// The content hashes of a pod template, by binding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodContent<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> PodContent<'a> {
    /// Reads the annotation.
    #[must_use]
    pub fn parse(annotation: &'a str) -> Self {
        let pairs = annotation.split(',').filter_map(|pair| {
            let (binding, hash) = pair.split_once('=')?;
            let is_whole = !binding.is_empty() && !hash.is_empty();
            is_whole.then_some((binding, hash))
        });
        Self(pairs.take(MAX_BINDINGS).collect())
    }

    /// The hash of a binding's content.
    #[must_use]
    pub fn hash(&self, binding: &str) -> Option<&'a str> {
        self.0.get(binding).copied()
    }

    /// The annotation with this hash for a binding.
    #[must_use]
    pub fn with(&self, binding: &str, hash: &str) -> String {
        let mut pairs: BTreeMap<&str, &str> = self.0.clone();
        pairs.remove(binding);
        while pairs.len() >= MAX_BINDINGS {
            pairs.pop_last();
        }
        pairs.insert(binding, hash);
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(binding, hash)| format!("{binding}={hash}"))
            .collect();
        pairs.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hashes_of_other_bindings_stay() {
        let content = PodContent::parse("b=2,a=1,,broken,=x,y=");
        assert_eq!(
            (content.hash("a"), content.hash("b"), content.hash("y")),
            (Some("1"), Some("2"), None)
        );
        assert_eq!(content.with("a", "3"), "a=3,b=2");
        assert_eq!(PodContent::default().with("a", "1"), "a=1");
    }

    #[test]
    fn an_annotation_of_many_bindings_is_bounded() {
        let many: Vec<String> = (0..1000).map(|number| format!("b{number}=h")).collect();
        let text = PodContent::parse(&many.join(",")).with("z", "new");
        assert_eq!(text.split(',').count(), MAX_BINDINGS);
        assert_eq!(PodContent::parse(&text).hash("z"), Some("new"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(annotation in ".{0,80}", binding in "[a-z0-9.-]{1,20}", hash in "[A-Za-z0-9_-]{1,43}") {
            let written = PodContent::parse(&annotation).with(&binding, &hash);
            prop_assert_eq!(PodContent::parse(&written).hash(&binding), Some(hash.as_str()));
            prop_assert_eq!(PodContent::parse(&written).with(&binding, &hash), written.clone());
        }
    }
}

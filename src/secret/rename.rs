//! Gives keys the names that the spec chooses. Pure.
//!
//! Input: keys by name, and `spec.doppler.rename`.
//! Output: keys by their new names, the names that lost theirs to a renamed key, and the renames that
//! found no key.
//! Invariants: all renames happen at once, so that an order does not matter and names can be swapped.
//! Each renamed key is in the result.

use std::collections::{BTreeMap, BTreeSet};

/// Two names that would get the same new name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "spec.doppler.rename gives the name `{target}` to `{first}` and to `{second}`: give each name one of its own"
)]
pub struct InvalidRename {
    target: String,
    first: String,
    second: String,
}

/// Keys by their new names.
#[derive(Debug, PartialEq, Eq)]
pub struct Renamed<V> {
    /// The keys.
    pub keys: BTreeMap<String, V>,
    /// Names that were those of other keys, with the name of the key that has them now.
    pub replaced: Vec<(String, String)>,
    /// Names in the spec that no key has.
    pub unused: Vec<String>,
}

/// Renames `keys`.
///
/// # Errors
/// If two names would get the same new name. The CRD refuses that, but an older one may have admitted
/// it.
pub fn rename<V>(
    mut keys: BTreeMap<String, V>,
    names: &BTreeMap<String, String>,
) -> Result<Renamed<V>, InvalidRename> {
    let mut sources: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, target) in names {
        if let Some(first) = sources.insert(target, name) {
            return Err(InvalidRename {
                target: target.clone(),
                first: first.to_owned(),
                second: name.clone(),
            });
        }
    }
    let mut unused = Vec::new();
    let mut moved = Vec::new();
    for (name, target) in names {
        match keys.remove(name) {
            Some(key) => moved.push((name, target, key)),
            None => unused.push(name.clone()),
        }
    }
    let mut replaced = Vec::new();
    for (name, target, key) in moved {
        if keys.insert(target.clone(), key).is_some() {
            replaced.push((target.clone(), name.clone()));
        }
    }
    Ok(Renamed {
        keys,
        replaced,
        unused,
    })
}

/// The names of `unused` as a note, without those that the config has but the binding excludes.
#[must_use]
pub fn unused_note(unused: &[String], excluded: &BTreeSet<&str>) -> Option<String> {
    let names = unused.iter().map(String::as_str);
    let names: Vec<&str> = names.filter(|name| !excluded.contains(name)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "spec.doppler.rename has no effect on {}, which Doppler did not return",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(left, right): &(&str, &str)| ((*left).to_owned(), (*right).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn renames_swaps_and_replaces() {
        let keys = map(&[("A", "a"), ("B", "b"), ("C", "c"), ("D", "d")]);
        let names = map(&[("A", "B"), ("B", "A"), ("C", "D"), ("X", "Y")]);
        let renamed = rename(keys, &names).unwrap();
        assert_eq!(renamed.keys, map(&[("A", "b"), ("B", "a"), ("D", "c")]));
        assert_eq!(renamed.replaced, [("D".to_owned(), "C".to_owned())]);
        assert_eq!(renamed.unused, ["X"]);
    }

    #[test]
    fn refuses_two_names_for_one() {
        let error = rename(map(&[]), &map(&[("A", "X"), ("B", "X")])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`X` to `A` and to `B`"), "{text}");
    }

    #[test]
    fn note_leaves_out_what_the_binding_excludes() {
        let unused = ["A".to_owned(), "B".to_owned()];
        let note = unused_note(&unused, &BTreeSet::from(["A"])).unwrap();
        assert!(note.contains("no effect on B,"), "{note}");
        assert_eq!(unused_note(&unused, &BTreeSet::from(["A", "B"])), None);
    }

    proptest! {
        #[test]
        fn every_key_keeps_its_value_under_one_name(
            keys in btree_map("[A-F]", 0_u32..1000, 0..6),
            names in btree_map("[A-H]", "[A-H]", 0..6),
        ) {
            let mut targets: Vec<_> = names.values().collect();
            targets.sort_unstable();
            targets.dedup();
            let Ok(renamed) = rename(keys.clone(), &names) else {
                prop_assert!(targets.len() < names.len(), "distinct names are refused");
                return Ok(());
            };
            prop_assert_eq!(targets.len(), names.len(), "two names for one are accepted");
            prop_assert_eq!(renamed.keys.len() + renamed.replaced.len(), keys.len());
            for (name, value) in &keys {
                let is_replaced = renamed.replaced.iter().any(|(replaced, _)| replaced == name);
                match names.get(name) {
                    Some(target) => prop_assert_eq!(renamed.keys.get(target), Some(value)),
                    None if !is_replaced => prop_assert_eq!(renamed.keys.get(name), Some(value)),
                    None => prop_assert!(names.values().any(|target| target == name)),
                }
            }
            for unused in &renamed.unused {
                prop_assert!(!keys.contains_key(unused) && names.contains_key(unused));
            }
        }

        #[test]
        fn renames_can_be_undone(
            keys in btree_map("[A-F]", 0_u32..1000, 0..6),
            order in Just(["A", "B", "C", "D", "E", "F"]).prop_shuffle(),
        ) {
            let all = ["A", "B", "C", "D", "E", "F"];
            let pairs = || all.into_iter().zip(order);
            let there = pairs().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
            let back = pairs().map(|(a, b)| (b.to_owned(), a.to_owned())).collect();
            let renamed = rename(keys.clone(), &there).unwrap();
            prop_assert!(renamed.replaced.is_empty());
            prop_assert_eq!(rename(renamed.keys, &back).unwrap().keys, keys);
        }
    }
}

//! Merges the keys of several configs. Pure.
//!
//! Input: the keys of each config, in the order of the spec.
//! Output: each name once, and where several configs have it.
//! Invariants: the later config wins. No name is lost.

use std::collections::BTreeMap;

/// The keys of all configs.
#[derive(Debug, PartialEq, Eq)]
pub struct Merged<V> {
    /// The keys.
    pub keys: BTreeMap<String, V>,
    /// Names that a config has and a later one has too, in the order of the configs.
    pub collisions: Vec<Collision>,
}

/// A name that two configs have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The name.
    pub name: String,
    /// The position of the config that loses it.
    pub earlier: usize,
    /// The position of the config that takes it.
    pub later: usize,
}

/// Merges `configs`.
pub fn merge<V>(configs: impl IntoIterator<Item = BTreeMap<String, V>>) -> Merged<V> {
    let mut from: BTreeMap<String, (usize, V)> = BTreeMap::new();
    let mut collisions = Vec::new();
    for (later, keys) in configs.into_iter().enumerate() {
        for (name, value) in keys {
            let last = from.insert(name.clone(), (later, value));
            if let Some((earlier, _)) = last {
                collisions.push(Collision {
                    name,
                    earlier,
                    later,
                });
            }
        }
    }
    let keys = from.into_iter().map(|(name, (_, value))| (name, value));
    Merged {
        keys: keys.collect(),
        collisions,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::{btree_map, vec},
        prelude::*,
    };

    use super::*;

    proptest! {
        #[test]
        fn the_later_config_wins_and_every_collision_is_known(
            configs in vec(btree_map("[A-E]", 0_u32..1000, 0..5), 0..5),
        ) {
            let merged = merge(configs.clone());
            let mut expected: BTreeMap<String, u32> = BTreeMap::new();
            for config in &configs {
                expected.extend(config.clone());
            }
            prop_assert_eq!(&merged.keys, &expected);
            let names: usize = configs.iter().map(BTreeMap::len).sum();
            prop_assert_eq!(names, merged.keys.len() + merged.collisions.len());
            for Collision { name, earlier, later } in &merged.collisions {
                prop_assert!(earlier < later);
                prop_assert!(configs[*earlier].contains_key(name));
                prop_assert!(configs[*later].contains_key(name));
                let between = &configs[earlier + 1..*later];
                prop_assert!(between.iter().all(|config| !config.contains_key(name)));
            }
        }

        #[test]
        fn merging_in_steps_comes_to_the_same(
            configs in vec(btree_map("[A-E]", 0_u32..1000, 0..5), 1..5),
            at in any::<prop::sample::Index>(),
        ) {
            let at = at.index(configs.len());
            let first = merge(configs[..at].to_vec()).keys;
            let second = merge(configs[at..].to_vec()).keys;
            prop_assert_eq!(merge([first, second]).keys, merge(configs).keys);
        }
    }
}

//! The workload of one run: how many bindings, configs and blocks it has, and their names.
//!
//! Input: `Sizes`, and what a figure changes. Output: `Workload`, names, and the secrets of a
//! config.
//! Invariants: pure; all names of one kind have the same length, so that all writes have the same
//! size.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::sizes::Sizes;

/// The Doppler project of all configs.
pub const PROJECT: &str = "bench";
/// The work pool.
const POOL: &str = "bench";

/// What a run contains.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// The number of resources.
    pub bindings: usize,
    /// The number of configs, each with its own block and service token. Resources use them in
    /// turn.
    pub configs: usize,
    /// True: all configs share one block and one service account token, and each resource names its
    /// config itself.
    pub one_token: bool,
    /// True: the resources name a work pool.
    pub has_pool: bool,
    /// True: Prefect is the real server instead of the stand-in.
    pub real_prefect: bool,
    /// The number of secrets of a config.
    pub keys: usize,
    /// The delay of the stand-ins before each response.
    pub delay: Duration,
}

impl Workload {
    /// A small run on one config, without a work pool.
    #[must_use]
    pub fn small(sizes: &Sizes) -> Self {
        Self {
            bindings: sizes.small,
            configs: 1,
            one_token: false,
            has_pool: false,
            real_prefect: false,
            keys: sizes.keys,
            delay: sizes.delay,
        }
    }

    /// The number of blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        if self.one_token { 1 } else { self.configs }
    }

    /// The block that resource `index` names.
    #[must_use]
    pub fn block_of(&self, index: usize) -> String {
        block(if self.one_token {
            0
        } else {
            self.config_number(index)
        })
    }

    /// The config of resource `index`.
    #[must_use]
    pub fn config_of(&self, index: usize) -> String {
        config(self.config_number(index))
    }

    /// The config that resource `index` names itself, because its block is shared.
    #[must_use]
    pub fn config_override(&self, index: usize) -> Option<String> {
        self.one_token.then(|| self.config_of(index))
    }

    /// The work pool that the resources name.
    #[must_use]
    pub fn pool(&self) -> Option<&'static str> {
        self.has_pool.then_some(POOL)
    }

    fn config_number(&self, index: usize) -> usize {
        index % self.configs.max(1)
    }
}

/// The secrets of a config. `generation` distinguishes one content from the next.
#[must_use]
pub fn secrets(keys: usize, generation: &str) -> BTreeMap<String, String> {
    let pair = |number| {
        (
            format!("KEY_{number:02}"),
            format!("value-{number:02}-{generation:->24}"),
        )
    };
    (0..keys).map(pair).collect()
}

/// The name of config `number`.
#[must_use]
pub fn config(number: usize) -> String {
    format!("c{number:05}")
}

/// The name of block `number`.
#[must_use]
pub fn block(number: usize) -> String {
    format!("doppler-config-{number:05}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_use_the_configs_in_turn() {
        let workload = Workload {
            configs: 2,
            ..Workload::small(&Sizes::SHORT)
        };
        assert_eq!(workload.config_of(3), config(1));
        assert_eq!(workload.block_of(3), block(1));
        assert_eq!(workload.config_override(3), None);
    }

    #[test]
    fn one_token_means_one_block_and_named_configs() {
        let workload = Workload {
            configs: 2,
            one_token: true,
            ..Workload::small(&Sizes::SHORT)
        };
        assert_eq!((workload.blocks(), workload.block_of(3)), (1, block(0)));
        assert_eq!(workload.config_override(3), Some(config(1)));
    }
}

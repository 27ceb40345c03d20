//! How large the runs are, and how long a figure observes what has no end.
//!
//! Input: the full or the short form. Output: `Sizes`.
//! Invariants: pure; the results in docs/benchmarks come from `Sizes::FULL`.

use std::time::Duration;

/// The sizes of all runs.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bindings of a small run.
    pub small: usize,
    /// Bindings of a large run.
    pub large: usize,
    /// Configs of the large run on many configs.
    pub configs: usize,
    /// Secrets of a config.
    pub keys: usize,
    /// The delay of the stand-ins before each response.
    pub delay: Duration,
    /// Bindings and configs of the run under a rate limit.
    pub limited: usize,
    /// The rate limit: reads of secrets in a window.
    pub rate: u32,
    /// The length of a window of the rate limit.
    pub window: Duration,
    /// The operator's poll interval where a figure counts polls or waits for them.
    pub refresh: Duration,
    /// How long an operator at rest is observed.
    pub rest: Duration,
    /// Changes of a config with one binding.
    pub changes: usize,
    /// Changes of a block.
    pub block_changes: usize,
    /// Changes of a config with many bindings.
    pub many_changes: usize,
    /// Flow runs that start right after a change.
    pub flow_runs: usize,
    /// How long flow runs start at a rate of 100 a minute.
    pub flow_run_load: Duration,
    /// Bindings of each run that calibrates the floor.
    pub calibration: usize,
    /// The concurrencies that the calibration tries.
    pub concurrencies: &'static [usize],
}

impl Sizes {
    /// The sizes of the published results.
    pub const FULL: Self = Self {
        small: 1_000,
        large: 10_000,
        configs: 1_000,
        keys: 20,
        delay: Duration::from_millis(20),
        limited: 500,
        rate: 120,
        window: Duration::from_mins(1),
        refresh: Duration::from_mins(1),
        rest: Duration::from_mins(5),
        changes: 200,
        block_changes: 40,
        many_changes: 9,
        flow_runs: 50,
        flow_run_load: Duration::from_mins(1),
        calibration: 300,
        concurrencies: &[1, 4, 8, 16, 32, 64],
    };
    /// The sizes of the short form, which runs in continuous integration.
    pub const SHORT: Self = Self {
        small: 100,
        large: 100,
        configs: 10,
        keys: 20,
        delay: Duration::from_millis(20),
        limited: 20,
        rate: 8,
        window: Duration::from_secs(2),
        refresh: Duration::from_secs(1),
        rest: Duration::from_secs(4),
        changes: 10,
        block_changes: 4,
        many_changes: 1,
        flow_runs: 3,
        flow_run_load: Duration::from_secs(6),
        calibration: 20,
        concurrencies: &[8],
    };
}

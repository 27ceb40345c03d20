//! The command line of `cargo faults`.
//!
//! Input: arguments. Output: [`Options`].
//! Invariants: without arguments, as from `cargo test`, the short form is played.

use clap::Parser;

/// Plays faults on the operator with real servers, and prints what it saw.
#[derive(Clone, Debug, Parser)]
#[allow(clippy::struct_excessive_bools)] // each is a flag
#[command(name = "cargo faults", bin_name = "cargo faults", max_term_width = 120)]
pub struct Options {
    /// Play the whole table, and write docs/reliability.md.
    #[arg(long)]
    pub full: bool,
    /// Play only faults whose group or name contains one of these texts. Nothing is written.
    #[arg(value_name = "TEXT")]
    pub filters: Vec<String>,
    /// List the faults.
    #[arg(long)]
    pub list: bool,
    /// Number of faults that are played side by side.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub parallel: usize,
    /// Play random changes and faults instead of the table, then check that everything is as desired.
    #[arg(long, conflicts_with_all = ["full", "filters", "list"])]
    pub random: bool,
    /// The seed of the random run. The same seed plays the same steps.
    #[arg(long, default_value_t = 1, value_name = "N", requires = "random")]
    pub seed: u64,
    /// The minutes of the random run before the checks.
    #[arg(long, default_value_t = 2, value_name = "MINUTES", requires = "random")]
    pub minutes: u64,
    /// Arguments of the test harness that `cargo test` passes on; ignored.
    #[arg(long, hide = true)]
    pub nocapture: bool,
}

//! The flags of flow runs.
//!
//! Input: the command line and the environment. Output: typed values.
//! Invariants: parsing has no side effects.

use clap::{ArgAction, Args};

/// Flags of flow runs.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Flow runs")]
pub struct RunsArgs {
    /// Send the Prefect server an event `doppler-prefect.values-injected` for each flow run that got
    /// the Secret of a binding, with the names of binding and Secret and the content hash. The page
    /// of the run shows it.
    #[arg(
        long,
        env = "RUN_EVENTS",
        default_value_t = true,
        action = ArgAction::Set,
        value_name = "true|false"
    )]
    pub run_events: bool,
    /// Watch the pods of flow runs in the namespaces that are watched for bindings, and report those
    /// that do not start because of a Secret that the operator manages. Needs the permission to list
    /// and watch pods.
    #[arg(long, env = "WATCH_RUN_PODS")]
    pub watch_run_pods: bool,
}

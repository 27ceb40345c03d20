//! The flags of `ClusterPrefectServer`s.
//!
//! Input: the command line and the environment. Output: typed values.
//! Invariants: parsing has no side effects.

use clap::Args;

/// Flags of `ClusterPrefectServer`s.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "ClusterPrefectServers")]
pub struct ClusterServerArgs {
    /// Read `ClusterPrefectServer`s, so that bindings can name one in `spec.prefect.serverRef`. Needs the
    /// permission to list and watch them and to patch their status, to read the Secrets that they name,
    /// and to list and watch namespaces if one selects namespaces by label.
    #[arg(long, env = "CLUSTER_SERVERS")]
    pub cluster_servers: bool,
    /// The `ClusterPrefectServer` of bindings whose `spec.prefect` has neither `server` nor `serverRef`.
    /// Default: none.
    #[arg(
        long,
        env = "DEFAULT_PREFECT_SERVER",
        requires = "cluster_servers",
        value_name = "NAME"
    )]
    pub default_prefect_server: Option<String>,
}

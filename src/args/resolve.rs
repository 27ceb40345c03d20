//! The flags of subcommands that resolve a binding outside the operator.
//!
//! Input: the command line and the environment. Output: typed values.
//! Invariants: parsing has no side effects.

use std::time::Duration;

use clap::Args;

use super::{BlockOverrides, durations::duration};

/// How a binding is resolved with the permissions of the user.
#[derive(Clone, Debug, Args)]
pub struct ResolveArgs {
    /// Use this address of the Prefect server, for a machine that cannot reach the cluster's
    /// network.
    #[arg(long, value_name = "URL")]
    pub prefect_api_url: Option<String>,
    /// Namespace of the operator. Its Deployment there has the settings by which bindings are
    /// judged. If you may not read it, a host that is not allowed by default is a note.
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "doppler-prefect-operator",
        value_name = "NAMESPACE"
    )]
    pub operator_namespace: String,
    /// Timeout of one request to Prefect.
    #[arg(long, env = "PREFECT_TIMEOUT", default_value = "15s", value_parser = duration, value_name = "DURATION")]
    pub prefect_timeout: Duration,
    /// Timeout of one request to Doppler.
    #[arg(long, env = "DOPPLER_TIMEOUT", default_value = "15s", value_parser = duration, value_name = "DURATION")]
    pub doppler_timeout: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settings: OperatorSettingArgs,
}

/// The operator's settings by which `check` judges.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Settings of the operator (default: those of its Deployment)")]
pub struct OperatorSettingArgs {
    /// Hosts that a binding may name as Doppler's API, as for `run`.
    #[arg(
        long = "allowed-doppler-host",
        env = "ALLOWED_DOPPLER_HOST",
        value_delimiter = ',',
        value_name = "HOST"
    )]
    pub allowed_doppler_hosts: Option<Vec<String>>,
    /// Hosts that a binding may name in `remoteApiUrl`, as for `run`.
    #[arg(
        long = "allowed-prefect-host",
        env = "ALLOWED_PREFECT_HOST",
        value_delimiter = ',',
        value_name = "HOST"
    )]
    pub allowed_prefect_hosts: Option<Vec<String>>,
    /// Services that a binding may name as its Prefect server, as for `run`.
    #[arg(
        long = "allowed-prefect-service",
        env = "ALLOWED_PREFECT_SERVICE",
        value_delimiter = ',',
        value_name = "NAMESPACE/NAME"
    )]
    pub allowed_prefect_services: Option<Vec<String>>,
    /// Names that no Secret may have as a key, as for `run`.
    #[arg(
        long = "forbidden-name",
        env = "FORBIDDEN_NAME",
        value_delimiter = ',',
        value_name = "GLOB"
    )]
    pub forbidden_names: Option<Vec<String>>,
    /// Whether a binding may override the project and config of a block, as for `run`.
    #[arg(long, env = "BLOCK_OVERRIDES")]
    pub block_overrides: Option<BlockOverrides>,
    /// The `ClusterPrefectServer` of bindings that name no server, as for `run`.
    #[arg(long, env = "DEFAULT_PREFECT_SERVER", value_name = "NAME")]
    pub default_prefect_server: Option<String>,
    /// Whether a binding may adopt a Secret that does not name it, as for `run`.
    #[arg(
        long,
        env = "ADOPT_WITHOUT_CONSENT",
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub adopt_without_consent: Option<bool>,
}

//! The settings that the flags set, grouped by the part that uses them.
//!
//! Input: the parsed flags.
//! Output: plain values, with their units in the type.
//! Invariants: pure. `args` has checked every range; only patterns are parsed here.

use std::time::Duration;

use crate::{
    args::{BlockOverrides, RunArgs},
    outbound::{AllowedHosts, AllowedServers, PatternError},
    secret::{ForbiddenNames, InvalidForbiddenName},
};

/// The maximum number of event sockets. Each is one connection.
const MAX_SOCKETS: usize = 256;

/// The waits and limits of the controller.
#[derive(Clone, Copy, Debug)]
pub struct ControllerSettings {
    /// Poll interval of bindings that set none.
    pub refresh_interval: Duration,
    /// For how long a failing upstream leaves a binding Ready.
    pub stale_after: Duration,
    /// How long a Secret outlives its pool entry.
    pub release_wait: Duration,
    /// How long a deleted binding waits for Prefect.
    pub release_timeout: Duration,
    /// Time limit of a step at the API server.
    pub kubernetes_timeout: Duration,
    /// Whether a binding may adopt a Secret that does not name it.
    pub adopt_without_consent: bool,
}

/// The time limits and bounds of requests to Prefect and Doppler.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamSettings {
    /// Time limit of a request to Prefect.
    pub prefect_timeout: Duration,
    /// Time limit of a request to Doppler.
    pub doppler_timeout: Duration,
    /// Requests a minute for each account of Prefect Cloud.
    pub prefect_account_budget: u32,
    /// The maximum number of watch streams to Doppler.
    pub max_streams: usize,
    /// The maximum number of event sockets of Prefect servers.
    pub max_sockets: usize,
    /// Shortest poll interval while an event socket is connected.
    pub pushed_refresh_interval: Duration,
    /// Whether Prefect servers get an event for each flow run that got a Secret.
    pub sends_run_events: bool,
}

/// A flag is not a valid pattern.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Invalid `--allowed-prefect-host`, `--allowed-prefect-service` or `--allowed-doppler-host`.
    #[error(transparent)]
    Hosts(#[from] PatternError),
    /// Invalid `--forbidden-name`.
    #[error(transparent)]
    ForbiddenName(#[from] InvalidForbiddenName),
}

/// Everything that the flags set for the replica that leads.
#[derive(Clone, Debug)]
pub struct ManagerSettings {
    /// Waits and limits of the controller.
    pub controller: ControllerSettings,
    /// Time limits and bounds of upstreams.
    pub upstream: UpstreamSettings,
    /// Namespaces whose bindings the operator serves. Empty: all.
    pub watch_namespaces: Vec<String>,
    /// Whether the operator reads `ClusterPrefectServer`s.
    pub cluster_servers: bool,
    /// The `ClusterPrefectServer` of bindings that name no server.
    pub default_prefect_server: Option<String>,
    /// Whether the operator watches the pods of flow runs.
    pub watch_run_pods: bool,
    /// Whether each binding has series of its own.
    pub metrics_per_binding: bool,
    /// Further namespaces with `PrefectWorkPool`s.
    pub prefect_namespaces: Vec<String>,
    /// Namespace of the operator itself.
    pub operator_namespace: String,
    /// The maximum number of reconciles at the same time.
    pub concurrency: u16,
    /// Prefect servers that bindings may name.
    pub prefect_servers: AllowedServers,
    /// Hosts that bindings may name as Doppler's API.
    pub doppler_hosts: AllowedHosts,
    /// Whether bindings may use a block's token for another config.
    pub block_overrides: BlockOverrides,
    /// Names that no Secret may have as a key.
    pub forbidden_names: ForbiddenNames,
}

impl ManagerSettings {
    /// The settings that the flags of `run` set.
    ///
    /// # Errors
    /// If an `--allowed-prefect-host`, `--allowed-prefect-service`, `--allowed-doppler-host` or
    /// `--forbidden-name` is not a valid pattern.
    pub fn new(args: &RunArgs) -> Result<Self, SettingsError> {
        let upstream = &args.upstream;
        let prefect_hosts = &upstream.allowed_prefect_hosts;
        let doppler_hosts = &upstream.allowed_doppler_hosts;
        Ok(Self {
            controller: ControllerSettings {
                refresh_interval: args.refresh_interval,
                stale_after: args.stale_after,
                release_wait: args.release_wait,
                release_timeout: args.release_timeout,
                kubernetes_timeout: args.kubernetes_timeout,
                adopt_without_consent: args.secret.adopt_without_consent,
            },
            upstream: UpstreamSettings {
                prefect_timeout: upstream.prefect_timeout,
                doppler_timeout: upstream.doppler_timeout,
                prefect_account_budget: args.prefect_account_budget,
                max_streams: args.max_streams.into(),
                max_sockets: MAX_SOCKETS,
                pushed_refresh_interval: args.pushed_refresh_interval,
                sends_run_events: args.runs.run_events,
            },
            watch_namespaces: args.watch_namespaces.clone(),
            cluster_servers: args.servers.cluster_servers,
            default_prefect_server: args.servers.default_prefect_server.clone(),
            watch_run_pods: args.runs.watch_run_pods,
            metrics_per_binding: args.metrics.metrics_per_binding,
            prefect_namespaces: args.prefect_namespaces.clone(),
            operator_namespace: args.operator_namespace.clone(),
            concurrency: args.concurrency,
            prefect_servers: AllowedServers::parse(
                prefect_hosts,
                &upstream.allowed_prefect_services,
            )?,
            doppler_hosts: AllowedHosts::parse("--allowed-doppler-host", doppler_hosts)?,
            block_overrides: upstream.block_overrides,
            forbidden_names: ForbiddenNames::parse(&args.secret.forbidden_names)?,
        })
    }
}

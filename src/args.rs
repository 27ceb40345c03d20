//! The flags of each subcommand and their environment variables.
//!
//! The HTTP and Kubernetes clients read `HTTPS_PROXY`, `NO_PROXY` and `KUBECONFIG` themselves.
//!
//! Input: the command line and the environment. Output: typed values.
//! Invariants: parsing has no side effects; a value out of range is an error here, not later.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

mod check;
mod command_line;
mod durations;
mod environment;
mod metrics;
mod probe;
mod refresh;
mod resolve;
mod runs;
mod servers;

pub use check::{CheckArgs, CheckOutput, PatchForm};
pub use command_line::{CompletionArgs, ManArgs};
use durations::{duration, duration_or_zero, interval};
pub use environment::{EnvironmentArgs, EnvironmentFormat};
pub use metrics::MetricsArgs;
pub use probe::ProbeArgs;
pub use refresh::RefreshArgs;
pub use resolve::{OperatorSettingArgs, ResolveArgs};
pub use runs::RunsArgs;
pub use servers::ClusterServerArgs;

/// Brings Doppler secrets into the flow runs of Prefect's Kubernetes work pools.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the controller.
    Run(Box<RunArgs>),
    /// Print the CRD of a kind as YAML.
    Crd(CrdArgs),
    /// Print the reference of all fields as Markdown.
    Api,
    /// Print the manual of reasons as Markdown.
    Reasons,
    /// Report what the operator would do for the bindings in files, with the permissions of your
    /// own kubeconfig. Writes nothing and never prints a secret value.
    Check(Box<CheckArgs>),
    /// Print the values that a flow run would have from a binding, or run a command with them, with the
    /// permissions of your own kubeconfig. Writes nothing.
    #[command(name = "env")]
    Environment(Box<EnvironmentArgs>),
    /// Make the operator read the block and the config of a binding now, and wait until the Secret
    /// holds what it read. Exit code: 0 if it does, 3 if it does not in time, 1 if the request cannot
    /// be made.
    Refresh(RefreshArgs),
    /// Remove the operator's entries from all work pools and its finalizers from all bindings. Run
    /// it before you uninstall the operator.
    Detach(Box<DetachArgs>),
    /// Request a URL until a server answers: exit code 0 if it does. The chart's test runs this.
    Probe(ProbeArgs),
    /// Print the script with which a shell completes the command line.
    Completion(CompletionArgs),
    /// Write man pages to a directory.
    Man(ManArgs),
}

/// Flags of `crd`.
#[derive(Clone, Copy, Debug, Args)]
pub struct CrdArgs {
    /// The kind, by its plural.
    #[arg(default_value = "dopplerprefectbindings", value_name = "KIND")]
    pub kind: CrdKind,
}

/// The kinds of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CrdKind {
    /// `DopplerPrefectBinding`.
    Dopplerprefectbindings,
    /// `ClusterPrefectServer`.
    Clusterprefectservers,
}

/// Flags of the connections to Prefect and Doppler.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Prefect and Doppler")]
pub struct UpstreamArgs {
    /// Glob patterns of hosts that a binding may name as Doppler's API. Write `http://` before a
    /// pattern to allow plain HTTP. Repeat the flag or separate patterns by commas.
    #[arg(
        long = "allowed-doppler-host",
        env = "ALLOWED_DOPPLER_HOST",
        value_delimiter = ',',
        default_value = "api.doppler.com",
        value_name = "HOST"
    )]
    pub allowed_doppler_hosts: Vec<String>,
    /// Glob patterns of hosts that a binding may name in `remoteApiUrl`. Write `http://` before a
    /// pattern to allow plain HTTP. Repeat the flag or separate patterns by commas.
    #[arg(
        long = "allowed-prefect-host",
        env = "ALLOWED_PREFECT_HOST",
        value_delimiter = ',',
        default_value = "api.prefect.cloud",
        value_name = "HOST"
    )]
    pub allowed_prefect_hosts: Vec<String>,
    /// Glob patterns NAMESPACE/NAME of Services in this cluster that a binding may name in `name`
    /// and `namespace` as its Prefect server. The namespace `.` is that of the binding. Repeat the
    /// flag or separate patterns by commas. An empty value allows none.
    #[arg(
        long = "allowed-prefect-service",
        env = "ALLOWED_PREFECT_SERVICE",
        value_delimiter = ',',
        default_value = "./*,prefect/prefect-server",
        value_name = "NAMESPACE/NAME"
    )]
    pub allowed_prefect_services: Vec<String>,
    /// Whether a binding may use the token of a block for another project or config than the block
    /// names.
    #[arg(long, env = "BLOCK_OVERRIDES", default_value = "allow")]
    pub block_overrides: BlockOverrides,
    /// Timeout of one request to Prefect.
    #[arg(long, env = "PREFECT_TIMEOUT", default_value = "15s", value_parser = duration, value_name = "DURATION")]
    pub prefect_timeout: Duration,
    /// Timeout of one request to Doppler.
    #[arg(long, env = "DOPPLER_TIMEOUT", default_value = "15s", value_parser = duration, value_name = "DURATION")]
    pub doppler_timeout: Duration,
}

/// Whether `spec.doppler.project` and `config` may override those of a block whose token is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BlockOverrides {
    /// They may.
    #[default]
    Allow,
    /// They must equal those of the block, unless the binding brings its own token.
    Deny,
}

/// Flags of the Secrets that the operator writes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Secrets")]
pub struct SecretArgs {
    /// Glob patterns of names that no Secret may have as a key, such as `LD_*`, whatever a binding
    /// has in `allowReservedNames`. Repeat the flag or separate patterns by commas. Default: none.
    #[arg(
        long = "forbidden-name",
        env = "FORBIDDEN_NAME",
        value_delimiter = ',',
        value_name = "GLOB"
    )]
    pub forbidden_names: Vec<String>,
    /// Let a binding with `adopt: true` adopt a Secret that does not name the binding in its
    /// annotation `doppler-prefect.dev/adopt`. Then every author of a binding can replace the values
    /// of every Secret of the namespace that no controller owns.
    #[arg(long, env = "ADOPT_WITHOUT_CONSENT")]
    pub adopt_without_consent: bool,
}

/// Flags of the webhook receiver.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Webhook")]
pub struct WebhookArgs {
    /// Directory with the signing secrets of Doppler's webhooks, one secret per file. All of them
    /// are valid at the same time. A file `PROJECT` or `PROJECT.anything` is valid for that Doppler
    /// project, `_all` or `_all.anything` for all projects. Default: none, and the operator
    /// receives no webhooks.
    #[arg(long, env = "WEBHOOK_SECRETS", value_name = "DIR")]
    pub webhook_secrets: Option<PathBuf>,
    /// Address of `POST /webhooks/doppler` and `POST /webhooks/refresh/NAMESPACE/NAME`. The operator
    /// listens there only if `--webhook-secrets` is set.
    #[arg(
        long,
        env = "WEBHOOK_ADDRESS",
        default_value = "0.0.0.0:8082",
        value_name = "ADDRESS:PORT"
    )]
    pub webhook_address: SocketAddr,
}

/// Flags of leader election.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Leader election")]
pub struct ElectionArgs {
    /// Work only while this replica holds a Lease in the operator's namespace, so that one of
    /// several replicas works and the others are on standby. The Lease is valid for 15 s and is
    /// renewed every 5 s.
    #[arg(long, env = "LEADER_ELECTION")]
    pub leader_election: bool,
    /// Name of the Lease.
    #[arg(
        long,
        env = "LEASE_NAME",
        default_value = "doppler-prefect-operator",
        value_name = "NAME"
    )]
    pub lease_name: String,
    /// Name of this replica. The Lease shows it with a random suffix.
    #[arg(
        long,
        env = "POD_NAME",
        default_value = "doppler-prefect-operator",
        value_name = "NAME"
    )]
    pub pod_name: String,
    /// IP address of this replica. The other replicas forward webhooks to it while it is the
    /// leader.
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pub pod_ip: Option<IpAddr>,
}

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Namespaces to watch for bindings. Repeat the flag or separate namespaces by commas. Default:
    /// all namespaces.
    #[arg(
        long = "watch-namespace",
        env = "WATCH_NAMESPACE",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    pub watch_namespaces: Vec<String>,
    /// Further namespaces to watch for `PrefectWorkPool`s of prefect-operator, in addition to those
    /// that are watched for bindings. Repeat the flag or separate namespaces by commas.
    #[arg(
        long = "prefect-namespace",
        env = "PREFECT_NAMESPACE",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    pub prefect_namespaces: Vec<String>,
    /// Namespace of the operator itself. It contains the Secret with the key of the content hashes
    /// and the Lease.
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "doppler-prefect-operator",
        value_name = "NAMESPACE"
    )]
    pub operator_namespace: String,
    /// Number of bindings that are reconciled at the same time. The operator sends at most 64
    /// requests to the API server at once, whatever this number is; it is fastest with about the
    /// default.
    #[arg(long, env = "CONCURRENCY", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Interval between two reads of a block or a work pool while the Prefect server sends change
    /// notifications, if it is longer than the refresh interval.
    #[arg(long, env = "PUSHED_REFRESH_INTERVAL", default_value = "10m", value_parser = interval, value_name = "DURATION")]
    pub pushed_refresh_interval: Duration,
    /// Maximum number of watch streams to Doppler. Each config, token and host needs one. The
    /// operator polls further configs. 0 opens no stream.
    #[arg(long, env = "MAX_STREAMS", default_value_t = 256, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub max_streams: u16,
    /// Requests per minute to Prefect Cloud for each account. Prefect Cloud counts the requests of
    /// all users of an account together.
    #[arg(long, env = "PREFECT_ACCOUNT_BUDGET", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub prefect_account_budget: u32,
    /// Interval between two reads of a block, a config or a work pool, with a jitter of 10 %. A
    /// binding can set its own `refreshInterval`.
    #[arg(long, env = "REFRESH_INTERVAL", default_value = "60s", value_parser = interval, value_name = "DURATION")]
    pub refresh_interval: Duration,
    /// How long a binding with good values stays Ready during a temporary failure of Prefect or
    /// Doppler. The operator waits for at least two refresh intervals.
    #[arg(long, env = "STALE_AFTER", default_value = "5m", value_parser = duration, value_name = "DURATION")]
    pub stale_after: Duration,
    /// How long a Secret outlives its entry in a work pool. Workers reload the template only at
    /// each heartbeat, and Jobs that exist already name the Secret.
    #[arg(long, env = "RELEASE_WAIT", default_value = "90s", value_parser = duration_or_zero, value_name = "DURATION")]
    pub release_wait: Duration,
    /// How long a deleted binding waits for a Prefect server that does not respond, and a variable of
    /// a pool offers a given-up Secret to deployments that choose it, from the first attempt of this
    /// process. After that the operator keeps the Secret of the former, and removes the latter.
    #[arg(long, env = "RELEASE_TIMEOUT", default_value = "10m", value_parser = duration, value_name = "DURATION")]
    pub release_timeout: Duration,
    /// Timeout of one step at the API server.
    #[arg(long, env = "KUBERNETES_TIMEOUT", default_value = "20s", value_parser = duration, value_name = "DURATION")]
    pub kubernetes_timeout: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub upstream: UpstreamArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub secret: SecretArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub webhook: WebhookArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub election: ElectionArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub metrics: MetricsArgs,
    /// Flow runs.
    #[command(flatten)]
    pub runs: RunsArgs,
    /// `ClusterPrefectServer`s.
    #[command(flatten)]
    pub servers: ClusterServerArgs,
    /// Address of `/healthz` and `/readyz`.
    #[arg(
        long,
        env = "HEALTH_ADDRESS",
        default_value = "0.0.0.0:8081",
        value_name = "ADDRESS:PORT"
    )]
    pub health_address: SocketAddr,
    /// Format of the log.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Which log lines are written, for example `info` or `warn,doppler_prefect_operator=debug`.
    #[arg(
        long,
        env = "LOG_FILTER",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log_filter: String,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain lines of text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Flags of `detach`.
#[derive(Clone, Debug, Args)]
pub struct DetachArgs {
    /// Keep the Secrets without an owner reference, so that pods that use them keep running.
    #[arg(long)]
    pub keep_secrets: bool,
    /// Namespaces whose bindings are detached. Repeat the flag or separate namespaces by commas.
    /// Default: all namespaces.
    #[arg(
        long = "watch-namespace",
        env = "WATCH_NAMESPACE",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    pub watch_namespaces: Vec<String>,
    /// Deployment of the operator. It is scaled to zero first, so that the operator does not add
    /// the entries again. Default: none.
    #[arg(long, env = "DETACH_SCALE_DOWN", value_name = "DEPLOYMENT")]
    pub scale_down: Option<String>,
    /// Namespace of the operator itself.
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "doppler-prefect-operator",
        value_name = "NAMESPACE"
    )]
    pub operator_namespace: String,
    /// Lease of the operator's replicas. It is acquired before anything is removed, so that a
    /// replica that is still shutting down does not add the entries again. Default: none.
    #[arg(long, env = "LEASE_NAME", value_name = "NAME")]
    pub lease_name: Option<String>,
    /// How long to retry work pools that cannot be reached. After that the finalizers of their
    /// bindings are removed without cleaning the pools.
    #[arg(long, env = "DETACH_TIMEOUT", default_value = "2m", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub upstream: UpstreamArgs,
}

#[cfg(test)]
mod tests;

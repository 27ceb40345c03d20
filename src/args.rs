//! Every flag and its environment variable. `HTTPS_PROXY`, `NO_PROXY` and `KUBECONFIG` are read by the HTTP and Kubernetes clients themselves.
//!
//! In: the command line. Out: typed values. Nothing here is acted upon.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Print the CRD as YAML.
    Crd,
    /// Print the manual of reasons as Markdown.
    Reasons,
    /// Say what would happen for the bindings in files, from your own kubeconfig. Writes nothing, and never prints a value.
    Check(Box<CheckArgs>),
    /// Take the operator's entries out of all work pools and drop its finalizers, before it is uninstalled.
    #[command(name = "release")]
    Detach(Box<DetachArgs>),
}

/// Flags of the way to Prefect and Doppler.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Prefect and Doppler")]
pub struct UpstreamArgs {
    /// Hosts that bindings may name as Doppler's API (globs; with `http://` before it, plain HTTP to it is allowed). Repeat or separate by commas.
    #[arg(
        long = "allowed-doppler-host",
        env = "ALLOWED_DOPPLER_HOST",
        value_delimiter = ',',
        default_value = "api.doppler.com",
        value_name = "HOST"
    )]
    pub allowed_doppler_hosts: Vec<String>,
    /// Hosts that bindings may name by `remoteApiUrl` (globs; with `http://` before it, plain HTTP to it is allowed). Servers in the cluster, by
    /// `name`, are always allowed. Repeat or separate by commas.
    #[arg(
        long = "allowed-prefect-host",
        env = "ALLOWED_PREFECT_HOST",
        value_delimiter = ',',
        default_value = "api.prefect.cloud",
        value_name = "HOST"
    )]
    pub allowed_prefect_hosts: Vec<String>,
    /// Time limit of one request to Prefect.
    #[arg(long, env = "PREFECT_TIMEOUT", default_value = "15s", value_parser = duration, value_name = "DURATION")]
    pub prefect_timeout: Duration,
    /// Time limit of one request to Doppler.
    #[arg(long, env = "DOPPLER_TIMEOUT", default_value = "15s", value_parser = duration, value_name = "DURATION")]
    pub doppler_timeout: Duration,
}

/// Flags of signed hooks.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Hooks")]
pub struct WebhookArgs {
    /// Folder with the secrets that Doppler's webhooks are signed with, one a file, all valid at once. A file `PROJECT` or `PROJECT.anything` speaks
    /// for that Doppler project, `_all` or `_all.anything` for all. Default: none, and no hooks are taken.
    #[arg(long = "hook-secrets", env = "HOOK_SECRETS", value_name = "DIR")]
    pub webhook_secrets: Option<PathBuf>,
    /// Address of `POST /hooks/doppler`. Without `--hook-secrets` nothing listens there.
    #[arg(
        long = "hooks-address",
        env = "HOOKS_ADDRESS",
        default_value = "0.0.0.0:8082",
        value_name = "ADDRESS:PORT"
    )]
    pub webhook_address: SocketAddr,
}

/// Flags of several replicas.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Several replicas")]
pub struct ElectionArgs {
    /// Only work while holding a Lease in the operator's namespace, so that of several replicas one does. Lasts 15 s, renewed every 5 s.
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
    /// Name of this replica, which the Lease shows with a random suffix.
    #[arg(
        long,
        env = "POD_NAME",
        default_value = "doppler-prefect-operator",
        value_name = "NAME"
    )]
    pub pod_name: String,
    /// Address of this replica, at which the others reach its port for hooks.
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pub pod_ip: Option<IpAddr>,
}

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Namespaces to watch for bindings. Repeat or separate by commas. Default: all.
    #[arg(
        long = "watch-namespace",
        env = "WATCH_NAMESPACE",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    pub watch_namespaces: Vec<String>,
    /// Further namespaces to watch for `PrefectWorkPool`s of prefect-operator, beside those watched for bindings. Repeat or separate by commas.
    #[arg(
        long = "prefect-namespace",
        env = "PREFECT_NAMESPACE",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    pub prefect_namespaces: Vec<String>,
    /// Namespace of the operator itself, where it keeps the key of its content hashes.
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "doppler-prefect-operator",
        value_name = "NAMESPACE"
    )]
    pub operator_namespace: String,
    /// How many bindings are reconciled at the same time. As many requests to the API server may be in flight, and it is fastest with about as many.
    #[arg(long, env = "CONCURRENCY", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// How often blocks and pools are read again while the Prefect server tells of their changes, if that is longer.
    #[arg(long, env = "PUSHED_REFRESH_INTERVAL", default_value = "10m", value_parser = interval, value_name = "DURATION")]
    pub pushed_refresh_interval: Duration,
    /// How many watch streams may be open to Doppler: one for each config, token and host. Configs beyond that are polled. 0 opens none.
    #[arg(long, env = "MAX_STREAMS", default_value_t = 256, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub max_streams: u16,
    /// Requests a minute to Prefect Cloud for each account, which counts all of its users' requests together.
    #[arg(long, env = "PREFECT_ACCOUNT_BUDGET", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub prefect_account_budget: u32,
    /// How often blocks, configs and pools are read again, unless a binding sets `refreshInterval`; jittered by 10 %.
    #[arg(long, env = "REFRESH_INTERVAL", default_value = "60s", value_parser = interval, value_name = "DURATION")]
    pub refresh_interval: Duration,
    /// For how long a binding with good values stays Ready while an upstream fails for a while; at least two intervals.
    #[arg(long, env = "STALE_AFTER", default_value = "5m", value_parser = duration, value_name = "DURATION")]
    pub stale_after: Duration,
    /// How long a Secret outlives its entry in a work pool: workers read a template again only at each heartbeat, and Jobs already made name it.
    #[arg(long, env = "RELEASE_WAIT", default_value = "90s", value_parser = duration_or_zero, value_name = "DURATION")]
    pub release_wait: Duration,
    /// How long a deleted binding waits for a Prefect server that does not answer, before it goes and leaves its Secret behind.
    #[arg(long, env = "RELEASE_TIMEOUT", default_value = "10m", value_parser = duration, value_name = "DURATION")]
    pub release_timeout: Duration,
    /// Time limit of one step at the API server.
    #[arg(long, env = "KUBERNETES_TIMEOUT", default_value = "20s", value_parser = duration, value_name = "DURATION")]
    pub kubernetes_timeout: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub upstream: UpstreamArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub webhook: WebhookArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub election: ElectionArgs,
    /// Address of `/metrics`.
    #[arg(
        long,
        env = "METRICS_ADDRESS",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS:PORT"
    )]
    pub metrics_address: SocketAddr,
    /// Address of `/healthz` and `/readyz`.
    #[arg(
        long,
        env = "HEALTH_ADDRESS",
        default_value = "0.0.0.0:8081",
        value_name = "ADDRESS:PORT"
    )]
    pub health_address: SocketAddr,
    /// Form of the log.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged, such as `info` or `warn,doppler_prefect_operator=debug`.
    #[arg(
        long,
        env = "LOG_FILTER",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log_filter: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Files with bindings; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Only validate; reach nothing.
    #[arg(long)]
    pub offline: bool,
    /// Use this address of the Prefect server, for a laptop that cannot reach the cluster's.
    #[arg(long, value_name = "URL")]
    pub prefect_api_url: Option<String>,
    /// Print the entry to paste where somebody else owns the pool's template.
    #[arg(long, value_name = "FORM")]
    pub print_patch: Option<PatchForm>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub upstream: UpstreamArgs,
}

/// Forms of the entry for other owners of a pool's template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PatchForm {
    /// JSON Patch of a base job template.
    Json,
    /// `spec.baseJobTemplate.patches` of prefect-operator's `PrefectWorkPool`.
    PrefectOperator,
    /// Terraform's `base_job_template`.
    Terraform,
    /// Values of the prefect-worker chart.
    Helm,
}

/// Flags of `release`.
#[derive(Clone, Debug, Args)]
pub struct DetachArgs {
    /// Leave the Secrets, no longer owned by their bindings, so that pods that use them go on.
    #[arg(long)]
    pub keep_secrets: bool,
    /// Namespaces to release. Repeat or separate by commas. Default: all.
    #[arg(
        long = "watch-namespace",
        env = "WATCH_NAMESPACE",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    pub watch_namespaces: Vec<String>,
    /// Deployment of the operator, scaled to zero first, so that it does not put back what is taken out. Default: none.
    #[arg(long, env = "RELEASE_SCALE_DOWN", value_name = "DEPLOYMENT")]
    pub scale_down: Option<String>,
    /// Namespace of the operator itself.
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "doppler-prefect-operator",
        value_name = "NAMESPACE"
    )]
    pub operator_namespace: String,
    /// Lease of the operator's replicas, taken before anything is done, so that none that is still ending puts back what is taken out. Default:
    /// none.
    #[arg(long, env = "LEASE_NAME", value_name = "NAME")]
    pub lease_name: Option<String>,
    /// How long to try before giving up on pools that cannot be reached; their finalizers are dropped all the same.
    #[arg(long, env = "RELEASE_TIMEOUT", default_value = "2m", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub upstream: UpstreamArgs,
}

/// A duration such as `90s`, `5m` or `1h30m`.
fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "write a duration such as 90s, 5m or 1h".to_owned())?;
    Duration::try_from(span).map_err(|_| "a duration cannot be negative".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    duration_or_zero(text).and_then(|span| {
        if span.is_zero() {
            Err("must be longer than zero".to_owned())
        } else {
            Ok(span)
        }
    })
}

fn interval(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|span| {
        if (Duration::from_secs(1)..=Duration::from_hours(24)).contains(&span) {
            Ok(span)
        } else {
            Err("must be from 1s to 24h".to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_match_the_manual() {
        let cli = Cli::parse_from(["doppler-prefect-operator", "run"]);
        let Command::Run(args) = cli.command else {
            panic!("not run")
        };
        assert_eq!(args.refresh_interval, Duration::from_mins(1));
        assert_eq!(args.stale_after, Duration::from_mins(5));
        assert_eq!(args.release_wait, Duration::from_secs(90));
        assert_eq!(args.upstream.allowed_doppler_hosts, ["api.doppler.com"]);
        assert!(args.watch_namespaces.is_empty());
        assert!(!args.election.leader_election);
        assert_eq!(args.webhook.webhook_secrets, None);
    }

    #[test]
    fn invalid_duration_says_what_to_write() {
        assert_eq!(interval("25h").unwrap_err(), "must be from 1s to 24h");
        assert_eq!(
            duration("soon").unwrap_err(),
            "write a duration such as 90s, 5m or 1h"
        );
        assert_eq!(duration("0s").unwrap_err(), "must be longer than zero");
        assert_eq!(duration("1h30m").unwrap(), Duration::from_mins(90));
    }
}

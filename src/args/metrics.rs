//! The flags of `/metrics`.
//!
//! Input: the command line and the environment. Output: typed values.
//! Invariants: parsing has no side effects.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

/// Flags of `/metrics`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Metrics")]
pub struct MetricsArgs {
    /// Address of `/metrics`.
    #[arg(
        long,
        env = "METRICS_ADDRESS",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS:PORT"
    )]
    pub metrics_address: SocketAddr,
    /// Directory with a certificate chain `tls.crt` and its key `tls.key` in PEM, as a Secret of
    /// type `kubernetes.io/tls` is mounted. `/metrics` is then served by https only. The files are
    /// read again when they change. Default: none, and `/metrics` is served by http.
    #[arg(long, env = "METRICS_TLS", value_name = "DIR")]
    pub metrics_tls: Option<PathBuf>,
    /// Serve `/metrics` only to clients whose bearer token the API server accepts (`TokenReview`)
    /// and that may `get` the non-resource URL `/metrics` (`SubjectAccessReview`). Needs
    /// `--metrics-tls`.
    #[arg(long, env = "METRICS_AUTHORIZATION")]
    pub metrics_authorization: bool,
    /// Serve two series for each binding, with its namespace and name: whether it is Ready, and how
    /// old its values are. At most 1,000 bindings have them; `doppler_prefect_binding_series_omitted`
    /// counts the others. Every client of `/metrics` then sees these names.
    #[arg(long, env = "METRICS_PER_BINDING")]
    pub metrics_per_binding: bool,
}

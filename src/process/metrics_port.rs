//! The port of `/metrics`: plain HTTP, TLS, or TLS with authorization.
//!
//! Input: the flags, the router of `/metrics`, and a client of the API server for reviews.
//! Output: the port and the router to serve.
//! Invariants: a client sends no bearer token over plain HTTP: authorization needs TLS.

use axum::Router;
use kube::Client;

use super::{
    certificate_dir::{CertificateDir, CertificateDirError},
    metrics_access::{Reviewer, authorized},
    serve::Port,
    server::{ListenError, listen},
};
use crate::args::MetricsArgs;

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsPortError {
    /// The address cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The directory has no usable certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateDirError),
    /// Authorization without TLS.
    #[error(
        "--metrics-authorization needs --metrics-tls, because clients would send their tokens in clear text: set both"
    )]
    AuthorizationWithoutTls,
}

/// Binds the address of metrics. With `reviews`, each request is authorized.
///
/// # Errors
/// If the address or the certificate cannot be used, or if there are reviews but no certificate.
pub async fn metrics_port(
    args: &MetricsArgs,
    router: Router,
    reviews: Option<Client>,
) -> Result<(Port, Router), MetricsPortError> {
    let certificate = match &args.metrics_tls {
        Some(dir) => Some(CertificateDir::open(dir.clone())?),
        None if reviews.is_some() => return Err(MetricsPortError::AuthorizationWithoutTls),
        None => None,
    };
    let router = match reviews {
        Some(client) => authorized(router, Reviewer::new(client)),
        None => router,
    };
    let listener = listen(args.metrics_address, "metrics").await?;
    Ok((Port::new(listener, certificate), router))
}

//! The HTTP servers: health and metrics.
//!
//! In: an address each, and the state they tell. Out: `/healthz`, `/readyz`, `/metrics`. They change nothing and tell no names of users' things.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::metrics::Metrics;

/// Set once everything that was there at the start has been seen, or while another replica leads.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Ready from now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// No longer ready: it has come to lead, and has not seen everything yet.
    pub fn unset(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Updates the gauges that are read at each scrape, once there is something to measure.
#[derive(Clone, Default)]
pub struct GaugeUpdater(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl GaugeUpdater {
    /// From now on each page of metrics is preceded by `refresh`. Only the first one counts.
    pub fn set(&self, refresh: Box<dyn Fn() + Send + Sync>) {
        let _ = self.0.set(refresh);
    }
}

/// An address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {what}: {source}")]
pub struct ListenError {
    address: SocketAddr,
    what: &'static str,
    source: std::io::Error,
}

/// Takes an address.
///
/// # Errors
/// If it is taken, or may not be taken.
pub async fn listen(address: SocketAddr, what: &'static str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError {
            address,
            what,
            source,
        })
}

/// `/healthz` and `/readyz`.
pub fn health(readiness: Readiness) -> Router {
    Router::new().route("/healthz", get(async || "ok")).route(
        "/readyz",
        get(async move || {
            if readiness.is_set() {
                (StatusCode::OK, "ok")
            } else {
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "not everything has been seen yet",
                )
            }
        }),
    )
}

/// `/metrics`.
pub fn metrics(metrics: Arc<Metrics>, refreshed: GaugeUpdater) -> Router {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Router::new().route(
        "/metrics",
        get(async move || {
            if let Some(refresh) = refreshed.0.get() {
                refresh();
            }
            ([(CONTENT_TYPE, OPEN_METRICS)], metrics.text()).into_response()
        }),
    )
}

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await;
    if let Err(error) = served {
        error!(%error, "a server ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(router: Router, path: &str) -> (u16, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        let task = tokio::spawn(serve(listener, router, end.clone()));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let answer = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .get(format!("http://{address}{path}"))
            .send()
            .await
            .unwrap();
        let result = (answer.status().as_u16(), answer.text().await.unwrap());
        end.cancel();
        task.await.unwrap();
        result
    }

    #[tokio::test]
    async fn ready_only_once_everything_has_been_seen() {
        let readiness = Readiness::default();
        assert_eq!(get(health(readiness.clone()), "/readyz").await.0, 503);
        assert_eq!(get(health(readiness.clone()), "/healthz").await.0, 200);
        readiness.set();
        assert_eq!(get(health(readiness.clone()), "/readyz").await.0, 200);
        readiness.unset();
        assert_eq!(get(health(readiness), "/readyz").await.0, 503);
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_text() {
        let (status, page) = get(
            metrics(Arc::new(Metrics::new()), GaugeUpdater::default()),
            "/metrics",
        )
        .await;
        assert_eq!(status, 200);
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}

//! The HTTP routers: health and metrics.
//!
//! Input: an address for each, the readiness and the metrics.
//! Output: `/healthz`, `/readyz`, `/metrics`.
//! Invariants: a request changes nothing. No response contains the name of a user's object.

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

use crate::metrics::Metrics;

/// Connections of the health address at the same time. Other addresses do not use them up.
pub const HEALTH_CONNECTIONS: usize = 8;
/// Connections of the metrics address at the same time.
pub const METRICS_CONNECTIONS: usize = 8;

/// Set once all existing objects are listed, or while this replica is on standby.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Ready from now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Not ready: this replica became the leader, and has not listed all objects yet.
    pub fn unset(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Updates gauges at each scrape, once this replica leads.
#[derive(Clone, Default)]
pub struct GaugeUpdater(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl GaugeUpdater {
    /// From now on `update` runs before each response of `/metrics`. Later calls have no effect.
    pub fn set(&self, update: Box<dyn Fn() + Send + Sync>) {
        let _ = self.0.set(update);
    }
}

/// An address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {purpose} ({source}): use another address or port")]
pub struct ListenError {
    address: SocketAddr,
    purpose: &'static str,
    source: std::io::Error,
}

/// Binds an address.
///
/// # Errors
/// If it is in use, or the process has no permission.
pub async fn listen(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError {
            address,
            purpose,
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
                    "not all objects are listed yet",
                )
            }
        }),
    )
}

/// `/metrics`.
pub fn metrics(metrics: Arc<Metrics>, gauge_updater: GaugeUpdater) -> Router {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Router::new().route(
        "/metrics",
        get(async move || {
            if let Some(update) = gauge_updater.0.get() {
                update();
            }
            ([(CONTENT_TYPE, OPEN_METRICS)], metrics.text()).into_response()
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::serve::serve;
    use tokio_util::sync::CancellationToken;

    async fn get(router: Router, path: &str) -> (u16, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        let task = tokio::spawn(serve(listener, router, METRICS_CONNECTIONS, end.clone()));
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
    async fn ready_only_once_all_objects_are_listed() {
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

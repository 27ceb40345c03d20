//! Serves the connections of the webhook address.
//!
//! Input: a listener, the router, and the signal to shut down.
//! Output: one answer for each connection.
//! Invariants: the number of connections and the duration of each are bounded. After the signal no
//! connection is accepted, and the open ones end within their time limit.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Time limit for the arrival of a request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of a connection, below the grace period of the process.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(18);
/// Connections at the same time. Further ones wait.
const MAX_CONNECTIONS: usize = 32;
/// The wait after a connection that could not be accepted.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, one request a connection.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let next = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&free).acquire_owned().await.ok()?;
            Some((listener.accept().await.ok()?.0, permit))
        };
        let next = tokio::select! {
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        match next {
            Some((stream, permit)) => {
                connections.spawn(serve_connection(stream, router.clone(), permit));
            }
            // For example because of too many open files.
            None => sleep(ACCEPT_RETRY_DELAY).await,
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(stream: TcpStream, router: Router, _permit: OwnedSemaphorePermit) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A failure concerns this connection only, which ends here.
    let _ = timeout(CONNECTION_TIMEOUT, connection).await;
}

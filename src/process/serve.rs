//! Serves the connections of one port. Health, metrics and webhooks each have their own.
//!
//! Input: a port, the router, the number of connections, and the signal to shut down.
//! Output: one answer for each connection.
//! Invariants: the number of connections, and the duration and the header of each, are bounded. A
//! TLS handshake counts as a part of the header. A connection without a whole request ends when
//! another one needs its place. Without a free file descriptor, one connection at a time is still
//! served. After the signal no connection is accepted, and the open ones end within their time
//! limit.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{certificate_dir::CertificateDir, spare_descriptor::SpareDescriptor};

/// Time limit for the arrival of a request's header, TLS handshake included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of a connection, below the grace period of the process.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(18);
/// The largest header, and the size of a connection's buffers. A larger header is answered 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// The wait after a connection that could not be accepted.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// How long a new connection keeps its place while others need it. A probe sends its request at
/// once, so that a flood of connections does not end it.
const REQUEST_GRACE: Duration = Duration::from_millis(20);
/// How long a connection may send its request after the signal to shut down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// A bound address, and the certificate of its TLS connections. Without one, it serves plain HTTP.
pub struct Port {
    listener: TcpListener,
    certificate: Option<CertificateDir>,
}

impl Port {
    /// A port whose connections use TLS if there is a certificate.
    pub fn new(listener: TcpListener, certificate: Option<CertificateDir>) -> Self {
        Self {
            listener,
            certificate,
        }
    }
}

impl From<TcpListener> for Port {
    fn from(listener: TcpListener) -> Self {
        Self::new(listener, None)
    }
}

/// Serves until `shutdown`, at most `max_connections` at the same time and one request each.
pub async fn serve(
    port: impl Into<Port>,
    router: Router,
    max_connections: usize,
    shutdown: CancellationToken,
) {
    let Port {
        listener,
        certificate,
    } = port.into();
    let free = Arc::new(Semaphore::new(max_connections));
    let waiting = Waiting::default();
    let connections = TaskTracker::new();
    let spare = SpareDescriptor::new();
    loop {
        let next = async {
            let stream = listener.accept().await.ok()?.0;
            Some((stream, acquire(&free, &waiting).await?))
        };
        let next = tokio::select! {
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        if let Some((stream, permit)) = next {
            let place = waiting.add();
            let (certificate, router) = (certificate.clone(), router.clone());
            let connection = serve_connection(stream, certificate, router, place, permit);
            let spare = spare.clone();
            connections.spawn(async move {
                connection.await;
                spare.refill();
            });
        } else if !spare.release() {
            // For example because of too many open files. Without a free descriptor, accepting fails
            // even if no client waits, so that the only open connection may be a probe that was
            // accepted just now.
            waiting.close_oldest(REQUEST_GRACE);
            sleep(ACCEPT_RETRY_DELAY).await;
        }
    }
    connections.close();
    if timeout(SHUTDOWN_GRACE, connections.wait()).await.is_err() {
        while waiting.close_oldest(Duration::ZERO) {}
        connections.wait().await;
    }
}

/// Waits for the place of a connection. Without a free one, the oldest connection ends that had the
/// time to send a whole request and did not. `None` never happens: the semaphore is never closed.
async fn acquire(free: &Arc<Semaphore>, waiting: &Waiting) -> Option<OwnedSemaphorePermit> {
    loop {
        let permit = Arc::clone(free).acquire_owned();
        let Some(oldest) = waiting.oldest() else {
            return permit.await.ok();
        };
        if let Ok(permit) = timeout_at(oldest + REQUEST_GRACE, permit).await {
            return permit.ok();
        }
        if waiting.close_oldest(REQUEST_GRACE) {
            return Arc::clone(free).acquire_owned().await.ok();
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    certificate: Option<CertificateDir>,
    router: Router,
    place: Place,
    _permit: OwnedSemaphorePermit,
) {
    let closed = place.closed.clone();
    let connection = async {
        let Some(certificate) = certificate else {
            return serve_request(stream, router, place, HEADER_TIMEOUT).await;
        };
        let since = Instant::now();
        let handshake = async {
            let acceptor = TlsAcceptor::from(certificate.current().await);
            acceptor.accept(stream).await
        };
        if let Ok(Ok(stream)) = timeout(HEADER_TIMEOUT, handshake).await {
            let rest = HEADER_TIMEOUT.saturating_sub(since.elapsed());
            serve_request(stream, router, place, rest).await;
        }
    };
    tokio::select! {
        () = closed.cancelled() => {}
        // A failure concerns this connection only, which ends here.
        _ = timeout(CONNECTION_TIMEOUT, connection) => {}
    }
}

/// Answers the one request of a connection, whose header must arrive within `header_timeout`.
async fn serve_request<S>(stream: S, router: Router, place: Place, header_timeout: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        place.remove();
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = connection.await;
}

/// The connections that have not sent a whole header yet, the oldest first.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<WaitingConnections>>);

#[derive(Default)]
struct WaitingConnections {
    next: u64,
    open: BTreeMap<u64, WaitingConnection>,
}

struct WaitingConnection {
    since: Instant,
    closed: CancellationToken,
}

impl Waiting {
    fn add(&self) -> Place {
        let closed = CancellationToken::new();
        let mut connections = self.0.lock();
        let number = connections.next;
        connections.next += 1;
        let connection = WaitingConnection {
            since: Instant::now(),
            closed: closed.clone(),
        };
        connections.open.insert(number, connection);
        drop(connections);
        Place {
            waiting: self.clone(),
            number,
            closed,
        }
    }

    /// Since when the oldest connection is open.
    fn oldest(&self) -> Option<Instant> {
        let connections = self.0.lock();
        let oldest = connections.open.first_key_value();
        oldest.map(|(_, connection)| connection.since)
    }

    /// Closes the oldest connection, if it is open for at least `age`. Returns whether it was.
    fn close_oldest(&self, age: Duration) -> bool {
        let mut connections = self.0.lock();
        let Some(oldest) = connections.open.first_entry() else {
            return false;
        };
        let close = oldest.get().since.elapsed() >= age;
        if close {
            oldest.remove().closed.cancel();
        }
        close
    }
}

/// One connection among the waiting ones, until its header is complete or it ends.
struct Place {
    waiting: Waiting,
    number: u64,
    closed: CancellationToken,
}

impl Place {
    fn remove(&self) {
        self.waiting.0.lock().open.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests;

//! Serves the connections of one port. Health, metrics and webhooks each have their own.
//!
//! Input: a listener, the router, the number of connections, and the signal to shut down.
//! Output: one answer for each connection.
//! Invariants: the number of connections, and the duration and the header of each, are bounded. A
//! connection without a whole request ends when another one needs its place. Without a free file
//! descriptor, one connection at a time is still served. After the signal no
//! connection is accepted, and the open ones end within their time limit.

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
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::spare_descriptor::SpareDescriptor;

/// Time limit for the arrival of a request's header.
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

/// Serves until `shutdown`, at most `max_connections` at the same time and one request each.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    shutdown: CancellationToken,
) {
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
            let connection = serve_connection(stream, router.clone(), place, permit);
            let spare = spare.clone();
            connections.spawn(async move {
                connection.await;
                spare.refill();
            });
        } else if !spare.release() {
            // For example because of too many open files.
            waiting.close_oldest(Duration::ZERO);
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
    router: Router,
    place: Place,
    _permit: OwnedSemaphorePermit,
) {
    let closed = place.closed.clone();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        place.remove();
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = closed.cancelled() => {}
        // A failure concerns this connection only, which ends here.
        _ = timeout(CONNECTION_TIMEOUT, connection) => {}
    }
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
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinSet,
    };

    const MAX_CONNECTIONS: usize = 8;
    /// Well below the time after which an idle connection ends by itself.
    const SOON: Duration = Duration::from_secs(2);

    async fn start() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let router = Router::new().route("/healthz", get(async || "ok"));
        let served = serve(listener, router, MAX_CONNECTIONS, shutdown.clone());
        (address, shutdown, tokio::spawn(served))
    }

    async fn answer_to(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.write_all(request).await;
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn probe(address: SocketAddr) -> String {
        let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        timeout(SOON, answer_to(address, request)).await.unwrap()
    }

    #[tokio::test]
    async fn probe_answers_beside_idle_connections() {
        let (address, _, _) = start().await;
        let mut idle = Vec::new();
        for _ in 0..10 * MAX_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        for _ in 0..3 {
            assert!(probe(address).await.ends_with("ok"));
        }
    }

    #[tokio::test]
    async fn probe_answers_beside_headers_without_end() {
        let (address, _, _) = start().await;
        let mut clients = JoinSet::new();
        for _ in 0..300 {
            clients.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nx: ").await;
                while stream.write_all(&[b'a'; 1000]).await.is_ok() {
                    sleep(Duration::from_millis(50)).await;
                }
            });
        }
        for _ in 0..3 {
            assert!(probe(address).await.ends_with("ok"));
        }
        clients.abort_all();
    }

    #[tokio::test]
    async fn header_above_the_bound_is_rejected() {
        let (address, _, _) = start().await;
        let mut request = b"GET /healthz HTTP/1.1\r\nx: ".to_vec();
        request.resize(2 * MAX_HEADER_BYTES, b'a');
        let answer = timeout(SOON, answer_to(address, &request)).await.unwrap();
        assert!(!answer.contains("200"), "{answer}");
    }

    #[tokio::test]
    async fn connection_with_a_request_keeps_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route(
            "/slow",
            get(async || {
                sleep(Duration::from_millis(300)).await;
                "done"
            }),
        );
        tokio::spawn(serve(listener, router, 2, CancellationToken::new()));
        let slow = tokio::spawn(answer_to(address, b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"));
        sleep(Duration::from_millis(50)).await;
        let mut idle = Vec::new();
        for _ in 0..20 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(slow.await.unwrap().ends_with("done"));
    }

    #[tokio::test]
    async fn idle_connections_do_not_delay_the_shutdown() {
        let (address, shutdown, served) = start().await;
        let _idle = TcpStream::connect(address).await.unwrap();
        assert!(probe(address).await.ends_with("ok"));
        let since = Instant::now();
        shutdown.cancel();
        served.await.unwrap();
        assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    }
}

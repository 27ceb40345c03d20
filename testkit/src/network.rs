//! The network of the cluster, as a forward proxy.
//!
//! Input: the address on this machine for each `host:port` of the cluster or the internet.
//! Output: requests in absolute form forwarded, `CONNECT` tunnelled, and 502 for other hosts.
//! Processes reach `http://prefect-server.prefect.svc:4200` and `https://api.doppler.com` under
//! these names.
//! Invariants: never resolves a name, and never connects to a host without a route.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::background::BackgroundServer;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How connections to a host are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// The host does not exist: 502.
    Unknown,
    To(SocketAddr),
    /// New and open connections are closed without a response.
    Cut,
    /// Connections are accepted and transfer nothing; open ones freeze.
    Hung,
}

struct Host {
    route: watch::Sender<Route>,
    requests: u64,
}

#[derive(Default)]
struct Hosts(Mutex<BTreeMap<String, Host>>);

impl Hosts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Host>> {
        self.0.lock()
    }

    fn with_host<T>(&self, host: &str, update: impl FnOnce(&mut Host) -> T) -> T {
        let mut hosts = self.lock();
        let host = hosts.entry(host.to_lowercase()).or_insert_with(|| Host {
            route: watch::Sender::new(Route::Unknown),
            requests: 0,
        });
        update(host)
    }

    fn set_route(&self, host: &str, route: Route) {
        self.with_host(host, |host| {
            // An unchanged route must not end its tunnels.
            host.route.send_if_modified(|now| {
                let changed = *now != route;
                *now = route;
                changed
            });
        });
    }

    fn record_request(&self, host: &str) -> watch::Receiver<Route> {
        self.with_host(host, |host| {
            host.requests += 1;
            host.route.subscribe()
        })
    }
}

/// A running proxy. All methods are thread-safe. Dropping it stops the proxy and all tunnels.
pub struct Network {
    addr: SocketAddr,
    hosts: Arc<Hosts>,
    _background: BackgroundServer,
}

impl Network {
    /// Starts a network without hosts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start() -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for the network")?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let hosts = Arc::new(Hosts::default());
        let serving = Arc::clone(&hosts);
        let background = BackgroundServer::start("network", move || accept(listener, serving))?;
        Ok(Self {
            addr,
            hosts,
            _background: background,
        })
    }

    /// Routes `host` (`name:port`) to `addr` from now on. Tunnels to another address end.
    pub fn route(&self, host: &str, addr: SocketAddr) {
        self.hosts.set_route(host, Route::To(addr));
    }

    /// Removes the route of `host`: 502, and open connections end.
    pub fn remove(&self, host: &str) {
        self.hosts.set_route(host, Route::Unknown);
    }

    /// Closes all open and new connections to `host`.
    pub fn disconnect(&self, host: &str) {
        self.hosts.set_route(host, Route::Cut);
    }

    /// Makes all open and new connections to `host` hang until another route is set. Then they end.
    pub fn hang(&self, host: &str) {
        self.hosts.set_route(host, Route::Hung);
    }

    /// Requests and tunnels to `host` so far, with any outcome. Requests inside a tunnel are not
    /// counted.
    #[must_use]
    pub fn requests(&self, host: &str) -> u64 {
        self.hosts
            .lock()
            .get(&host.to_lowercase())
            .map_or(0, |host| host.requests)
    }

    /// Like [`Self::requests`], for every host with a request.
    #[must_use]
    pub fn requests_by_host(&self) -> BTreeMap<String, u64> {
        let hosts = self.hosts.lock();
        hosts
            .iter()
            .filter(|(_, host)| host.requests > 0)
            .map(|(name, host)| (name.clone(), host.requests))
            .collect()
    }

    /// The proxy's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The environment variables that make a process use this network.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let proxy = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"]
            .map(|name| (name, self.url()));
        let direct = ["NO_PROXY", "no_proxy"].map(|name| (name, "127.0.0.1,localhost".to_owned()));
        let all = proxy.into_iter().chain(direct);
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

async fn accept(listener: TcpListener, hosts: Arc<Hosts>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Probably no file descriptors are free: they are freed when connections end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let hosts = Arc::clone(&hosts);
        tokio::spawn(async move {
            let service = service_fn(move |request| handle(Arc::clone(&hosts), request));
            // The end of a connection concerns only its two peers.
            let _ = server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
        });
    }
}

/// An error closes the connection without an answer.
async fn handle(hosts: Arc<Hosts>, request: Request<Incoming>) -> Result<Response<Body>> {
    let Some(host) = host_of(request.uri()) else {
        return Ok(text_response(
            StatusCode::BAD_REQUEST,
            "This is a forward proxy",
        ));
    };
    let mut route = hosts.record_request(&host);
    let now = *route.borrow_and_update();
    match now {
        Route::Unknown => Ok(text_response(
            StatusCode::BAD_GATEWAY,
            "This network does not know the host",
        )),
        Route::Cut => anyhow::bail!("disconnected by the test"),
        Route::Hung => {
            // The next route ends the wait, as a lost connection would end.
            let _ = route.changed().await;
            anyhow::bail!("hanging by request of the test")
        }
        Route::To(addr) => {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await;
            let Ok(Ok(upstream)) = connected else {
                return Ok(text_response(
                    StatusCode::BAD_GATEWAY,
                    "The host refused the connection",
                ));
            };
            // Sends small packets at once.
            let _ = upstream.set_nodelay(true);
            if request.method() == Method::CONNECT {
                tokio::spawn(async move {
                    if let Ok(client) = hyper::upgrade::on(request).await {
                        tunnel(TokioIo::new(client), upstream, route).await;
                    }
                });
                return Ok(Response::new(Body::empty()));
            }
            tokio::select! {
                answer = forward(request, upstream, route.clone()) => answer,
                () = async { next_route(&mut route).await; until_disconnected(route.clone()).await } => anyhow::bail!("disconnected by the test"),
            }
        }
    }
}

/// Forwards one request over a connection of its own.
async fn forward(
    mut request: Request<Incoming>,
    upstream: TcpStream,
    route: watch::Receiver<Route>,
) -> Result<Response<Body>> {
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(upstream)).await?;
    let watched = route.clone();
    tokio::spawn(async move {
        // The body of a response ends with the route.
        while_routed(connection.with_upgrades(), watched).await;
    });
    let upgraded = hyper::upgrade::on(&mut request);
    let request = to_origin_form(request)?;
    let mut answer = sender.send_request(request).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upstream = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(client), Ok(upstream)) = tokio::join!(upgraded, upstream) {
                tunnel(TokioIo::new(client), TokioIo::new(upstream), route).await;
            }
        });
    } else {
        remove_hop_by_hop_headers(answer.headers_mut());
    }
    Ok(answer.map(Body::new))
}

async fn tunnel<A, B>(mut client: A, mut upstream: B, route: watch::Receiver<Route>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    while_routed(copy_bidirectional(&mut client, &mut upstream), route).await;
}

/// Runs a connection until its route changes. While the route hangs, the connection is kept without
/// progress.
async fn while_routed(work: impl Future, mut route: watch::Receiver<Route>) {
    let mut work = pin!(work);
    tokio::select! {
        // The route is checked first, so that no data passes a route that hangs.
        biased;
        () = next_route(&mut route) => {}
        _ = &mut work => return,
    }
    until_disconnected(route).await;
}

/// Returns when connections over this route must end: when it is set to any route that does not
/// hang.
async fn until_disconnected(mut route: watch::Receiver<Route>) {
    while *route.borrow_and_update() == Route::Hung {
        next_route(&mut route).await;
    }
}

async fn next_route(route: &mut watch::Receiver<Route>) {
    if route.changed().await.is_err() {
        pending::<()>().await;
    }
}

fn host_of(uri: &Uri) -> Option<String> {
    let authority = uri.authority()?;
    let port = authority.port_u16().unwrap_or(80);
    Some(format!("{}:{port}", authority.host().to_lowercase()))
}

fn to_origin_form(mut request: Request<Incoming>) -> Result<Request<Incoming>> {
    let uri = request.uri();
    let path = uri
        .path_and_query()
        .map_or("/", PathAndQuery::as_str)
        .to_owned();
    let host = uri.authority().map(ToString::to_string);
    *request.uri_mut() = path.parse()?;
    if !request.headers().contains_key(header::UPGRADE) {
        remove_hop_by_hop_headers(request.headers_mut());
    }
    request.headers_mut().remove("proxy-authorization");
    // The request's target overrides its Host header (RFC 9112, 3.2.2).
    if let Some(host) = host {
        let host = host.rsplit('@').next().unwrap_or_default().parse()?;
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(request)
}

/// Headers that concern only one of the two connections. Hyper handles length and framing of the
/// body.
fn remove_hop_by_hop_headers(headers: &mut HeaderMap) {
    for name in ["connection", "proxy-connection", "keep-alive"] {
        headers.remove(name);
    }
}

fn text_response(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

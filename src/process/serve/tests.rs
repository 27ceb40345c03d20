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

/// Port with TLS, and clients that trust its certificate.
mod tls {
    use super::*;
    use rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    };
    use testkit::folder::ScratchDir;
    use tokio_rustls::{TlsConnector, client::TlsStream};

    struct TlsServer {
        address: SocketAddr,
        connector: TlsConnector,
        _dir: ScratchDir,
    }

    async fn start() -> TlsServer {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let dir = ScratchDir::new("serve-tls").unwrap();
        std::fs::write(dir.path().join("tls.crt"), own.cert.pem()).unwrap();
        std::fs::write(dir.path().join("tls.key"), own.signing_key.serialize_pem()).unwrap();
        let certificate = CertificateDir::open(dir.path().to_owned()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/healthz", get(async || "ok"));
        let port = Port::new(listener, Some(certificate));
        tokio::spawn(serve(
            port,
            router,
            MAX_CONNECTIONS,
            CancellationToken::new(),
        ));
        TlsServer {
            address,
            connector: connector(own.cert.der().clone()),
            _dir: dir,
        }
    }

    fn connector(trusted: CertificateDer<'static>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(trusted).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    impl TlsServer {
        async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
            let stream = TcpStream::connect(self.address).await?;
            let name = ServerName::try_from("127.0.0.1").unwrap();
            self.connector.connect(name, stream).await
        }

        async fn answer_to(&self, request: &[u8]) -> std::io::Result<String> {
            let mut stream = self.connect().await?;
            stream.write_all(request).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        }

        /// Sends a request. Under a flood, a connection may be closed before it was served.
        async fn probe(&self) -> String {
            let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
            let answered = async {
                loop {
                    if let Ok(answer) = self.answer_to(request).await {
                        return answer;
                    }
                }
            };
            timeout(SOON, answered).await.unwrap()
        }
    }

    #[tokio::test]
    async fn tls_port_answers_tls_only() {
        let server = start().await;
        assert!(server.probe().await.ends_with("ok"));
        let plain = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        let answer = timeout(SOON, answer_to(server.address, plain))
            .await
            .unwrap();
        assert!(!answer.contains("ok"), "{answer}");
    }

    #[tokio::test]
    async fn probe_answers_beside_connections_without_handshake() {
        let server = start().await;
        let mut idle = Vec::new();
        for _ in 0..10 * MAX_CONNECTIONS {
            idle.push(TcpStream::connect(server.address).await.unwrap());
        }
        for _ in 0..3 {
            assert!(server.probe().await.ends_with("ok"));
        }
    }

    #[tokio::test]
    async fn header_above_the_bound_is_rejected_within_tls() {
        let server = start().await;
        let mut request = b"GET /healthz HTTP/1.1\r\nx: ".to_vec();
        request.resize(2 * MAX_HEADER_BYTES, b'a');
        let answer = timeout(SOON, server.answer_to(&request)).await.unwrap();
        assert!(!answer.unwrap_or_default().contains("200"));
    }

    /// One client sends nothing, one stops after the handshake: both end in time.
    #[tokio::test]
    async fn handshake_and_header_share_one_time_limit() {
        let server = start().await;
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        let mut shaken = server.connect().await.unwrap();
        let mut rest = Vec::new();
        let ended = async {
            let _ = silent.read_to_end(&mut rest).await;
            let _ = shaken.read_to_end(&mut rest).await;
        };
        let limit = HEADER_TIMEOUT + SOON;
        timeout(limit, ended)
            .await
            .expect("a connection stays open");
    }
}

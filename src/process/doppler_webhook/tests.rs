//! Receives webhooks over HTTP.

use std::{
    fmt::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    http::{HeaderMap, StatusCode},
};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use serde_json::json;
use sha2::Sha256;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{coalesce::SCOPE_INTERVAL, endpoint::Endpoint, outcome::WebhookOutcome, *};
use crate::{
    crd::BindingRef,
    doppler::webhook::{SIGNATURE_HEADER, Webhook, WebhookScope},
    metrics::{Metrics, WebhookLabels},
    outbound::install_crypto_provider,
    process::{
        leader_election::{LeaseClient, WEBHOOK_ADDRESS},
        serve::serve,
    },
};

const SECRET: &str = "canary-canary-canary";

fn sign(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    let bytes = mac.chain_update(body).finalize().into_bytes();
    bytes.iter().fold("sha256=".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A replica that serves the webhook address until it is dropped.
struct Replica {
    receiver: Arc<WebhookReceiver>,
    metrics: Arc<Metrics>,
    address: SocketAddr,
    handled: Arc<Mutex<Vec<Webhook>>>,
    refreshed: Arc<Mutex<Vec<BindingRef>>>,
    dir: PathBuf,
    shutdown: CancellationToken,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Replica {
    /// With one secret for all projects. It is a standby.
    async fn start(name: &str, forwarder: Option<Forwarder>) -> Self {
        let dir = std::env::temp_dir().join(format!("webhooks-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("_all"), SECRET).unwrap();
        let secrets = SecretDir::open(dir.clone()).unwrap();
        let metrics = Arc::new(Metrics::new());
        let receiver = Arc::new(WebhookReceiver::new(
            secrets,
            forwarder,
            Arc::clone(&metrics),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(
            listener,
            router(Arc::clone(&receiver)),
            MAX_CONNECTIONS,
            shutdown.clone(),
        ));
        tokio::spawn(Arc::clone(&receiver).flush_coalesced(shutdown.clone()));
        Self {
            receiver,
            metrics,
            address,
            handled: Arc::default(),
            refreshed: Arc::default(),
            dir,
            shutdown,
        }
    }

    fn lead(self) -> Self {
        self.start_leading();
        self
    }

    fn start_leading(&self) {
        let handled = Arc::clone(&self.handled);
        let refreshed = Arc::clone(&self.refreshed);
        self.receiver.start_leading(Handlers {
            on_webhook: Arc::new(move |webhook: &Webhook| {
                handled.lock().push(webhook.clone());
            }),
            on_refresh: Arc::new(move |_: &WebhookScope, binding: &BindingRef| {
                refreshed.lock().push(binding.clone());
                binding.name() != "unknown"
            }),
        });
    }

    fn handled(&self) -> Vec<Webhook> {
        self.handled.lock().clone()
    }

    fn counted(&self, outcome: &'static str) -> u64 {
        let labels = WebhookLabels { outcome };
        self.metrics.webhook_requests.get_or_create(&labels).get()
    }

    async fn post(&self, body: &[u8], headers: &[(&str, &str)]) -> u16 {
        self.post_to(DOPPLER_PATH, body, headers).await
    }

    async fn post_to(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> u16 {
        let mut request = http()
            .post(format!("http://{}{path}", self.address))
            .body(body.to_vec());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    }

    async fn post_signed(&self, body: &[u8]) -> u16 {
        self.post(body, &[(SIGNATURE_HEADER, &sign(SECRET, body))])
            .await
    }

    /// The answer to these bytes, until the connection is closed.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn http() -> reqwest::Client {
    install_crypto_provider();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn whole() -> Webhook {
    Webhook {
        scope: WebhookScope::All,
        target: None,
    }
}

fn named(config: &str) -> Webhook {
    Webhook {
        scope: WebhookScope::All,
        target: Some(("p".to_owned(), config.to_owned())),
    }
}

/// A forwarder to the replica that a Lease names.
fn forward_to(leader: Option<SocketAddr>) -> Forwarder {
    forward_counting(leader, &Arc::default())
}

/// As [`forward_to`], counting the reads of the Lease.
fn forward_counting(leader: Option<SocketAddr>, reads: &Arc<AtomicUsize>) -> Forwarder {
    let reads = Arc::clone(reads);
    install_crypto_provider();
    let address = leader.map_or(String::new(), |address| address.to_string());
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "op", "annotations": {WEBHOOK_ADDRESS: address}},
        "spec": {"holderIdentity": "other_1"},
    });
    let server = Router::new().fallback(async move || {
        reads.fetch_add(1, SeqCst);
        Json(lease)
    });
    let client = kube::Client::new(server, "doppler");
    Forwarder::new(LeaseClient::new(client, "doppler", "op")).unwrap()
}

#[tokio::test]
async fn a_signed_webhook_calls_the_handler() {
    let replica = Replica::start("signed", None).await.lead();
    assert_eq!(
        replica
            .post_signed(br#"{"project":"p","config":"dev"}"#)
            .await,
        202
    );
    assert_eq!(replica.post_signed(b"").await, 202);
    assert_eq!(replica.handled(), [named("dev"), whole()]);
    assert_eq!(replica.counted("accepted"), 2);
}

#[tokio::test]
async fn a_wrong_or_missing_signature_is_rejected() {
    let replica = Replica::start("rejected", None).await.lead();
    let right = sign(SECRET, b"{}");
    let wrong = sign("another-secret-altogether", b"{}");
    for headers in [
        &[][..],
        &[(SIGNATURE_HEADER, wrong.as_str())],
        &[(SIGNATURE_HEADER, "sha256=")],
        &[(SIGNATURE_HEADER, &right), (SIGNATURE_HEADER, &right)],
        &[("authorization", &right)],
    ] {
        assert_eq!(replica.post(b"{}", headers).await, 401, "{headers:?}");
    }
    assert_eq!(replica.handled(), []);
    assert_eq!(replica.counted("rejected"), 5);
}

#[tokio::test]
async fn serves_only_post_and_only_two_paths() {
    let replica = Replica::start("path", None).await.lead();
    let url = format!("http://{}", replica.address);
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status();
    assert_eq!(
        status(http().get(format!("{url}{DOPPLER_PATH}"))).await,
        405
    );
    assert_eq!(
        status(http().put(format!("{url}{DOPPLER_PATH}"))).await,
        405
    );
    for path in [
        "/",
        "/webhooks",
        "/metrics",
        "/healthz",
        "/webhooks/doppler/x",
        "/webhooks/refresh",
        "/webhooks/refresh/flows",
        "/webhooks/refresh/flows/b/x",
    ] {
        assert_eq!(
            status(http().post(format!("{url}{path}"))).await,
            404,
            "{path}"
        );
    }
}

#[tokio::test]
async fn accepts_a_body_of_64_kib_and_no_more() {
    let replica = Replica::start("large", None).await.lead();
    assert_eq!(replica.post_signed(&vec![b' '; MAX_BODY_BYTES]).await, 202);
    assert_eq!(
        replica.post_signed(&vec![b' '; MAX_BODY_BYTES + 1]).await,
        413
    );
    assert_eq!(
        replica.post_signed(&vec![b' '; 10 * MAX_BODY_BYTES]).await,
        413
    );
    assert_eq!(replica.handled(), [whole()]);
    assert_eq!(replica.counted("too-large"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_client_is_disconnected() {
    let replica = Replica::start("slow", None).await.lead();
    // The paused clock advances whenever all tasks are idle.
    let head = replica
        .raw(b"POST /webhooks/doppler HTTP/1.1\r\nhost: a\r\n")
        .await;
    assert!(!head.contains("202"), "{head}");
    let signature = sign(SECRET, b"0123456789");
    let request = format!(
        "POST /webhooks/doppler HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n{SIGNATURE_HEADER}: {signature}\r\n\r\n01234"
    );
    let body = replica.raw(request.as_bytes()).await;
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    assert_eq!(replica.handled(), []);
    assert_eq!(replica.counted("incomplete"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_burst_calls_the_handler_twice() {
    let replica = Replica::start("burst", None).await.lead();
    let headers = |body: &[u8]| {
        let signature = sign(SECRET, body).parse().unwrap();
        HeaderMap::from_iter([(SIGNATURE_HEADER.parse().unwrap(), signature)])
    };
    let start = Instant::now();
    for number in 0..20 {
        let outcome = replica
            .receiver
            .receive(&Endpoint::Doppler, &headers(b"[]"), Body::from("[]"))
            .await;
        let expected = if number == 0 {
            WebhookOutcome::Accepted
        } else {
            WebhookOutcome::RateLimited
        };
        assert_eq!(outcome, expected);
        assert_eq!(outcome.status(), StatusCode::ACCEPTED);
    }
    assert_eq!(replica.handled(), [whole()]);
    while replica.handled().len() < 2 {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(start.elapsed() >= SCOPE_INTERVAL, "{:?}", start.elapsed());
    sleep(SCOPE_INTERVAL * 3).await;
    assert_eq!(replica.handled().len(), 2);
}

#[tokio::test]
async fn a_standby_forwards_to_the_leader() {
    let leader = Replica::start("leader", None).await.lead();
    let standby = Replica::start("standby", Some(forward_to(Some(leader.address)))).await;
    let body = br#"{"project":"p","config":"dev"}"#;
    assert_eq!(standby.post_signed(body).await, 202);
    assert_eq!(leader.handled(), [named("dev")]);
    assert_eq!(standby.counted("forwarded"), 1);
    assert_eq!(
        standby
            .post(
                body,
                &[(SIGNATURE_HEADER, &sign("not-the-secret-at-all", body))]
            )
            .await,
        401
    );
    assert_eq!(
        leader.counted("rejected"),
        0,
        "it is rejected by the standby"
    );
}

#[tokio::test]
async fn a_webhook_is_forwarded_once_or_answered_with_503() {
    let third = Replica::start("third", None).await.lead();
    let second = Replica::start("second", Some(forward_to(Some(third.address)))).await;
    let first = Replica::start("first", Some(forward_to(Some(second.address)))).await;
    assert_eq!(first.post_signed(b"{}").await, 503);
    assert_eq!(third.handled(), [], "it was forwarded twice");
    assert_eq!(first.counted("not-forwarded"), 1);
    for (name, forward) in [("none", Some(forward_to(None))), ("alone", None)] {
        let replica = Replica::start(name, forward).await;
        assert_eq!(replica.post_signed(b"{}").await, 503);
    }
}

#[tokio::test]
async fn a_standby_that_becomes_leader_handles_the_webhook() {
    let reads = Arc::default();
    let standby = Replica::start("becoming", Some(forward_counting(None, &reads))).await;
    let post = standby.post_signed(b"{}");
    let lead = async {
        while reads.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        standby.start_leading();
    };
    let (status, ()) = tokio::join!(post, lead);
    assert_eq!(status, 202);
    assert_eq!(standby.handled(), [whole()]);
}

#[tokio::test]
async fn a_signed_refresh_calls_its_handler() {
    let leader = Replica::start("refresh-leader", None).await.lead();
    let standby = Replica::start("refresh-standby", Some(forward_to(Some(leader.address)))).await;
    let path = "/webhooks/refresh/flows/b";
    for replica in [&leader, &standby] {
        let post = async |path: &str, body: &[u8], signed: &[u8]| {
            let signature = sign(SECRET, signed);
            replica
                .post_to(path, body, &[(SIGNATURE_HEADER, &signature)])
                .await
        };
        let before = leader.refreshed.lock().len();
        assert_eq!(post(path, b"flows/b", b"flows/b").await, 202);
        assert_eq!(leader.refreshed.lock().len(), before + 1);
        // A signature of another body, a body for another binding, and a webhook of Doppler.
        for (body, signed) in [
            (&b"flows/b"[..], &b"flows/c"[..]),
            (b"flows/c", b"flows/c"),
            (b"{}", b"{}"),
        ] {
            assert_eq!(post(path, body, signed).await, 401);
        }
        let names = "/webhooks/refresh/flows/a%2f..%2fb";
        assert_eq!(post(names, b"flows/a/../b", b"flows/a/../b").await, 401);
        assert_eq!(leader.refreshed.lock().len(), before + 1);
        let unknown = "/webhooks/refresh/flows/unknown";
        assert_eq!(post(unknown, b"flows/unknown", b"flows/unknown").await, 404);
    }
    assert_eq!(leader.refreshed.lock()[0], BindingRef::new("flows", "b"));
    assert_eq!(leader.handled(), []);
    assert_eq!(standby.counted("forwarded"), 1);
    assert_eq!(standby.counted("not-served"), 1);
}

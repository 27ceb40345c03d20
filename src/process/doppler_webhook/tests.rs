//! The door, by HTTP.

use super::*;
use crate::{
    doppler::webhook::Scope, outbound::install_crypto_provider,
    process::leader_election::LeaseClient, process::leader_election::WEBHOOK_ADDRESS,
};
use axum::Json;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use std::{
    fmt::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECRET: &str = "canary-canary-canary";

fn sign(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    let bytes = mac.chain_update(body).finalize().into_bytes();
    bytes.iter().fold("sha256=".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A door that is open while this lives.
struct Door {
    hooks: Arc<WebhookReceiver>,
    address: SocketAddr,
    woken: Arc<Mutex<Vec<Webhook>>>,
    folder: PathBuf,
    end: CancellationToken,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.end.cancel();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Door {
    /// With one secret for all projects. It does not lead yet.
    async fn open(name: &str, forward: Option<Forwarder>) -> Self {
        let folder = std::env::temp_dir().join(format!("door-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("_all"), SECRET).unwrap();
        let secrets = SecretDir::open(folder.clone()).unwrap();
        let hooks = Arc::new(WebhookReceiver::new(
            secrets,
            forward,
            Arc::new(Metrics::new()),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        tokio::spawn(serve(listener, router(Arc::clone(&hooks)), end.clone()));
        tokio::spawn(Arc::clone(&hooks).flush_coalesced(end.clone()));
        Self {
            hooks,
            address,
            woken: Arc::default(),
            folder,
            end,
        }
    }

    fn leads(self) -> Self {
        let woken = Arc::clone(&self.woken);
        self.hooks.start_leading(Arc::new(move |hook: &Webhook| {
            woken.lock().unwrap().push(hook.clone());
        }));
        self
    }

    fn woken(&self) -> Vec<Webhook> {
        self.woken.lock().unwrap().clone()
    }

    fn counted(&self, outcome: &'static str) -> u64 {
        let labels = WebhookLabels { outcome };
        self.hooks
            .metrics
            .webhook_requests
            .get_or_create(&labels)
            .get()
    }

    async fn post(&self, body: &[u8], headers: &[(&str, &str)]) -> u16 {
        let mut request = http()
            .post(format!("http://{}{PATH}", self.address))
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

    /// What comes back for these bytes, until the connection is closed.
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
        scope: Scope::All,
        target: None,
    }
}

fn named(config: &str) -> Webhook {
    Webhook {
        scope: Scope::All,
        target: Some(("p".to_owned(), config.to_owned())),
    }
}

/// The way to the replica that a lease names.
fn forward_to(leader: Option<SocketAddr>) -> Forwarder {
    forward_counting(leader, &Arc::default())
}

/// As [`forward_to`], and how often the lease was looked at.
fn forward_counting(leader: Option<SocketAddr>, looks: &Arc<AtomicUsize>) -> Forwarder {
    let looks = Arc::clone(looks);
    install_crypto_provider();
    let address = leader.map_or(String::new(), |address| address.to_string());
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "op", "annotations": {WEBHOOK_ADDRESS: address}},
        "spec": {"holderIdentity": "other_1"},
    });
    let server = Router::new().fallback(async move || {
        looks.fetch_add(1, SeqCst);
        Json(lease)
    });
    let client = kube::Client::new(server, "doppler");
    Forwarder::new(LeaseClient::new(client, "doppler", "op")).unwrap()
}

#[tokio::test]
async fn a_signed_hook_wakes_what_it_names() {
    let door = Door::open("signed", None).await.leads();
    assert_eq!(
        door.post_signed(br#"{"project":"p","config":"dev"}"#).await,
        202
    );
    assert_eq!(door.post_signed(b"").await, 202);
    assert_eq!(door.woken(), [named("dev"), whole()]);
    assert_eq!(door.counted("accepted"), 2);
}

#[tokio::test]
async fn a_wrong_or_missing_signature_is_refused_and_nothing_else_happens() {
    let door = Door::open("refused", None).await.leads();
    let right = sign(SECRET, b"{}");
    let wrong = sign("another-secret-altogether", b"{}");
    for headers in [
        &[][..],
        &[(SIGNATURE_HEADER, wrong.as_str())],
        &[(SIGNATURE_HEADER, "sha256=")],
        &[(SIGNATURE_HEADER, &right), (SIGNATURE_HEADER, &right)],
        &[("authorization", &right)],
    ] {
        assert_eq!(door.post(b"{}", headers).await, 401, "{headers:?}");
    }
    assert_eq!(door.woken(), []);
    assert_eq!(door.counted("refused"), 5);
}

#[tokio::test]
async fn only_post_and_only_one_path() {
    let door = Door::open("path", None).await.leads();
    let url = format!("http://{}", door.address);
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status();
    assert_eq!(status(http().get(format!("{url}{PATH}"))).await, 405);
    assert_eq!(status(http().put(format!("{url}{PATH}"))).await, 405);
    for path in ["/", "/hooks", "/metrics", "/healthz", "/hooks/doppler/x"] {
        assert_eq!(
            status(http().post(format!("{url}{path}"))).await,
            404,
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_body_is_taken_up_to_64_kib() {
    let door = Door::open("large", None).await.leads();
    assert_eq!(door.post_signed(&vec![b' '; MAX_BODY_BYTES]).await, 202);
    assert_eq!(door.post_signed(&vec![b' '; MAX_BODY_BYTES + 1]).await, 413);
    assert_eq!(
        door.post_signed(&vec![b' '; 10 * MAX_BODY_BYTES]).await,
        413
    );
    assert_eq!(door.woken(), [whole()]);
    assert_eq!(door.counted("too-large"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_go_on_is_left() {
    let door = Door::open("slow", None).await.leads();
    // The clock runs on as soon as nobody has anything to do.
    let head = door
        .raw(b"POST /hooks/doppler HTTP/1.1\r\nhost: a\r\n")
        .await;
    assert!(!head.contains("202"), "{head}");
    let signature = sign(SECRET, b"0123456789");
    let request = format!(
        "POST /hooks/doppler HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n{SIGNATURE_HEADER}: {signature}\r\n\r\n01234"
    );
    let body = door.raw(request.as_bytes()).await;
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    assert_eq!(door.woken(), []);
    assert_eq!(door.counted("broken"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_two_wakes_the_first_hook_and_the_last() {
    let door = Door::open("burst", None).await.leads();
    let headers = |body: &[u8]| {
        let signature = sign(SECRET, body).parse().unwrap();
        HeaderMap::from_iter([(SIGNATURE_HEADER.parse().unwrap(), signature)])
    };
    let start = Instant::now();
    for number in 0..20 {
        let outcome = door.hooks.receive(&headers(b"[]"), Body::from("[]")).await;
        let expected = if number == 0 {
            WebhookOutcome::Accepted
        } else {
            WebhookOutcome::Limited
        };
        assert_eq!(outcome, expected);
        assert_eq!(outcome.status(), StatusCode::ACCEPTED);
    }
    assert_eq!(door.woken(), [whole()]);
    while door.woken().len() < 2 {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(
        start.elapsed() >= coalesce::SCOPE_INTERVAL,
        "{:?}",
        start.elapsed()
    );
    sleep(coalesce::SCOPE_INTERVAL * 3).await;
    assert_eq!(door.woken().len(), 2);
}

#[tokio::test]
async fn a_hook_that_lands_elsewhere_reaches_the_leader() {
    let leader = Door::open("leader", None).await.leads();
    let standby = Door::open("standby", Some(forward_to(Some(leader.address)))).await;
    let body = br#"{"project":"p","config":"dev"}"#;
    assert_eq!(standby.post_signed(body).await, 202);
    assert_eq!(leader.woken(), [named("dev")]);
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
    assert_eq!(leader.counted("refused"), 0, "it is refused where it lands");
}

#[tokio::test]
async fn a_hook_is_forwarded_once_and_one_that_nobody_takes_is_an_error() {
    let third = Door::open("third", None).await.leads();
    let second = Door::open("second", Some(forward_to(Some(third.address)))).await;
    let first = Door::open("first", Some(forward_to(Some(second.address)))).await;
    assert_eq!(first.post_signed(b"{}").await, 503);
    assert_eq!(third.woken(), [], "it went round");
    assert_eq!(first.counted("unforwarded"), 1);
    for (name, forward) in [("none", Some(forward_to(None))), ("alone", None)] {
        let door = Door::open(name, forward).await;
        assert_eq!(door.post_signed(b"{}").await, 503);
    }
}

#[tokio::test]
async fn one_that_comes_to_lead_while_it_looks_for_the_leader_acts_itself() {
    let looks = Arc::default();
    let standby = Door::open("becoming", Some(forward_counting(None, &looks))).await;
    let post = standby.post_signed(b"{}");
    let woken = Arc::clone(&standby.woken);
    let lead = async {
        while looks.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        standby.hooks.start_leading(Arc::new(move |hook: &Webhook| {
            woken.lock().unwrap().push(hook.clone());
        }));
    };
    let (status, ()) = tokio::join!(post, lead);
    assert_eq!(status, 202);
    assert_eq!(standby.woken(), [whole()]);
}

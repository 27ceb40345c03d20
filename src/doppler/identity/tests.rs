//! Identities against a server that answers what a test says. `tests/it/identities` has the rest, with
//! a real API server.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_json, method, path},
};

use super::*;
use crate::{
    doppler::{ConfigKey, Credential},
    outbound::install_crypto_provider,
    reason::Reason,
};

mod renewal;

const LIMIT: Duration = Duration::from_secs(10);
const SIGNATURE: &str = "canary-signature-of-the-service-account";

/// A service account's token. Nothing here checks its signature.
fn jwt(audiences: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"iss": "https://k8s.example", "aud": audiences, "sub": "system:serviceaccount:flows:reader"});
    format!(
        "{}.{}.{SIGNATURE}",
        part(&json!({"alg": "none"})),
        part(&claims)
    )
}

fn request(jwt: String) -> RequestJwt {
    Box::new(move |_| {
        let jwt = SecretString::from(jwt.clone());
        Box::pin(async move { Ok(jwt) })
    })
}

fn identities_with(request: RequestJwt) -> (Identities, Revoker) {
    install_crypto_provider();
    let metrics = Arc::new(Metrics::new());
    Identities::new(LIMIT, RateLimiter::small(), request, metrics).unwrap()
}

fn identities() -> (Identities, Revoker) {
    identities_with(request(jwt(&json!(["https://api.doppler.com", "b"]))))
}

fn key(server: &MockServer) -> IdentityKey {
    IdentityKey {
        host: server.uri().parse().unwrap(),
        id: "i-1".to_owned(),
        namespace: "flows".to_owned(),
        service_account: "reader".to_owned(),
        audiences: vec!["https://api.doppler.com".to_owned(), "b".to_owned()],
    }
}

/// A token with this tail that expires after `life`.
fn granted(tail: &str, life: SignedDuration) -> ResponseTemplate {
    let expires_at = (Timestamp::now() + life).to_string();
    let token = format!("dp.said.{tail}");
    ResponseTemplate::new(200)
        .set_body_json(json!({"success": true, "token": token, "expires_at": expires_at}))
}

const HOUR: SignedDuration = SignedDuration::from_hours(1);

async fn exchanges(server: &MockServer, answer: ResponseTemplate, times: u64) {
    Mock::given(method("POST"))
        .and(path("/v3/auth/oidc"))
        .respond_with(answer)
        .up_to_n_times(times)
        .mount(server)
        .await;
}

async fn count(server: &MockServer, of: &str) -> usize {
    let requests = server.received_requests().await.unwrap();
    requests.iter().filter(|it| it.url.path() == of).count()
}

#[tokio::test]
async fn concurrent_callers_share_one_exchange() {
    let server = MockServer::start().await;
    let sent = json!({"identity": "i-1", "token": jwt(&json!(["https://api.doppler.com", "b"]))});
    Mock::given(path("/v3/auth/oidc"))
        .and(body_json(sent))
        .respond_with(granted("a", HOUR).set_delay(Duration::from_millis(50)))
        .expect(1)
        .mount(&server)
        .await;
    let (identities, _revoker) = identities();
    let identity = identities.intern(key(&server));
    let again = identities.intern(key(&server));
    assert!(Arc::ptr_eq(&identity, &again));
    for token in join_all((0..20).map(|_| identity.token())).await {
        assert_eq!(token.unwrap().expose_secret(), "dp.said.a");
    }
}

/// The error of an exchange that is answered like this.
async fn refusal(answer: ResponseTemplate) -> DopplerError {
    let server = MockServer::start().await;
    exchanges(&server, answer, 1).await;
    let (identities, _revoker) = identities();
    identities.intern(key(&server)).token().await.unwrap_err()
}

#[tokio::test]
async fn each_answer_has_its_reason_and_shows_no_token() {
    let says = |status: u16, message: &str| {
        let body = json!({"messages": [message], "success": false});
        ResponseTemplate::new(status).set_body_json(body)
    };
    let raw = |status: u16, body: &str| ResponseTemplate::new(status).set_body_string(body);
    let echo = jwt(&json!("a"));
    let expired = granted("canary", SignedDuration::from_secs(-5));
    for (answer, reason) in [
        (
            says(401, "The token does not match"),
            Reason::IdentityRefused,
        ),
        (
            says(404, "Could not find the identity"),
            Reason::IdentityRefused,
        ),
        (says(400, &format!("bad {echo}")), Reason::IdentityRefused),
        (
            says(403, &format!("bad {SIGNATURE}")),
            Reason::IdentityRefused,
        ),
        (says(403, "Upgrade your plan"), Reason::IdentityNotInPlan),
        (says(402, ""), Reason::IdentityNotInPlan),
        (says(429, ""), Reason::DopplerRateLimited),
        (raw(500, SIGNATURE), Reason::DopplerUnreachable),
        (raw(418, SIGNATURE), Reason::DopplerError),
        (raw(200, SIGNATURE), Reason::DopplerError),
        (
            raw(200, r#"{"token": "dp.said.canary"}"#),
            Reason::DopplerError,
        ),
        (
            raw(
                200,
                r#"{"token": "dp.said.canary\n", "expires_at": "2100-01-01T00:00:00Z"}"#,
            ),
            Reason::DopplerError,
        ),
        (expired, Reason::DopplerError),
        (raw(200, &"x".repeat(20_000)), Reason::AnswerTooLarge),
        (
            ResponseTemplate::new(302).insert_header("location", "http://127.0.0.1:9/canary"),
            Reason::DopplerError,
        ),
    ] {
        let error = refusal(answer).await;
        assert_eq!(error.reason(), reason, "{error}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("canary") && !text.contains("eyJ"), "{text}");
    }
}

#[tokio::test]
async fn a_refusal_shows_issuer_audience_and_subject() {
    let body = json!({"messages": ["no match"], "success": false});
    let error = refusal(ResponseTemplate::new(401).set_body_json(body)).await;
    assert_eq!(
        error.to_string(),
        "Doppler refuses identity i-1 for the token that was sent (issuer https://k8s.example, audience https://api.doppler.com and b, subject system:serviceaccount:flows:reader): make the claim rules of the identity in Doppler match, or correct spec.doppler.identity (id, serviceAccountRef, audiences) (Doppler says: no match)"
    );
}

#[tokio::test]
async fn a_refusal_is_not_repeated_at_once() {
    let server = MockServer::start().await;
    exchanges(&server, ResponseTemplate::new(401), 1).await;
    let (identities, _revoker) = identities();
    let identity = identities.intern(key(&server));
    for result in join_all((0..5).map(|_| identity.token())).await {
        assert_eq!(result.unwrap_err().reason(), Reason::IdentityRefused);
    }
    assert_eq!(count(&server, "/v3/auth/oidc").await, 1);
}

#[tokio::test]
async fn a_token_that_opens_the_api_server_is_not_sent() {
    let server = MockServer::start().await;
    let (identities, _revoker) =
        identities_with(request(jwt(&json!(["b", "https://k8s.example"]))));
    let error = identities.intern(key(&server)).token().await.unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidSpec);
    assert!(
        error
            .to_string()
            .starts_with("spec.doppler.identity.audiences")
    );
    assert!(server.received_requests().await.unwrap().is_empty());
}

fn config(identity: Arc<Identity>) -> ConfigKey {
    ConfigKey {
        host: identity.key().host.clone(),
        credential: Credential::Identity(identity),
        project: "p".to_owned(),
        config: "c".to_owned(),
        transformer: None,
    }
}

#[tokio::test]
async fn the_last_user_of_an_identity_revokes_its_token() {
    let server = MockServer::start().await;
    exchanges(&server, granted("a", HOUR), 1).await;
    Mock::given(path("/v3/auth/revoke"))
        .and(body_json(json!({"token": "dp.said.a"})))
        .respond_with(ResponseTemplate::new(200))
        .mount(&server)
        .await;
    let (identities, revoker) = identities();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(revoker.run(shutdown.clone()));
    let first = config(identities.intern(key(&server)));
    let second = first.clone();
    first.credential.token().await.unwrap();
    drop(first);
    assert_eq!(identities.len(), 1);
    drop(second);
    assert_eq!(identities.len(), 0);
    while count(&server, "/v3/auth/revoke").await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(count(&server, "/v3/auth/revoke").await, 1);
}

#[tokio::test]
async fn a_failed_revocation_is_repeated() {
    let server = MockServer::start().await;
    exchanges(&server, granted("a", HOUR), 1).await;
    Mock::given(path("/v3/auth/revoke"))
        .respond_with(ResponseTemplate::new(500))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(path("/v3/auth/revoke"))
        .respond_with(ResponseTemplate::new(200))
        .mount(&server)
        .await;
    let (identities, revoker) = identities();
    let _task = tokio::spawn(revoker.run(CancellationToken::new()));
    let identity = identities.intern(key(&server));
    identity.token().await.unwrap();
    drop(identity);
    while count(&server, "/v3/auth/revoke").await < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_shutdown_revokes_the_tokens_in_use() {
    let server = MockServer::start().await;
    exchanges(&server, granted("a", HOUR), 1).await;
    Mock::given(path("/v3/auth/revoke"))
        .respond_with(ResponseTemplate::new(200))
        .expect(1)
        .mount(&server)
        .await;
    let (identities, revoker) = identities();
    let identity = identities.intern(key(&server));
    identity.token().await.unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    revoker.run(shutdown).await;
    drop(identity);
}

#[tokio::test]
async fn identities_that_differ_in_any_part_share_nothing() {
    let server = MockServer::start().await;
    let (identities, _revoker) = identities();
    let base = key(&server);
    let host = "https://other.example".parse().unwrap();
    let text = |text: &str| text.to_owned();
    let keys = [
        base.clone(),
        IdentityKey {
            host,
            ..base.clone()
        },
        IdentityKey {
            id: text("i-2"),
            ..base.clone()
        },
        IdentityKey {
            namespace: text("other"),
            ..base.clone()
        },
        IdentityKey {
            service_account: text("other"),
            ..base.clone()
        },
        IdentityKey {
            audiences: vec![text("a")],
            ..base
        },
    ];
    let keys = keys.map(|key| config(identities.intern(key)));
    for (at, key) in keys.iter().enumerate() {
        let limit_key = key.download_limit_key();
        for other in &keys[at + 1..] {
            assert_ne!(key, other);
            assert_ne!(limit_key.account, other.download_limit_key().account);
        }
    }
    assert_eq!(identities.len(), 6);
}

#[tokio::test]
async fn an_outage_of_the_api_server_is_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let (identities, _revoker) = identities_with(Box::new(move |key| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let (namespace, name) = (key.namespace, key.service_account);
            Err(IdentityError::ApiServer { namespace, name })
        })
    }));
    let server = MockServer::start().await;
    let identity = identities.intern(key(&server));
    for _ in 0..3 {
        let error = identity.token().await.unwrap_err();
        assert_eq!(error.reason(), Reason::KubernetesError);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

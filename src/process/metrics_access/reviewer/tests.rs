use super::*;
use crate::process::metrics_access::answer_cache::REFRESH_AGE;
use axum::http::header::AUTHORIZATION;
use kube::Config;
use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_partial_json, path},
};

const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

fn reviewer(api_server: &str) -> Arc<Reviewer> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Config::new(api_server.parse().unwrap());
    Arc::new(Reviewer::new(Client::try_from(config).unwrap()))
}

/// The API server knows one token, and allows one user.
async fn api_server(allowed: bool) -> MockServer {
    let server = MockServer::start().await;
    let answer = |body: Value| ResponseTemplate::new(201).set_body_json(body);
    Mock::given(path(TOKENS))
        .and(body_partial_json(json!({"spec": {"token": "good"}})))
        .respond_with(answer(json!({
            "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {},
            "status": {"authenticated": true, "user": {"username": "prometheus", "groups": ["g"]}},
        })))
        .mount(&server)
        .await;
    Mock::given(path(TOKENS))
        .respond_with(answer(json!({
            "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {},
            "status": {"user": {}, "error": "invalid bearer token"},
        })))
        .mount(&server)
        .await;
    let attributes = json!({"path": "/metrics", "verb": "get"});
    let spec = json!({"user": "prometheus", "groups": ["g"], "nonResourceAttributes": attributes});
    Mock::given(path(ACCESS))
        .and(body_partial_json(json!({"spec": spec})))
        .respond_with(answer(json!({
            "kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {}, "spec": {},
            "status": {"allowed": allowed},
        })))
        .mount(&server)
        .await;
    server
}

fn bearer(token: &str) -> HeaderMap {
    let value = format!("Bearer {token}").parse().unwrap();
    [(AUTHORIZATION, value)].into_iter().collect()
}

async fn requests(server: &MockServer) -> Vec<String> {
    let requests = server.received_requests().await.unwrap();
    let paths = requests.iter().map(|request| request.url.path().to_owned());
    paths.collect()
}

#[tokio::test]
async fn allowed_token_is_reviewed_once() {
    let server = api_server(true).await;
    let reviewer = reviewer(&server.uri());
    for _ in 0..3 {
        assert_eq!(reviewer.decide(&bearer("good")).await, Ok(Access::Allowed));
    }
    assert_eq!(requests(&server).await, [TOKENS, ACCESS]);
}

#[tokio::test]
async fn refused_tokens_are_reviewed_once_each() {
    let server = api_server(false).await;
    let reviewer = reviewer(&server.uri());
    for _ in 0..2 {
        let access = reviewer.decide(&bearer("good")).await;
        assert_eq!(access, Ok(Access::Forbidden));
        let access = reviewer.decide(&bearer("bad")).await;
        assert_eq!(access, Ok(Access::Unauthenticated));
    }
    let access = reviewer.decide(&HeaderMap::new()).await;
    assert_eq!(access, Ok(Access::Unauthenticated));
    assert_eq!(requests(&server).await, [TOKENS, ACCESS, TOKENS]);
}

#[tokio::test]
async fn failed_review_is_not_remembered() {
    for (status, failure) in [
        (403, ReviewFailure::Forbidden),
        (500, ReviewFailure::Status(500)),
    ] {
        let server = MockServer::start().await;
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "good"});
        let answer = ResponseTemplate::new(status).set_body_json(body);
        Mock::given(path(TOKENS))
            .respond_with(answer)
            .up_to_n_times(1)
            .mount(&server)
            .await;
        let reviewer = reviewer(&server.uri());
        assert_eq!(reviewer.decide(&bearer("good")).await, Err(failure));
        assert!(!failure.to_string().contains("good"));
        // Nothing is mounted any more, so the API server answers 404.
        let again = reviewer.decide(&bearer("good")).await;
        assert_eq!(again, Err(ReviewFailure::Status(404)));
    }
}

#[tokio::test]
async fn unreachable_api_server_allows_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let reviewer = reviewer(&closed);
    let access = reviewer.decide(&bearer("good")).await;
    assert!(access.is_err(), "{access:?}");
    assert_eq!(refusal(access).status(), 503);
}

#[tokio::test]
async fn known_client_passes_beside_a_flood_of_unknown_tokens() {
    let server = MockServer::start().await;
    let slow = ResponseTemplate::new(500).set_delay(REVIEW_TIMEOUT);
    Mock::given(path(TOKENS))
        .respond_with(slow)
        .mount(&server)
        .await;
    let reviewer = reviewer(&server.uri());
    let hash = TokenHash::of("good");
    let now = Instant::now();
    reviewer.answers.lock().insert(hash, Access::Allowed, now);
    for number in 0..MAX_WAITING {
        let reviewer = Arc::clone(&reviewer);
        tokio::spawn(async move { reviewer.decide(&bearer(&format!("bad{number}"))).await });
    }
    while reviewer.waiting.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let unknown = reviewer.decide(&bearer("bad")).await;
    assert_eq!(unknown, Err(ReviewFailure::Busy));
    let known = reviewer.decide(&bearer("good")).await;
    assert_eq!(known, Ok(Access::Allowed));
    assert_eq!(*reviewer.failure.lock(), None, "a flood writes no log");
}

#[tokio::test]
async fn allowed_answer_is_refreshed_before_it_expires() {
    let server = api_server(false).await;
    let reviewer = reviewer(&server.uri());
    let hash = TokenHash::of("good");
    let since = Instant::now() - REFRESH_AGE;
    reviewer.answers.lock().insert(hash, Access::Allowed, since);
    let first = reviewer.decide(&bearer("good")).await;
    assert_eq!(
        first,
        Ok(Access::Allowed),
        "it does not wait for the refresh"
    );
    let refreshed = async {
        while reviewer.decide(&bearer("good")).await != Ok(Access::Forbidden) {
            tokio::task::yield_now().await;
        }
    };
    timeout(REVIEW_TIMEOUT, refreshed).await.unwrap();
    assert_eq!(requests(&server).await, [TOKENS, ACCESS]);
}

//! What a renewal changes for downloads and streams, and what it does not.

use wiremock::matchers::header;

use super::*;
use crate::{
    doppler::{Client, Download, WatchClient},
    upstream::limiter::ReadRequest,
};

const DOWNLOAD: &str = "/v3/configs/config/secrets/download";
const WATCH: &str = "/v3/configs/config/secrets/watch";

#[tokio::test]
async fn a_rejected_token_is_renewed_once() {
    let server = MockServer::start().await;
    exchanges(&server, granted("old", HOUR), 1).await;
    exchanges(&server, granted("new", HOUR), 9).await;
    Mock::given(header("authorization", "Bearer dp.said.new"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"A": "1"})))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(path(DOWNLOAD))
        .respond_with(ResponseTemplate::new(401))
        .mount(&server)
        .await;
    let (identities, _revoker) = identities();
    let key = config(identities.intern(key(&server)));
    let client = Client::new(LIMIT, RateLimiter::small()).unwrap();
    let request = ReadRequest::interactive();
    let answer = client.download(&key, None, &request).await.unwrap();
    assert!(matches!(answer, Download::Changed(_)));
    assert_eq!(count(&server, DOWNLOAD).await, 2);
    let error = client.download(&key, None, &request).await.unwrap_err();
    assert_eq!(error.reason(), Reason::IdentityRefused, "{error}");
    assert_eq!(count(&server, DOWNLOAD).await, 4);
    assert_eq!(count(&server, "/v3/auth/oidc").await, 3);
}

#[tokio::test]
async fn a_renewal_changes_neither_key_nor_rate_limit() {
    let server = MockServer::start().await;
    for tail in ["a", "b"] {
        exchanges(&server, granted(tail, HOUR), 1).await;
    }
    let (identities, _revoker) = identities();
    let key = config(identities.intern(key(&server)));
    let before = (
        key.clone(),
        key.download_limit_key(),
        key.stream_limit_key(),
    );
    let old = key.credential.token().await.unwrap();
    assert!(key.credential.discard(&old));
    let new = key.credential.token().await.unwrap();
    assert_ne!(old.expose_secret(), new.expose_secret());
    let after = (
        key.clone(),
        key.download_limit_key(),
        key.stream_limit_key(),
    );
    assert_eq!(before, after);
    let text = format!("{key:?} {:?}", key.credential);
    assert!(text.contains("i-1") && !text.contains("dp.said."), "{text}");
}

#[tokio::test]
async fn a_renewed_token_goes_on_with_the_rate_limit() {
    let server = MockServer::start().await;
    for tail in ["a", "b"] {
        exchanges(&server, granted(tail, HOUR), 1).await;
    }
    let reset = Timestamp::now().as_second() + 60;
    let last = ResponseTemplate::new(200)
        .set_body_json(json!({"A": "1"}))
        .insert_header("x-ratelimit-limit", "240")
        .insert_header("x-ratelimit-remaining", "0")
        .insert_header("x-ratelimit-reset", reset.to_string().as_str());
    Mock::given(method("GET"))
        .respond_with(last)
        .mount(&server)
        .await;
    let (identities, _revoker) = identities();
    let key = config(identities.intern(key(&server)));
    let client = Client::new(LIMIT, RateLimiter::small()).unwrap();
    let request = ReadRequest::interactive();
    client.download(&key, None, &request).await.unwrap();
    let old = key.credential.token().await.unwrap();
    key.credential.discard(&old);
    let waits = Duration::from_millis(300);
    let second = tokio::time::timeout(waits, client.download(&key, None, &request)).await;
    assert!(second.is_err(), "the limit of the identity is used up");
    assert_eq!(count(&server, "/v3/auth/oidc").await, 2);
    assert_eq!(count(&server, DOWNLOAD).await, 1);
}

#[tokio::test]
async fn a_stream_whose_token_is_rejected_opens_with_a_new_one() {
    let server = MockServer::start().await;
    exchanges(&server, granted("old", HOUR), 1).await;
    exchanges(&server, granted("new", HOUR), 9).await;
    let event = "event: message\ndata: {\"type\":\"connected\"}\n\n";
    Mock::given(header("authorization", "Bearer dp.said.new"))
        .respond_with(ResponseTemplate::new(200).set_body_raw(event, "text/event-stream"))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    // Doppler says so with either status.
    let body = json!({"messages": ["Invalid Auth token"], "success": false});
    Mock::given(path(WATCH))
        .respond_with(ResponseTemplate::new(400).set_body_json(body))
        .mount(&server)
        .await;
    let (identities, _revoker) = identities();
    let key = config(identities.intern(key(&server)));
    let client = WatchClient::new(LIMIT, LIMIT, RateLimiter::small()).unwrap();
    assert!(client.watch(&key).await.is_ok());
    assert_eq!(count(&server, WATCH).await, 2);
    // It is renewed once and no more.
    let error = client.watch(&key).await.err().unwrap();
    assert!(error.is_rejection(), "{error}");
    assert_eq!(count(&server, WATCH).await, 4);
}

#[tokio::test]
async fn a_stream_without_a_token_is_tried_again() {
    let server = MockServer::start().await;
    exchanges(&server, ResponseTemplate::new(401), 1).await;
    let (identities, _revoker) = identities();
    let key = config(identities.intern(key(&server)));
    let client = WatchClient::new(LIMIT, LIMIT, RateLimiter::small()).unwrap();
    let error = client.watch(&key).await.err().unwrap();
    // A rejected stream waits for an hour, but the rules of the identity may be corrected any time.
    assert!(!error.is_rejection(), "{error}");
    assert_eq!(error.reason(), Reason::IdentityRefused);
    assert_eq!(count(&server, WATCH).await, 0);
}

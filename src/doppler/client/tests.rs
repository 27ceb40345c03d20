use jiff::Timestamp;

use super::*;
use crate::outbound::TransportError;
use crate::{crd::NameTransformer, outbound::install_crypto_provider, reason::Reason};
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{any, header, method, path, query_param, query_param_is_missing},
};

mod status;

const LIMIT: Duration = Duration::from_secs(10);
const TOKEN: &str = "dp.st.dev.canary-token";
const VALUE: &str = "canary-value";
const TAG: &str = r#"W/"0123456789abcdef""#;

fn client(timeout: Duration) -> Client {
    install_crypto_provider();
    Client::new(timeout, RateLimiter::small()).unwrap()
}

fn key(host: &str) -> ConfigKey {
    ConfigKey {
        host: Url::parse(host).unwrap(),
        credential: TOKEN.into(),
        project: "my-project".to_owned(),
        config: "dev".to_owned(),
        transformer: None,
    }
}

fn snapshot(etag: Option<&str>) -> Snapshot {
    let values = BTreeMap::from([("SECRET_API_KEY".to_owned(), VALUE.into())]);
    Snapshot::new(values, etag.map(str::to_owned))
}

fn values() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(serde_json::json!({"SECRET_API_KEY": VALUE}))
}

fn empty(status: u16) -> ResponseTemplate {
    ResponseTemplate::new(status)
}

async fn answering(template: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any())
        .respond_with(template)
        .mount(&server)
        .await;
    server
}

/// The error of an answer, which must show neither token nor value.
async fn error_of(template: ResponseTemplate) -> DopplerError {
    let server = answering(template).await;
    error_at(&server.uri()).await
}

async fn error_at(host: &str) -> DopplerError {
    let error = client(LIMIT)
        .download(
            &key(host),
            Some(&snapshot(None)),
            &ReadRequest::interactive(),
        )
        .await
        .unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    error
}

/// A server for answers that HTTP libraries cannot produce: it writes these bytes to the first
/// connection and closes it.
async fn writing(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(socket.read(&mut request).await.unwrap() > 0);
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
    });
    host
}

#[tokio::test]
async fn downloads_with_a_bearer_token_and_keeps_the_etag() {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path("/v3/configs/config/secrets/download"))
        .and(query_param("project", "my-project"))
        .and(query_param("config", "dev"))
        .and(query_param("format", "json"))
        .and(query_param_is_missing("name_transformer"))
        .and(header("authorization", format!("Bearer {TOKEN}").as_str()))
        .and(header("accept", "application/json"))
        .respond_with(values().insert_header("etag", TAG))
        .expect(1)
        .mount(&server)
        .await;
    let Download::Changed(new) = client(LIMIT)
        .download(&key(&server.uri()), None, &ReadRequest::interactive())
        .await
        .unwrap()
    else {
        panic!("unchanged")
    };
    assert_eq!(new, snapshot(None));
    assert_eq!(new.etag(), Some(TAG));
    assert!(
        !server.received_requests().await.unwrap()[0]
            .headers
            .contains_key("if-none-match")
    );
}

#[tokio::test]
async fn requests_transformed_names_below_a_gateways_path() {
    let server = MockServer::start().await;
    Mock::given(path("/doppler/v3/configs/config/secrets/download"))
        .and(query_param("project", "a&b=c d"))
        .and(query_param("name_transformer", "dotnet-env"))
        .respond_with(values())
        .expect(1)
        .mount(&server)
        .await;
    let key = ConfigKey {
        project: "a&b=c d".to_owned(),
        transformer: Some(NameTransformer::DotnetEnv),
        ..key(&format!("{}/doppler/?x=1#y", server.uri()))
    };
    client(LIMIT)
        .download(&key, None, &ReadRequest::interactive())
        .await
        .unwrap();
}

#[tokio::test]
async fn sends_the_last_etag_and_reads_304_as_unchanged() {
    let server = MockServer::start().await;
    Mock::given(header("if-none-match", TAG))
        .respond_with(empty(304))
        .mount(&server)
        .await;
    let answer = client(LIMIT)
        .download(
            &key(&server.uri()),
            Some(&snapshot(Some(TAG))),
            &ReadRequest::interactive(),
        )
        .await;
    assert_eq!(answer, Ok(Download::Unchanged));
}

#[tokio::test]
async fn a_304_to_an_unconditional_request_is_an_error() {
    assert_eq!(error_of(empty(304)).await.reason(), Reason::DopplerError);
}

#[tokio::test]
async fn decompresses_a_gzip_body() {
    let gzip = "H4sIAAAAAAACA6tWclSyUlAqyEnMzFM4vFKpFgB+fLqqEQAAAA==";
    let server = answering(
        empty(200)
            .set_body_bytes(BASE64_STANDARD.decode(gzip).unwrap())
            .insert_header("content-encoding", "gzip"),
    )
    .await;
    let Ok(Download::Changed(new)) = client(LIMIT)
        .download(&key(&server.uri()), None, &ReadRequest::interactive())
        .await
    else {
        panic!("not read")
    };
    assert_eq!(new.values()["A"].expose_secret(), "plain é");
}

#[tokio::test]
async fn an_empty_config_is_an_empty_snapshot() {
    let server = answering(empty(200).set_body_string("{}")).await;
    let Ok(Download::Changed(new)) = client(LIMIT)
        .download(&key(&server.uri()), None, &ReadRequest::interactive())
        .await
    else {
        panic!("not read")
    };
    assert!(new.is_empty());
}

#[tokio::test]
async fn each_doppler_error_has_its_reason() {
    for (status, message, reason) in [
        (401, "Invalid Auth token", Reason::DopplerUnauthorized),
        (
            400,
            "This token does not have access to requested config 'dev'",
            Reason::DopplerForbidden,
        ),
        (403, "Forbidden", Reason::DopplerForbidden),
        (
            404,
            "Could not find requested project 'my-project'",
            Reason::ConfigMissing,
        ),
        (
            401,
            "Invalid Auth token dp.st.dev.canary-token",
            Reason::DopplerUnauthorized,
        ),
    ] {
        let body = serde_json::json!({"messages": [message], "success": false});
        let error = error_of(empty(status).set_body_json(body)).await;
        assert_eq!(error.reason(), reason, "{status} {message}");
        let shown = error.to_string().contains(message);
        assert_eq!(shown, !message.contains("canary"), "{error}");
    }
}

#[tokio::test]
async fn a_server_error_does_not_quote_the_body() {
    let error = error_of(empty(502).set_body_string(VALUE)).await;
    assert_eq!(error.reason(), Reason::DopplerUnreachable);
}

#[tokio::test]
async fn an_oversized_error_body_does_not_hide_the_status() {
    let body = vec![b' '; error_messages::MAX_BODY_BYTES + 1];
    let error = error_of(empty(401).set_body_bytes(body)).await;
    assert_eq!(error, DopplerError::Unauthorized { quote: None });
}

#[tokio::test]
async fn an_invalid_body_is_an_error_that_does_not_quote_it() {
    for body in [
        &b"<html>canary</html>"[..],
        br#"{"A": 1, "B": "canary"}"#,
        br#"{"A": "canary", "A": "canary"}"#,
        b"{\"A\": \"canary\xff\"}",
        br#"{"A": "canary"#,
        b"",
    ] {
        let error = error_of(empty(200).set_body_bytes(body)).await;
        assert_eq!(error.reason(), Reason::DopplerError, "{error}");
        assert!(matches!(error, DopplerError::InvalidBody { .. }), "{error}");
    }
}

#[tokio::test]
async fn never_follows_a_redirect() {
    let other = answering(values()).await;
    for status in [301, 302, 303, 307, 308] {
        let redirect = empty(status).insert_header("location", other.uri());
        let error = error_of(redirect).await;
        assert_eq!(error.reason(), Reason::DopplerError);
        assert!(matches!(error, DopplerError::Redirected { .. }), "{error}");
    }
    assert!(other.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn times_out_if_the_server_does_not_answer() {
    let server = answering(values().set_delay(Duration::from_mins(1))).await;
    let limit = Duration::from_millis(300);
    let error = client(limit)
        .download(&key(&server.uri()), None, &ReadRequest::interactive())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::DopplerUnreachable);
    assert!(
        error.to_string().contains("did not answer within 0.3 s"),
        "{error}"
    );
}

#[tokio::test]
async fn times_out_if_the_body_does_not_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(socket.read(&mut request).await.unwrap() > 0);
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"A\": \"canary";
        socket.write_all(head).await.unwrap();
        std::future::pending::<()>().await;
    });
    let limit = Duration::from_millis(300);
    let error = client(limit)
        .download(&key(&host), None, &ReadRequest::interactive())
        .await
        .unwrap_err();
    server.abort();
    assert!(
        matches!(
            &error,
            DopplerError::Unreachable {
                cause: TransportError::Timeout(_),
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_truncated_body_is_an_error() {
    // The part that arrives is a complete JSON object.
    for bytes in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"A\": \"canary\"}"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nf\r\n{\"A\": \"canary\"}\r\n",
    ] {
        let error = error_at(&writing(bytes).await).await;
        assert_eq!(error.reason(), Reason::DopplerUnreachable, "{error}");
        assert!(
            error
                .to_string()
                .contains("closed the connection in the middle of its answer"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn broken_compression_is_an_error() {
    let bytes = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 6\r\n\r\ncanary";
    let error = error_at(&writing(bytes).await).await;
    assert_eq!(error.reason(), Reason::DopplerError, "{error:?}");
}

#[tokio::test]
async fn a_body_beyond_the_size_limit_is_an_error() {
    let large = vec![b' '; MAX_BODY_BYTES + 1];
    let error = error_of(empty(200).set_body_bytes(large)).await;
    assert_eq!(error.reason(), Reason::AnswerTooLarge);
}

#[tokio::test]
async fn waits_for_retry_after_on_429() {
    let server = answering(empty(429).insert_header("retry-after", "30")).await;
    let (client, key) = (client(LIMIT), key(&server.uri()));
    let error = client
        .download(&key, None, &ReadRequest::interactive())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::DopplerRateLimited);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));

    let other_config = ConfigKey {
        config: "prd".to_owned(),
        ..key.clone()
    };
    assert!(is_rate_limited(&client, &other_config).await);
    assert_eq!(server.received_requests().await.unwrap().len(), 1);

    let other_token = ConfigKey {
        credential: "other".into(),
        ..key
    };
    client
        .download(&other_token, None, &ReadRequest::interactive())
        .await
        .unwrap_err();
    assert_eq!(server.received_requests().await.unwrap().len(), 2);
}

/// Whether the next request waits for a permit.
async fn is_rate_limited(client: &Client, key: &ConfigKey) -> bool {
    let request = ReadRequest::interactive();
    let download = client.download(key, None, &request);
    tokio::time::timeout(Duration::from_millis(300), download)
        .await
        .is_err()
}

#[tokio::test]
async fn the_open_circuit_sends_no_requests() {
    let server = answering(empty(502)).await;
    let (client, key) = (client(LIMIT), key(&server.uri()));
    for _ in 0..10 {
        let error = client
            .download(&key, None, &ReadRequest::interactive())
            .await
            .unwrap_err();
        assert_eq!(error.reason(), Reason::DopplerUnreachable);
        assert!(error.to_string().contains("a server error (502)"));
    }
    assert_eq!(server.received_requests().await.unwrap().len(), 3);
    let error = client
        .download(&key, None, &ReadRequest::interactive())
        .await
        .unwrap_err();
    assert!(error.retry_after().is_some());
}

#[tokio::test]
async fn waits_once_the_quota_is_used_up() {
    let reset = Timestamp::now().as_second() + 60;
    let server = answering(
        values()
            .insert_header("x-ratelimit-limit", "240")
            .insert_header("x-ratelimit-remaining", "0")
            .insert_header("x-ratelimit-reset", reset.to_string().as_str()),
    )
    .await;
    let (client, key) = (client(LIMIT), key(&server.uri()));
    client
        .download(&key, None, &ReadRequest::interactive())
        .await
        .unwrap();
    assert!(is_rate_limited(&client, &key).await);
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_429_without_headers_has_no_retry_after() {
    let error = error_of(empty(429)).await;
    assert_eq!(error, DopplerError::RateLimited { retry_after: None });
}

#[tokio::test]
async fn an_invalid_token_is_not_sent() {
    let server = answering(values()).await;
    for token in ["", "canary\n", "can ary", "canär\u{fe}"] {
        let key = ConfigKey {
            credential: token.into(),
            ..key(&server.uri())
        };
        let error = client(LIMIT)
            .download(&key, None, &ReadRequest::interactive())
            .await
            .unwrap_err();
        assert_eq!(error, DopplerError::TokenInvalid);
        assert_eq!(error.reason(), Reason::DopplerUnauthorized);
    }
    assert!(server.received_requests().await.unwrap().is_empty());
}

#[test]
fn debug_output_omits_the_values() {
    let shown = format!("{:?}", Download::Changed(snapshot(Some(TAG))));
    assert!(!shown.contains("canary"), "{shown}");
}

mod csrf;
mod deployments;
mod failures;
mod health;
mod late_edits;

use super::*;
use crate::{
    outbound::install_crypto_provider,
    prefect::{
        ResolvedBlock,
        connection::Auth,
        csrf::CsrfState,
        http_client::{MAX_ATTEMPTS, MAX_RETRY_AFTER},
        work_pool::MAX_NAMES,
    },
    reason::Reason,
};
use jiff::Timestamp;
use serde_json::{Value, value::RawValue};
use std::time::Instant;
use wiremock::{
    Mock, MockServer, Request, ResponseTemplate,
    matchers::{any, body_json, header as has_header, header_exists, method, path, query_param},
};

const LIMIT: Duration = Duration::from_secs(10);
const CANARY: &str = "canary-5d1e";
const BLOCK: &str = "/api/block_types/slug/secret/block_documents/name/doppler-config";
const POOL: &str = "/api/work_pools/k8s";

fn connection(server: &MockServer) -> Connection {
    Connection {
        api_url: format!("{}/api", server.uri()).parse().unwrap(),
        auth: Auth::None,
        headers: Vec::new(),
        ca: None,
        shared: None,
    }
}

fn client(server: &MockServer) -> Client {
    install_crypto_provider();
    Client::new(&connection(server), LIMIT, RateLimiter::small()).unwrap()
}

/// A server with the same response to every request.
async fn answering(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(answer).mount(&server).await;
    server
}

fn status(code: u16, body: &str) -> ResponseTemplate {
    ResponseTemplate::new(code).set_body_raw(body, "application/json")
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// Replaces a template that was read just now.
async fn patch(client: &Client, name: &str, template: &str) -> Result<bool, PrefectError> {
    let mut pool = WorkPool {
        pool_type: "kubernetes".to_owned(),
        base_job_template: raw("{}"),
        // However long the test takes, it is not old.
        read_at: Instant::now() + Duration::from_hours(1),
    };
    let unread = |_: &WorkPool| unreachable!("the pool is not read again");
    client
        .edit_work_pool(name, &mut pool, raw(template), unread)
        .await
}

async fn block(server: &MockServer) -> Result<BlockDocument, PrefectError> {
    client(server)
        .block("secret", "doppler-config", &ReadRequest::interactive())
        .await
}

async fn resolved_block(server: &MockServer) -> ResolvedBlock {
    let document = block(server).await.unwrap_or_else(|e| panic!("{e}"));
    document.resolve(None)
}

async fn requests(server: &MockServer) -> Vec<Request> {
    server.received_requests().await.unwrap()
}

#[tokio::test]
async fn reads_a_block_with_its_secrets_and_sends_the_api_version() {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path(BLOCK))
        .and(query_param("include_secrets", "true"))
        .and(has_header("x-prefect-api-version", "0.8.4"))
        .respond_with(status(
            200,
            r#"{"id": "x", "data": {"value": {"project": "p", "config": "c", "access_token": "t"}}}"#,
        ))
        .mount(&server)
        .await;
    let found = resolved_block(&server).await;
    assert!(found.fields.as_ref().unwrap().missing().is_empty());
    assert!(found == resolved_block(&server).await);
    assert_eq!(
        requests(&server).await.len(),
        2,
        "reading a block needs no CSRF token"
    );
}

#[tokio::test]
async fn block_lists_the_ids_of_its_documents() {
    let referring = json!({"id": "parent", "data": {"a": 1}, "block_document_references": {
        "cfg": {"block_document": {"id": "child", "block_document_references": {
            "deep": {"block_document": {"id": "grandchild"}}}}},
        "odd": {"block_document": null},
    }});
    let first = resolved_block(&answering(status(200, &referring.to_string())).await).await;
    for (id, is) in [
        ("parent", true),
        ("child", true),
        ("grandchild", true),
        ("other", false),
        ("", false),
    ] {
        assert_eq!(first.includes_document(id), is, "{id}");
    }
    let again = answering(status(200, r#"{"id": "new", "data": {"a": 1}}"#)).await;
    let again = resolved_block(&again).await;
    assert!(
        again != first,
        "a block with another id gets other notifications"
    );
    assert!(again.includes_document("new") && !again.includes_document("parent"));
    let odd = answering(status(
        200,
        r#"{"id": 7, "data": {}, "block_document_references": []}"#,
    ));
    assert!(resolved_block(&odd.await).await != first);
}

#[tokio::test]
async fn sends_credentials_and_headers_as_sensitive_values() {
    install_crypto_provider();
    let server = answering(status(200, r#"{"data": {}}"#)).await;
    for (auth, sent) in [
        (Auth::Bearer("pnu_key".into()), "Bearer pnu_key"),
        (Auth::Basic("user:pä:ss ".into()), "Basic dXNlcjpww6Q6c3Mg"),
    ] {
        let connection = Connection {
            auth,
            headers: vec![("cf-access-client-id".to_owned(), "id".into())],
            ..connection(&server)
        };
        let client = Client::new(&connection, LIMIT, RateLimiter::small()).unwrap();
        client
            .block("secret", "x", &ReadRequest::interactive())
            .await
            .ok()
            .unwrap();
        let request = requests(&server).await.pop().unwrap();
        assert_eq!(request.headers["authorization"], sent);
        assert_eq!(request.headers["cf-access-client-id"], "id");
        assert!(client.http.headers["authorization"].is_sensitive());
        assert!(client.http.headers["cf-access-client-id"].is_sensitive());
    }
}

#[tokio::test]
async fn name_is_one_segment_of_the_path() {
    let server = answering(status(404, r#"{"detail": "Block document not found"}"#)).await;
    let client = client(&server);
    for name in [
        "a/../b",
        "..",
        ".",
        "",
        "a\u{0}",
        "k8\ts",
        "k8\ns",
        "k8s\u{202e}",
    ] {
        let block = client
            .block("secret", name, &ReadRequest::interactive())
            .await
            .err()
            .unwrap();
        assert_eq!(block.reason(), Reason::BlockMissing, "{name}");
        let pool = client.work_pool(name, Priority::Poll).await.err().unwrap();
        assert_eq!(pool.reason(), Reason::PoolMissing, "{name}");
        let edit = patch(&client, name, "{}").await.unwrap_err();
        assert_eq!(edit.reason(), Reason::PoolMissing, "{name}");
        let variables = BTreeSet::from(["namespace".to_owned()]);
        let list = client.deployment_overrides(name, &variables, Priority::Poll);
        assert_eq!(
            list.await.err().unwrap().reason(),
            Reason::PoolMissing,
            "{name}"
        );
    }
    assert!(requests(&server).await.is_empty());
    client
        .block("secret", "a b?c#d%2F", &ReadRequest::interactive())
        .await
        .err()
        .unwrap();
    let url = requests(&server).await.pop().unwrap().url;
    assert!(url.path().ends_with("/name/a%20b%3Fc%23d%252F"), "{url}");
    assert_eq!(url.query(), Some("include_secrets=true"));
}

#[tokio::test]
async fn a_template_is_passed_byte_for_byte() {
    let template = r#"{ "z": 1.50, "a": 1e3,  "n": 12345678901234567890123, "é": "\u00e9" }"#;
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path(POOL))
        .respond_with(status(
            200,
            &format!(r#"{{"name": "k8s", "type": "kubernetes", "base_job_template": {template}}}"#),
        ))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/api/csrf-token"))
        .respond_with(status(422, r#"{"detail": "CSRF protection is disabled."}"#))
        .mount(&server)
        .await;
    Mock::given(method("PATCH"))
        .and(path(POOL))
        .respond_with(ResponseTemplate::new(204))
        .mount(&server)
        .await;
    let client = client(&server);
    let pool = client.work_pool("k8s", Priority::Poll).await.ok().unwrap();
    assert_eq!(pool.pool_type, "kubernetes");
    assert_eq!(pool.base_job_template.get(), template);
    patch(&client, "k8s", pool.base_job_template.get())
        .await
        .unwrap();
    let sent = requests(&server).await.pop().unwrap();
    assert_eq!(sent.headers["content-type"], "application/json");
    assert_eq!(
        String::from_utf8(sent.body).unwrap(),
        format!(r#"{{"base_job_template":{template}}}"#)
    );
}

async fn request_count(server: &MockServer, what: &str) -> usize {
    let requests = requests(server).await;
    requests.iter().filter(|r| r.url.path() == what).count()
}

use super::*;
use crate::{
    outbound::install_crypto_provider,
    prefect::{
        connection::Auth,
        csrf::CsrfState,
        http_client::{MAX_ATTEMPTS, MAX_RETRY_AFTER},
        work_pool::MAX_NAMES,
    },
    reason::Reason,
};
use jiff::Timestamp;
use serde_json::Value;
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
    }
}

fn client(server: &MockServer) -> Client {
    install_crypto_provider();
    Client::new(&connection(server), LIMIT, RateLimiter::small()).unwrap()
}

/// A server that answers everything in the same way.
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

async fn block(server: &MockServer) -> Result<BlockDocument, PrefectError> {
    client(server)
        .block("secret", "doppler-config", &ReadRequest::interactive())
        .await
}

async fn block_error(answer: ResponseTemplate) -> PrefectError {
    let server = answering(answer).await;
    let failure = block(&server).await.err().expect("a refusal");
    assert!(!format!("{failure} {failure:?}").contains(CANARY));
    failure
}

async fn pool_error(answer: ResponseTemplate) -> PrefectError {
    let server = answering(answer).await;
    let failure = client(&server).work_pool("k8s", Priority::Poll).await.err();
    failure.expect("a refusal")
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
    let found = block(&server).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(found.fields(None).unwrap().missing().is_empty());
    assert!(found == block(&server).await.unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(
        requests(&server).await.len(),
        2,
        "a block wants no CSRF token"
    );
}

#[tokio::test]
async fn block_knows_the_ids_of_its_documents() {
    let referring = json!({"id": "parent", "data": {"a": 1}, "block_document_references": {
        "cfg": {"block_document": {"id": "child", "block_document_references": {
            "deep": {"block_document": {"id": "grandchild"}}}}},
        "odd": {"block_document": null},
    }});
    let first = block(&answering(status(200, &referring.to_string())).await).await;
    let first = first.ok().unwrap();
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
    let again = block(&again).await.ok().unwrap();
    assert!(
        again != first,
        "a connection by another route gets other notifications"
    );
    assert!(again.includes_document("new") && !again.includes_document("parent"));
    let odd = answering(status(
        200,
        r#"{"id": 7, "data": {}, "block_document_references": []}"#,
    ));
    assert!(block(&odd.await).await.is_ok_and(|odd| odd != first));
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
async fn name_stays_one_segment_of_the_path() {
    let server = answering(status(404, r#"{"detail": "Block document not found"}"#)).await;
    let client = client(&server);
    for name in ["a/../b", "..", ".", ""] {
        let block = client
            .block("secret", name, &ReadRequest::interactive())
            .await
            .err()
            .unwrap();
        assert_eq!(block.reason(), Reason::BlockMissing, "{name}");
        let pool = client.work_pool(name, Priority::Poll).await.err().unwrap();
        assert_eq!(pool.reason(), Reason::PoolMissing, "{name}");
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
async fn distinguishes_404_of_a_missing_object_from_a_wrong_url() {
    let not_found = || status(404, r#"{"detail": "Not Found"}"#);
    let html = || ResponseTemplate::new(404).set_body_raw("<html>", "text/html");
    let block = block_error(status(404, r#"{"detail":"Block document not found"}"#)).await;
    assert_eq!(block.reason(), Reason::BlockMissing);
    let pool = pool_error(status(404, r#"{"detail":"Work pool \"k8s\" not found."}"#)).await;
    assert_eq!(pool.reason(), Reason::PoolMissing);
    for failure in [
        block_error(not_found()).await,
        block_error(html()).await,
        block_error(ResponseTemplate::new(404)).await,
        pool_error(not_found()).await,
        pool_error(html()).await,
    ] {
        assert_eq!(failure.reason(), Reason::PrefectWrongUrl, "{failure}");
    }
}

#[tokio::test]
async fn distinguishes_403_of_a_block_and_of_a_pool() {
    let forbidden = || status(403, r#"{"detail": "Forbidden"}"#);
    let block = block_error(forbidden()).await;
    assert_eq!(block.reason(), Reason::PrefectForbidden);
    assert!(block.to_string().contains("View secret block data"));
    let pool = pool_error(forbidden()).await;
    assert_eq!(pool.reason(), Reason::PoolForbidden);
    assert!(pool.to_string().contains("View work pools"), "{pool}");
    let server = answering(forbidden()).await;
    let client = client(&server);
    let edit = client.patch_work_pool("k8s", &raw("{}")).await.unwrap_err();
    assert_eq!(edit.reason(), Reason::PoolForbidden);
    assert!(edit.to_string().contains("Edit work pools"), "{edit}");
    let list = client
        .deployment_namespaces("k8s", Priority::Poll)
        .await
        .unwrap_err();
    assert!(list.to_string().contains("View deployments"), "{list}");
    let gateway = block_error(ResponseTemplate::new(403).set_body_string("<html>")).await;
    assert_eq!(gateway.reason(), Reason::PrefectWrongUrl);
}

#[tokio::test]
async fn every_other_status_has_its_reason_and_no_body_is_shown() {
    let body = format!(r#"{{"exception_message": "{CANARY}", "detail": "{CANARY}"}}"#);
    for (code, reason) in [
        (400, Reason::PrefectError),
        (401, Reason::PrefectUnauthorized),
        (405, Reason::PrefectError),
        (422, Reason::PrefectError),
        (500, Reason::PrefectUnreachable),
        (502, Reason::PrefectUnreachable),
        (504, Reason::PrefectUnreachable),
    ] {
        let failure = block_error(status(code, &body)).await;
        assert_eq!(failure.reason(), reason, "{code}");
        assert!(failure.to_string().contains(&code.to_string()), "{failure}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_its_target_not_shown() {
    let other = answering(status(200, "{}")).await;
    let target = format!("{}/?{CANARY}", other.uri());
    for code in [301, 302, 307, 308] {
        let answer = ResponseTemplate::new(code).insert_header("location", target.as_str());
        let failure = block_error(answer).await;
        assert_eq!(failure.reason(), Reason::PrefectWrongUrl);
        assert!(failure.to_string().contains("remoteApiUrl"), "{failure}");
    }
    assert!(requests(&other).await.is_empty());
}

#[tokio::test]
async fn rate_limit_carries_retry_after() {
    let limited = |after: &str| ResponseTemplate::new(429).insert_header("retry-after", after);
    let failure = block_error(limited("17")).await;
    assert_eq!(failure.reason(), Reason::PrefectRateLimited);
    assert_eq!(failure.retry_after(), Some(Duration::from_secs(17)));
    let failure = block_error(limited("999999999")).await;
    assert_eq!(failure.retry_after(), Some(MAX_RETRY_AFTER));
    for unusable in ["-3", "NaN", "soon"] {
        let failure = block_error(limited(unusable)).await;
        assert_eq!(failure.retry_after(), None, "{unusable}");
    }
}

#[tokio::test]
async fn html_page_is_a_wrong_url_and_unknown_json_is_an_error() {
    let page = || ResponseTemplate::new(200).set_body_raw(format!("<html>{CANARY}"), "text/html");
    assert_eq!(block_error(page()).await.reason(), Reason::PrefectWrongUrl);
    assert_eq!(pool_error(page()).await.reason(), Reason::PrefectWrongUrl);
    let other = || status(200, &format!(r#"{{"detail": "{CANARY}"}}"#));
    assert_eq!(block_error(other()).await.reason(), Reason::PrefectError);
    assert_eq!(pool_error(other()).await.reason(), Reason::PrefectError);
}

#[tokio::test]
async fn too_large_response_is_not_read() {
    let large = format!(r#"{{"data": "{}"}}"#, "x".repeat(BLOCK_LIMIT));
    let failure = block_error(status(200, &large)).await;
    assert_eq!(failure.reason(), Reason::AnswerTooLarge);
    let failure = block_error(status(401, &large)).await;
    assert_eq!(failure.reason(), Reason::PrefectUnauthorized);
}

#[tokio::test]
async fn request_times_out_when_the_server_does_not_answer() {
    install_crypto_provider();
    let server = answering(status(200, "{}").set_delay(Duration::from_mins(1))).await;
    let limit = Duration::from_millis(200);
    let client = Client::new(&connection(&server), limit, RateLimiter::small()).unwrap();
    let failure = client.work_pool("k8s", Priority::Poll).await.err().unwrap();
    assert_eq!(failure.reason(), Reason::PrefectUnreachable);
    assert!(failure.to_string().contains("within 0.2 s"), "{failure}");
}

#[tokio::test]
async fn retries_a_503_a_few_times() {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(503))
        .up_to_n_times(u64::from(MAX_ATTEMPTS) - 1)
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .respond_with(status(200, r#"{"data": {}}"#))
        .mount(&server)
        .await;
    assert!(block(&server).await.is_ok());

    let server = answering(ResponseTemplate::new(503)).await;
    let failure = block(&server).await.err().unwrap();
    assert_eq!(failure.reason(), Reason::PrefectUnreachable);
    assert_eq!(requests(&server).await.len(), MAX_ATTEMPTS as usize);
}

#[tokio::test]
async fn a_template_goes_through_untouched_to_the_last_digit() {
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
    client
        .patch_work_pool("k8s", &pool.base_job_template)
        .await
        .unwrap();
    let sent = requests(&server).await.pop().unwrap();
    assert_eq!(sent.headers["content-type"], "application/json");
    assert_eq!(
        String::from_utf8(sent.body).unwrap(),
        format!(r#"{{"base_job_template":{template}}}"#)
    );
}

/// A server that gives tokens `t1`, `t2`, … and takes only the one called `good`.
async fn csrf_protected(good: &str) -> MockServer {
    let server = MockServer::start().await;
    let given = std::sync::atomic::AtomicUsize::new(0);
    Mock::given(path("/api/csrf-token"))
        .and(header_exists("x-prefect-api-version"))
        .respond_with(move |request: &Request| {
            assert!(request.url.query().unwrap().starts_with("client=doppler-"));
            let number = given.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            let end = Timestamp::now() + Duration::from_hours(1);
            status(
                200,
                &format!(r#"{{"token": "t{number}", "expiration": "{end}"}}"#),
            )
        })
        .mount(&server)
        .await;
    Mock::given(method("PATCH"))
        .and(has_header("prefect-csrf-token", good))
        .and(header_exists("prefect-csrf-client"))
        .respond_with(ResponseTemplate::new(204))
        .mount(&server)
        .await;
    Mock::given(method("PATCH"))
        .respond_with(status(
            403,
            r#"{"detail": "Invalid CSRF token or client identifier."}"#,
        ))
        .mount(&server)
        .await;
    server
}

async fn request_count(server: &MockServer, what: &str) -> usize {
    let requests = requests(server).await;
    requests.iter().filter(|r| r.url.path() == what).count()
}

#[tokio::test]
async fn a_csrf_token_is_fetched_once_and_used_again() {
    let server = csrf_protected("t1").await;
    let client = client(&server);
    for _ in 0..3 {
        client.patch_work_pool("k8s", &raw("{}")).await.unwrap();
    }
    assert_eq!(request_count(&server, "/api/csrf-token").await, 1);
    assert_eq!(request_count(&server, POOL).await, 3);
}

#[tokio::test]
async fn a_refused_csrf_token_is_renewed_once() {
    let server = csrf_protected("t2").await;
    let first = client(&server);
    first.patch_work_pool("k8s", &raw("{}")).await.unwrap();
    assert_eq!(request_count(&server, "/api/csrf-token").await, 2);

    let server = csrf_protected("never").await;
    let second = client(&server);
    let failure = second.patch_work_pool("k8s", &raw("{}")).await.unwrap_err();
    assert_eq!(failure.reason(), Reason::PrefectError);
    assert_eq!(request_count(&server, POOL).await, 2);
}

#[tokio::test]
async fn remembers_that_a_server_has_no_csrf_protection() {
    for answer in [
        status(422, r#"{"detail": "CSRF protection is disabled."}"#),
        status(404, r#"{"detail": "Not Found"}"#),
    ] {
        let server = MockServer::start().await;
        Mock::given(method("GET"))
            .respond_with(answer)
            .mount(&server)
            .await;
        Mock::given(method("PATCH"))
            .and(body_json(json!({"base_job_template": {}})))
            .respond_with(ResponseTemplate::new(204))
            .mount(&server)
            .await;
        let client = client(&server);
        for _ in 0..2 {
            client.patch_work_pool("k8s", &raw("{}")).await.unwrap();
        }
        assert_eq!(request_count(&server, "/api/csrf-token").await, 1);
        let sent = requests(&server).await.pop().unwrap();
        assert!(!sent.headers.contains_key("prefect-csrf-token"));
    }
}

#[tokio::test]
async fn csrf_enabled_later_is_detected() {
    let server = csrf_protected("t1").await;
    let client = client(&server);
    *client.http.csrf.lock().await = CsrfState::disabled(Instant::now());
    client.patch_work_pool("k8s", &raw("{}")).await.unwrap();
    assert_eq!(request_count(&server, POOL).await, 2);
}

#[tokio::test]
async fn reports_credentials_refused_at_the_csrf_token() {
    let server = answering(status(401, r#"{"exception_message":"Unauthorized"}"#)).await;
    let client = client(&server);
    let failure = client.patch_work_pool("k8s", &raw("{}")).await.unwrap_err();
    assert_eq!(failure.reason(), Reason::PrefectUnauthorized);
    assert_eq!(request_count(&server, POOL).await, 0);
}

#[tokio::test]
async fn finds_deployments_with_other_namespaces_on_every_page() {
    let deployment = |index: usize| {
        let job_variables = match index {
            0 => json!({"namespace": "other", "image": CANARY}),
            199 => json!({"namespace": 7}),
            198 => json!({"namespace": ""}),
            205 => json!({"namespace": "third"}),
            230.. => json!({"namespace": "other"}),
            _ if index.is_multiple_of(2) => json!({}),
            _ => Value::Null,
        };
        json!({"name": format!("d{index}"), "job_variables": job_variables, "tags": [1]})
    };
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .respond_with(status(422, "{}"))
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path("/api/deployments/filter"))
        .respond_with(move |request: &Request| {
            let filter: Value = request.body_json().unwrap();
            assert_eq!(filter["work_pools"], json!({"name": {"any_": ["k8s"]}}));
            assert_eq!(filter["limit"], 200);
            let offset = usize::try_from(filter["offset"].as_u64().unwrap()).unwrap();
            let page: Vec<_> = (offset..260).take(200).map(deployment).collect();
            ResponseTemplate::new(200).set_body_json(page)
        })
        .mount(&server)
        .await;
    let found = client(&server)
        .deployment_namespaces("k8s", Priority::Poll)
        .await
        .unwrap();
    assert_eq!(found.truncated_at, None);
    let found = found.namespaces;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["other", "third"]);
    assert_eq!(found["third"], ["d205"]);
    assert_eq!(found["other"].len(), MAX_NAMES);
    assert_eq!(found["other"][..2], ["d0", "d230"]);
    assert_eq!(request_count(&server, "/api/deployments/filter").await, 2);
}

#[tokio::test]
async fn stops_after_the_maximum_of_pages_and_reports_it() {
    let page = vec![json!({"name": "d"}); PAGE_SIZE];
    let server = answering(ResponseTemplate::new(200).set_body_json(page)).await;
    let client = client(&server);
    *client.http.csrf.lock().await = CsrfState::disabled(Instant::now());
    let found = client
        .deployment_namespaces("k8s", Priority::Poll)
        .await
        .unwrap();
    assert_eq!(found.truncated_at, Some(5_000));
    assert!(found.namespaces.is_empty());
    assert_eq!(
        request_count(&server, "/api/deployments/filter").await,
        MAX_PAGES
    );
}

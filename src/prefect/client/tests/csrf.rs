//! CSRF tokens: fetched once, renewed after a rejection, and not sent to servers without
//! protection.

use super::*;

/// A server that issues tokens `t1`, `t2`, … and accepts only `good`.
async fn csrf_protected(good: &str) -> MockServer {
    let server = MockServer::start().await;
    let issued = std::sync::atomic::AtomicUsize::new(0);
    Mock::given(path("/api/csrf-token"))
        .and(header_exists("x-prefect-api-version"))
        .respond_with(move |request: &Request| {
            assert!(request.url.query().unwrap().starts_with("client=doppler-"));
            let number = issued.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
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

#[tokio::test]
async fn a_csrf_token_is_fetched_once_and_used_again() {
    let server = csrf_protected("t1").await;
    let client = client(&server);
    for _ in 0..3 {
        patch(&client, "k8s", "{}").await.unwrap();
    }
    assert_eq!(request_count(&server, "/api/csrf-token").await, 1);
    assert_eq!(request_count(&server, POOL).await, 3);
}

#[tokio::test]
async fn a_rejected_csrf_token_is_renewed_once() {
    let server = csrf_protected("t2").await;
    let first = client(&server);
    patch(&first, "k8s", "{}").await.unwrap();
    assert_eq!(request_count(&server, "/api/csrf-token").await, 2);

    let server = csrf_protected("never").await;
    let second = client(&server);
    let failure = patch(&second, "k8s", "{}").await.unwrap_err();
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
            patch(&client, "k8s", "{}").await.unwrap();
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
    patch(&client, "k8s", "{}").await.unwrap();
    assert_eq!(request_count(&server, POOL).await, 2);
}

#[tokio::test]
async fn reports_credentials_rejected_at_the_csrf_token() {
    let server = answering(status(401, r#"{"exception_message":"Unauthorized"}"#)).await;
    let client = client(&server);
    let failure = patch(&client, "k8s", "{}").await.unwrap_err();
    assert_eq!(failure.reason(), Reason::PrefectUnauthorized);
    assert_eq!(request_count(&server, POOL).await, 0);
}

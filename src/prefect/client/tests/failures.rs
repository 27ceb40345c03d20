//! Responses that are errors, their reasons, and retries.

use super::*;

async fn block_error(answer: ResponseTemplate) -> PrefectError {
    let server = answering(answer).await;
    let failure = block(&server).await.err().expect("an error");
    assert!(!format!("{failure} {failure:?}").contains(CANARY));
    failure
}

async fn pool_error(answer: ResponseTemplate) -> PrefectError {
    let server = answering(answer).await;
    let failure = client(&server).work_pool("k8s", Priority::Poll).await.err();
    failure.expect("an error")
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
    let edit = patch(&client, "k8s", "{}").await.unwrap_err();
    assert_eq!(edit.reason(), Reason::PoolForbidden);
    assert!(edit.to_string().contains("Edit work pools"), "{edit}");
    let variables = BTreeSet::from(["namespace".to_owned()]);
    let list = client
        .deployment_overrides("k8s", &variables, Priority::Poll)
        .await
        .err()
        .unwrap();
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
async fn an_answer_with_too_many_values_is_not_kept() {
    let wide = format!(
        r#"{{"data": [{}]}}"#,
        vec![r#"{"a":1}"#; MAX_VALUES / 2].join(",")
    );
    let failure = block_error(status(200, &wide)).await;
    assert_eq!(failure.reason(), Reason::AnswerTooLarge);
    assert!(
        failure.to_string().contains("20000 JSON values"),
        "{failure}"
    );
    let deep = format!(r#"{{"data": {}1{}}}"#, "[".repeat(500), "]".repeat(500));
    let failure = block_error(status(200, &deep)).await;
    assert_eq!(failure.reason(), Reason::AnswerTooLarge);
    let pool = format!(r#"{{"type": "kubernetes", "base_job_template": {wide}}}"#);
    assert_eq!(
        pool_error(status(200, &pool)).await.reason(),
        Reason::AnswerTooLarge
    );
}

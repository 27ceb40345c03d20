//! A template that is old when its PATCH has the permit is read again.

use super::*;

/// A server with a pool whose template is `template`, without CSRF protection.
async fn pool_server(template: &str) -> MockServer {
    let server = MockServer::start().await;
    let body = format!(r#"{{"type": "kubernetes", "base_job_template": {template}}}"#);
    Mock::given(method("GET"))
        .and(path(POOL))
        .respond_with(status(200, &body))
        .mount(&server)
        .await;
    Mock::given(path("/api/csrf-token"))
        .respond_with(status(422, "{}"))
        .mount(&server)
        .await;
    Mock::given(method("PATCH"))
        .respond_with(ResponseTemplate::new(204))
        .mount(&server)
        .await;
    server
}

/// A pool that was read a minute ago.
fn old_pool() -> WorkPool {
    WorkPool {
        pool_type: "kubernetes".to_owned(),
        base_job_template: raw(r#"{"at": "first"}"#),
        read_at: Instant::now().checked_sub(Duration::from_mins(1)).unwrap(),
    }
}

#[tokio::test]
async fn an_old_template_is_read_and_edited_again() {
    let server = pool_server(r#"{"at": "second"}"#).await;
    let client = client(&server);
    let mut pool = old_pool();
    let written = client.edit_work_pool("k8s", &mut pool, raw(r#"{"of": "first"}"#), |pool| {
        assert_eq!(pool.base_job_template.get(), r#"{"at": "second"}"#);
        Ok(Some(raw(r#"{"of": "second"}"#)))
    });
    assert!(written.await.unwrap());
    assert_eq!(pool.base_job_template.get(), r#"{"at": "second"}"#);
    let sent = requests(&server).await.pop().unwrap();
    let body = String::from_utf8(sent.body).unwrap();
    assert_eq!(body, r#"{"base_job_template":{"of": "second"}}"#);
    assert_eq!(request_count(&server, POOL).await, 2, "one GET, one PATCH");
}

#[tokio::test]
async fn nothing_is_written_if_the_second_look_needs_no_edit() {
    let server = pool_server("{}").await;
    let mut pool = old_pool();
    let client = client(&server);
    let written = client.edit_work_pool("k8s", &mut pool, raw("{}"), |_| Ok(None));
    assert!(!written.await.unwrap());
    assert_eq!(request_count(&server, POOL).await, 1, "only the GET");
}

#[tokio::test]
async fn an_error_of_the_second_look_is_returned_and_nothing_is_written() {
    let server = answering(status(401, r#"{"detail": "Unauthorized"}"#)).await;
    let mut pool = old_pool();
    let client = client(&server);
    *client.http.csrf.lock().await = CsrfState::disabled(Instant::now());
    let written = client.edit_work_pool("k8s", &mut pool, raw("{}"), |_| unreachable!());
    let error = written.await.unwrap_err();
    assert_eq!(error.reason(), Reason::PrefectUnauthorized);
    assert_eq!(request_count(&server, POOL).await, 1, "only the GET");
}

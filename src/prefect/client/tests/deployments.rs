//! Pages of deployments and the namespaces that they set.

use super::*;

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

#[tokio::test]
async fn rejects_a_page_with_more_deployments_than_requested() {
    let page = vec![json!({}); PAGE_SIZE + 1];
    let server = answering(ResponseTemplate::new(200).set_body_json(page)).await;
    let client = client(&server);
    *client.http.csrf.lock().await = CsrfState::disabled(Instant::now());
    let error = client
        .deployment_namespaces("k8s", Priority::Poll)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::PrefectError);
}

#[tokio::test]
async fn cuts_long_names_and_ignores_namespaces_that_are_no_text() {
    let long = "x".repeat(10_000);
    let page = json!([
        {"name": long, "job_variables": {"namespace": long}},
        {"name": "list", "job_variables": {"namespace": [["a"], {"a": 1}]}},
        {"name": ["odd"], "job_variables": {"namespace": "other"}},
    ]);
    let server = answering(ResponseTemplate::new(200).set_body_json(page)).await;
    let client = client(&server);
    *client.http.csrf.lock().await = CsrfState::disabled(Instant::now());
    let found = client
        .deployment_namespaces("k8s", Priority::Poll)
        .await
        .unwrap();
    let namespaces: Vec<_> = found.namespaces.iter().collect();
    let cut = "x".repeat(253);
    assert_eq!(
        namespaces,
        [
            (&"other".to_owned(), &vec![String::new()]),
            (&cut, &vec![cut.clone()])
        ]
    );
}

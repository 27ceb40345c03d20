//! Pages of deployments and the job variables that they set.

use std::collections::BTreeMap;

use super::*;
use crate::prefect::run_events::Chooser;

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The variables and the names of each group.
fn groups(found: &DeploymentOverrides) -> Vec<(Value, &[String])> {
    let groups = found.groups.iter();
    groups
        .map(|group| {
            let variables = group.parsed().map_or(Value::Null, Value::Object);
            (variables, &*group.names)
        })
        .collect()
}

#[tokio::test]
async fn groups_deployments_of_every_page_by_their_variables() {
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
        .deployment_overrides("k8s", &names(&["namespace"]), Priority::Poll)
        .await
        .unwrap();
    assert_eq!((found.truncated_at, found.more_groups), (None, false));
    let found = groups(&found);
    let variables: Vec<_> = found.iter().map(|(variables, _)| variables).collect();
    assert_eq!(
        variables,
        [
            &json!({"namespace": "other"}),
            &json!({"namespace": ""}),
            &json!({"namespace": 7}),
            &json!({"namespace": "third"}),
        ]
    );
    assert_eq!(found[0].1.len(), MAX_NAMES);
    assert_eq!(found[0].1[..2], ["d0", "d230"]);
    assert_eq!(found[3].1, ["d205"]);
    assert_eq!(request_count(&server, "/api/deployments/filter").await, 2);
}

#[tokio::test]
async fn stops_after_the_maximum_of_pages_and_reports_it() {
    let page = vec![json!({"name": "d"}); PAGE_SIZE];
    let server = answering(ResponseTemplate::new(200).set_body_json(page)).await;
    let client = client(&server);
    *client.http.csrf.lock().await = CsrfState::disabled(Instant::now());
    let found = client
        .deployment_overrides("k8s", &names(&["namespace"]), Priority::Poll)
        .await
        .unwrap();
    assert_eq!(found.truncated_at, Some(5_000));
    assert!(found.groups.is_empty());
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
        .deployment_overrides("k8s", &names(&["namespace"]), Priority::Poll)
        .await
        .err()
        .unwrap();
    assert_eq!(error.reason(), Reason::PrefectError);
}

/// What the client makes of one page.
async fn overrides(page: Value, variables: &[&str]) -> DeploymentOverrides {
    let server = answering(ResponseTemplate::new(200).set_body_json(page)).await;
    let client = client(&server);
    *client.http.csrf.lock().await = CsrfState::disabled(Instant::now());
    let variables = names(variables);
    let found = client.deployment_overrides("k8s", &variables, Priority::Poll);
    found.await.unwrap()
}

#[tokio::test]
async fn keeps_only_the_variables_that_are_asked_for() {
    let page = json!([
        {"name": "a", "job_variables": {"image": CANARY, "ns": "x", "place.zone": 1, "place": {"a": "b"}}},
        {"name": "b", "job_variables": {"image": "other", "ns": "x", "place.zone": 1, "place": {"a": "b"}}},
        {"name": "c", "job_variables": {"image": "x"}},
        {"name": ["odd"], "job_variables": {"ns": [["a"], {"a": 1}]}},
        {"name": "d", "job_variables": ["ns"]},
    ]);
    let found = overrides(page, &["ns", "place"]).await;
    let both = names(&["a", "b"]).into_iter().collect::<Vec<_>>();
    assert_eq!(
        groups(&found),
        [
            (
                json!({"ns": "x", "place.zone": 1, "place": {"a": "b"}}),
                &*both
            ),
            (json!({"ns": [["a"], {"a": 1}]}), &[String::new()][..]),
        ]
    );
}

/// Prefect 2.20 takes `job_variables`, and answers with the older name.
#[tokio::test]
async fn reads_job_variables_by_their_older_name() {
    let page = json!([
        {"id": "1", "name": "a", "infra_overrides": {"ns": "x"}},
        {"id": "2", "name": "b", "job_variables": {"ns": "y"}, "infra_overrides": {"ns": "z"}},
        {"id": "3", "name": "c", "job_variables": null, "infra_overrides": {"ns": "x"}},
    ]);
    let found = overrides(page.clone(), &["ns"]).await;
    let both = ["a".to_owned(), "c".to_owned()];
    assert_eq!(
        groups(&found),
        [
            (json!({"ns": "x"}), &both[..]),
            (json!({"ns": "y"}), &["b".to_owned()][..]),
        ]
    );
    let server = answering(ResponseTemplate::new(200).set_body_json(page)).await;
    let client = client(&server);
    *client.http.csrf.lock().await = CsrfState::disabled(Instant::now());
    let (ids, variables) = (names(&["1", "2", "3"]), names(&["ns"]));
    let chosen = client.chosen_texts(Chooser::Deployment, &ids, &variables);
    let chosen = chosen.await.unwrap();
    let texts: Vec<_> = ids.iter().map(|id| chosen[id]["ns"].as_str()).collect();
    assert_eq!(texts, ["x", "y", "x"]);
}

#[tokio::test]
async fn without_variables_nothing_is_requested() {
    let server = answering(status(500, "{}")).await;
    let found = client(&server)
        .deployment_overrides("k8s", &BTreeSet::new(), Priority::Poll)
        .await;
    assert!(found.unwrap().groups.is_empty());
    assert!(requests(&server).await.is_empty());
}

#[tokio::test]
async fn bounds_names_values_and_groups() {
    let long = "x".repeat(10_000);
    let page: Vec<_> = std::iter::once(json!({"name": long, "job_variables": {"ns": long}}))
        .chain((0..100).map(|n| json!({"name": "d", "job_variables": {"ns": n}})))
        .collect();
    let found = overrides(json!(page), &["ns"]).await;
    assert_eq!((found.groups.len(), found.more_groups), (64, true));
    assert_eq!(found.groups[0].variables, None);
    assert_eq!(found.groups[0].names, ["x".repeat(253)]);
}

#[tokio::test]
async fn names_the_deployments_of_each_text_value() {
    let page = json!([
        {"name": "a", "job_variables": {"config": "dev", "image": CANARY, "ns": "x"}},
        {"name": "b", "job_variables": {"config": "dev", "ns": "y"}},
        {"name": "c", "job_variables": {"config": "prd"}},
        {"name": "d", "job_variables": {"config": ["dev"], "config.x": "dev"}},
        {"name": "e", "job_variables": {"config": "x".repeat(254)}},
        {"name": "f", "job_variables": {"config": null}},
    ]);
    let found = overrides(page, &["config"]).await;
    let by_text = json!({"config": {"dev": ["a", "b"], "prd": ["c"]}});
    assert_eq!(serde_json::to_value(&found.by_text).unwrap(), by_text);
    assert!(!found.more_values);
}

#[tokio::test]
async fn bounds_text_values_and_their_names() {
    let same = (0..30).map(|n| json!({"name": format!("s{n}"), "job_variables": {"c": "same"}}));
    let other = (0..170)
        .map(|n| json!({"name": "o", "job_variables": {"c": format!("{n}"), "d": format!("{n}")}}));
    let page: Vec<_> = same.chain(other).collect();
    let found = overrides(json!(page), &["c", "d"]).await;
    let count: usize = found.by_text.values().map(BTreeMap::len).sum();
    assert_eq!((count, found.more_values), (256, true));
    assert_eq!(found.by_text["c"]["same"].len(), MAX_NAMES);
}

//! The real Prefect server: blocks in each format, pools, credentials, and a restart.

// Clippy's settings for tests cover test functions, but not their helpers.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use testkit::prefect::{
    Block, Database, PrefectApi, PrefectOptions, PrefectServer, PrefectVersion, StandIn,
    kubernetes_template,
};

async fn shared() -> PrefectApi {
    PrefectServer::shared().await.unwrap().api().unwrap()
}

async fn data(api: &PrefectApi, name: &str, block: &Block) -> Value {
    api.put_block(name, block).await.unwrap();
    let document = api.block(block.slug(), name).await.unwrap().unwrap();
    document["data"].clone()
}

#[tokio::test]
async fn blocks_keep_the_format_in_which_users_save_them() {
    let api = shared().await;
    let fields = json!({"project": "p", "config": "dev", "access_token": "t"});

    let object = data(&api, "shape-object", &Block::object("p", "dev", "t")).await;
    assert_eq!(object, json!({"value": fields}));

    let string = data(&api, "shape-string", &Block::json_string("p", "dev", "t")).await;
    let text = string["value"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), fields);

    let wrapper = data(&api, "shape-wrapper", &Block::ui_wrapper("p", "dev", "t")).await;
    assert_eq!(wrapper["value"]["__prefect_kind"], "json");
    let text = wrapper["value"]["value"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), fields);

    let class = data(
        &api,
        "shape-class",
        &Block::class("dopplerconfig", "p", "dev", "t"),
    )
    .await;
    assert_eq!(class, fields);

    let parent = data(
        &api,
        "shape-parent",
        &Block::parent("dopplerparent", "shape-object"),
    )
    .await;
    assert_eq!(parent["cfg"], json!({"value": fields}));
}

#[tokio::test]
async fn server_has_the_selected_version_and_database() {
    let server = PrefectServer::shared().await.unwrap();
    let found = server.api().unwrap().get("/admin/version").await.unwrap();
    assert_eq!(found, PrefectVersion::Selected.number().unwrap());
    let file = server.log_path().with_file_name("prefect.db").exists();
    assert_eq!(file, Database::selected().unwrap() == Database::Sqlite);
}

#[tokio::test]
async fn a_replaced_block_keeps_its_id() {
    let api = shared().await;
    let first = api
        .put_block("changing", &Block::object("p", "dev", "one"))
        .await
        .unwrap();
    let second = api
        .put_block("changing", &Block::json_string("p", "dev", "two"))
        .await
        .unwrap();
    assert_eq!(first, second);
    let document = api.block("secret", "changing").await.unwrap().unwrap();
    assert!(document["data"]["value"].is_string());
    api.delete_block("secret", "changing").await.unwrap();
    assert!(api.block("secret", "changing").await.unwrap().is_none());
}

#[tokio::test]
async fn pools_keep_their_template() {
    let api = shared().await;
    api.create_kubernetes_pool("full").await.unwrap();
    assert_eq!(
        api.template("full").await.unwrap(),
        kubernetes_template().unwrap()
    );
    api.create_pool("bare", "kubernetes", None).await.unwrap();
    assert_eq!(api.template("bare").await.unwrap(), json!({}));
    api.create_pool("processes", "process", None).await.unwrap();
    assert_eq!(
        api.pool("processes").await.unwrap().unwrap()["type"],
        "process"
    );
    api.delete_pool("bare").await.unwrap();
    assert!(api.pool("bare").await.unwrap().is_none());
}

#[tokio::test]
async fn auth_and_csrf_are_enforced_and_data_survives_a_restart() {
    let options = PrefectOptions {
        auth: Some("admin:pass".to_owned()),
        csrf: true,
        ..PrefectOptions::default()
    };
    let started = std::time::Instant::now();
    let server = PrefectServer::start(options).await.unwrap();
    testkit::progress::line(&format!(
        "a Prefect server started in {:?}",
        started.elapsed()
    ));
    let api = server.api().unwrap();
    api.put_block("kept", &Block::object("p", "dev", "t"))
        .await
        .unwrap();

    let unauthenticated = PrefectApi::new(&server.api_url(), None, true).unwrap();
    let error = unauthenticated
        .block("secret", "kept")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("401 Unauthorized"), "{error}");
    let without_csrf = PrefectApi::new(&server.api_url(), server.auth(), false).unwrap();
    let error = without_csrf
        .create_pool("p", "process", None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("403 Forbidden"), "{error}");

    server.stop().await;
    assert!(api.get("/health").await.is_err());
    server.restart().await.unwrap();
    assert!(api.block("secret", "kept").await.unwrap().is_some());
}

/// A response: status, media type, and a body whose values are replaced by their types.
async fn shape(
    http: &reqwest::Client,
    api: &str,
    request: &(&str, &str, Value),
) -> (u16, String, Value) {
    let (method, path, body) = request;
    let request = http.request(method.parse().unwrap(), format!("{api}{path}"));
    let request = if body.is_null() {
        request
    } else {
        request.json(body)
    };
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let media_type = answer
        .headers()
        .get("content-type")
        .map(|value| value.to_str().unwrap().to_owned());
    let text = answer.text().await.unwrap();
    let body = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap()
    };
    // Error messages are compared literally.
    let body = if status < 400 { types(&body) } else { body };
    (status, media_type.unwrap_or_default(), body)
}

fn types(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), types(value)))
            .collect(),
        Value::Array(items) => items.iter().map(types).collect(),
        Value::Null => Value::Null,
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
    }
}

#[tokio::test]
async fn stand_in_responses_have_the_format_of_the_server() {
    let server = PrefectServer::shared().await.unwrap();
    let api = server.api().unwrap();
    let stand_in = StandIn::start().unwrap();
    api.put_block("stood-in", &Block::object("p", "dev", "t"))
        .await
        .unwrap();
    stand_in.put_block("stood-in", "p", "dev", "t");
    api.create_kubernetes_pool("stood-in").await.unwrap();
    stand_in.put_pool("stood-in", kubernetes_template().unwrap());

    let block = |slug: &str, name: &str| {
        format!("/block_types/slug/{slug}/block_documents/name/{name}?include_secrets=true")
    };
    let (there, gone, of_no_type) = (
        block("secret", "stood-in"),
        block("secret", "gone"),
        block("gone", "stood-in"),
    );
    let edit = json!({"base_job_template": kubernetes_template().unwrap()});
    let filter = json!({"limit": 200, "offset": 0, "sort": "NAME_ASC", "work_pools": {"name": {"any_": ["stood-in"]}}});
    let nothing = Value::Null;
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(std::time::Duration::from_secs(30))
        .build()
        .unwrap();
    for request in [
        ("GET", there.as_str(), nothing.clone()),
        ("GET", &gone, nothing.clone()),
        ("GET", &of_no_type, nothing.clone()),
        ("GET", "/csrf-token?client=c", nothing.clone()),
        ("GET", "/work_pools/stood-in", nothing.clone()),
        ("GET", "/work_pools/gone", nothing.clone()),
        ("PATCH", "/work_pools/stood-in", edit.clone()),
        ("PATCH", "/work_pools/gone", edit),
        ("POST", "/deployments/filter", filter),
        ("GET", "/nowhere", nothing),
    ] {
        let real = shape(&http, &server.api_url(), &request).await;
        let ours = shape(&http, &stand_in.api_url(), &request).await;
        assert_eq!(ours, real, "{} {}", request.0, request.1);
    }
    assert_eq!(
        stand_in.template("stood-in"),
        Some(kubernetes_template().unwrap())
    );
    let counts = stand_in.counts();
    assert_eq!(
        (counts.blocks, counts.pool_reads, counts.pool_writes),
        (3, 2, 2)
    );
    assert_eq!((counts.deployments, counts.others), (1, 2));
}

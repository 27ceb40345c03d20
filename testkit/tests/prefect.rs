//! The real Prefect server: blocks in every shape, pools, credentials, and a restart.

// Clippy lets tests unwrap, and does not see that what tests call is a test as well.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use testkit::prefect::{Block, PrefectApi, PrefectOptions, PrefectServer, kubernetes_template};

async fn shared() -> PrefectApi {
    PrefectServer::shared().await.unwrap().api().unwrap()
}

async fn data(api: &PrefectApi, name: &str, block: &Block) -> Value {
    api.put_block(name, block).await.unwrap();
    let document = api.block(block.slug(), name).await.unwrap().unwrap();
    document["data"].clone()
}

#[tokio::test]
async fn blocks_come_back_in_the_shape_in_which_people_make_them() {
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
async fn a_block_is_replaced_under_its_id_and_deleted() {
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
async fn pools_keep_the_template_that_they_are_given() {
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
async fn a_server_with_auth_and_csrf_refuses_others_and_survives_a_restart() {
    let options = PrefectOptions {
        auth: Some("admin:pass".to_owned()),
        csrf: true,
        ..PrefectOptions::default()
    };
    let begun = std::time::Instant::now();
    let server = PrefectServer::start(options).await.unwrap();
    testkit::progress::line(&format!(
        "a Prefect server started in {:?}",
        begun.elapsed()
    ));
    let api = server.api().unwrap();
    api.put_block("kept", &Block::object("p", "dev", "t"))
        .await
        .unwrap();

    let stranger = PrefectApi::new(&server.api_url(), None, true).unwrap();
    let refused = stranger
        .block("secret", "kept")
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.ends_with("401 Unauthorized"), "{refused}");
    let careless = PrefectApi::new(&server.api_url(), server.auth(), false).unwrap();
    let refused = careless
        .create_pool("p", "process", None)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.ends_with("403 Forbidden"), "{refused}");

    server.stop().await;
    assert!(api.get("/health").await.is_err());
    server.restart().await.unwrap();
    assert!(api.block("secret", "kept").await.unwrap().is_some());
}

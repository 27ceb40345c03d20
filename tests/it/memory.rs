//! Memory while upstreams send answers that are small as text and large once they are decoded.
//!
//! Input: a Prefect server that the author of a binding controls.
//! Output: the peak of the operator's resident memory, and the reason in each condition.
//! Invariants: each answer is within the bound on its bytes, so that only the decoded size counts.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use wiremock::matchers::{method, path_regex};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::work_pools::template;
use crate::world::{Setup, World, secret};

/// By how much the peak may exceed the memory without bindings, in KiB. The unoptimised binary of the
/// tests needs more memory from the start than a released one.
const MAX_GROWTH_KIB: u64 = 40 << 10;

fn json_body(text: impl Into<Vec<u8>>) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(text, "application/json")
}

/// A list of `{"a":1}` that takes `bytes` as text.
fn objects(bytes: usize) -> String {
    format!("[{}]", vec![r#"{"a":1}"#; bytes / 8].join(","))
}

/// A Prefect server whose blocks `wide…` and pools `wide…` have many values, and whose pool `pages`
/// has deployments with a list as their namespace.
async fn hostile_server(w: &World) -> MockServer {
    let server = MockServer::start().await;
    let good = json!({"project": w.name, "config": "dev", "access_token": w.token});
    let good = json!({"id": "good", "data": {"value": good}}).to_string();
    let wide = format!(
        r#"{{"id":"wide","data":{{"value":{}}}}}"#,
        objects((1 << 20) - 64)
    );
    let pool =
        |template: &str| format!(r#"{{"type":"kubernetes","base_job_template":{template}}}"#);
    let env = objects((4 << 20) - 1024);
    let wide_pool = pool(&format!(r#"{{"job_configuration":{{"env":{env}}}}}"#));
    let namespace = objects((8 << 20) / 200 - 256);
    let deployment = format!(r#"{{"name":"d","job_variables":{{"namespace":{namespace}}}}}"#);
    let page = format!("[{}]", vec![deployment; 200].join(","));
    let mut first_page = true;
    let pages = std::sync::Mutex::new(move || std::mem::replace(&mut first_page, false));
    for (path, body) in [
        ("/block_documents/name/wide", wide),
        ("/block_documents/name/good", good),
        ("/work_pools/wide", wide_pool),
        ("/work_pools/pages", pool(&template(&w.name))),
    ] {
        Mock::given(method("GET"))
            .and(path_regex(path))
            .respond_with(json_body(body))
            .mount(&server)
            .await;
    }
    Mock::given(method("GET"))
        .and(path_regex("/csrf-token"))
        .respond_with(ResponseTemplate::new(422))
        .mount(&server)
        .await;
    Mock::given(path_regex("/deployments/filter"))
        .respond_with(move |_: &Request| {
            let is_first = (pages.lock().expect("no test panics here"))();
            json_body(if is_first {
                page.clone()
            } else {
                "[]".to_owned()
            })
        })
        .mount(&server)
        .await;
    server
}

/// The spec of a binding to the hostile server.
fn spec(w: &World, server: &MockServer, block: &str, pools: &Value) -> Value {
    let mut spec = w.pool_spec(pools);
    spec["prefect"]["server"]["remoteApiUrl"] = json!(server.uri());
    spec["prefect"]["block"]["name"] = json!(block);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn peak_stays_low_while_answers_unfold() -> Result<()> {
    let w = World::with("memory", Setup::default()).await?;
    w.set_doppler_secret("A", &secret("a"));
    let server = hostile_server(&w).await;
    let before = w.operator()?.peak_kib()?;
    for n in 0..8 {
        let spec = spec(&w, &server, &format!("wide{n}"), &json!([]));
        w.apply_binding(&format!("block{n}"), &spec).await?;
    }
    for pool in ["wide0", "wide1"] {
        let spec = spec(&w, &server, "good", &json!([{"name": pool}]));
        w.apply_binding(&format!("pool-{pool}"), &spec).await?;
    }
    let pools = json!([{"name": "pages", "mode": "Observe"}]);
    w.apply_binding("pages", &spec(&w, &server, "good", &pools))
        .await?;
    for n in 0..8 {
        w.until_not_ready(&format!("block{n}"), "AnswerTooLarge")
            .await?;
    }
    for pool in ["wide0", "wide1"] {
        w.until_not_ready(&format!("pool-{pool}"), "AnswerTooLarge")
            .await?;
    }
    w.until_not_ready("pages", "PoolEntryAbsent").await?;
    let peak = w.operator()?.peak_kib()?;
    let growth = peak.saturating_sub(before);
    ensure!(
        growth <= MAX_GROWTH_KIB,
        "the peak is {peak} KiB, {growth} KiB above {before} KiB"
    );
    w.finish().await
}

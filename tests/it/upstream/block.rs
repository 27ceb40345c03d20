//! The block: its shapes, its faults, its changes; and who may be asked for it.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::kubernetes;
use testkit::prefect::Block;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::good;
use crate::world::{World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_read_in_every_shape_that_people_have() -> Result<()> {
    let w = World::start("up-shapes").await?;
    w.set("A", &secret("good"));
    let (name, token) = (w.name.as_str(), w.token.as_str());
    let slug = |what: &str| format!("{name}-{what}");
    w.api
        .put_block(&slug("object"), &Block::object(name, "dev", token))
        .await?;
    w.api
        .put_block(&slug("string"), &Block::json_string(name, "dev", token))
        .await?;
    w.api
        .put_block(&slug("ui"), &Block::ui_wrapper(name, "dev", token))
        .await?;
    w.api
        .put_block(
            &slug("class"),
            &Block::class(&slug("class"), name, "dev", token),
        )
        .await?;
    w.api
        .put_block(
            &slug("parent"),
            &Block::parent(&slug("parent"), &slug("object")),
        )
        .await?;
    let deep = json!({"other": {"project": "x", "config": "y", "access_token": "z"},
        "mine": {"project": name, "config": "dev", "access_token": token}});
    w.api.put_block(&slug("deep"), &Block::Secret(deep)).await?;
    let blocks = [
        ("object", json!({"name": slug("object")})),
        ("string", json!({"name": slug("string")})),
        ("ui", json!({"name": slug("ui")})),
        (
            "class",
            json!({"name": slug("class"), "typeSlug": slug("class")}),
        ),
        (
            "parent",
            json!({"name": slug("parent"), "typeSlug": slug("parent")}),
        ),
        (
            "deep",
            json!({"name": slug("deep"), "pointer": "/value/mine"}),
        ),
    ];
    for (binding, block) in &blocks {
        let mut spec = w.spec();
        spec["prefect"]["block"] = block.clone();
        w.bind(binding, &spec).await?;
    }
    for (binding, _) in &blocks {
        w.until_ready(binding).await?;
        w.until_values(binding, &good()).await?;
    }
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_cannot_work_says_so_and_is_noticed_once_it_does() -> Result<()> {
    let w = World::start("up-block").await?;
    w.set("A", &secret("good"));
    w.api.delete_block("secret", &w.name).await?;
    w.bind("b", &w.spec()).await?;
    let said = w.until_not_ready("b", "BlockMissing").await?;
    ensure!(
        said.message.contains(&w.name) && said.message.contains("create it"),
        "{}",
        said.message
    );
    let resolved = w.condition("b", "BlockResolved").await?;
    ensure!(
        resolved.status == "False" && resolved.reason == "BlockMissing",
        "{resolved:?}"
    );
    ensure!(w.secrets().get_opt("b").await?.is_none());

    w.api
        .put_block(&w.name, &Block::Secret(json!(secret("just a string"))))
        .await?;
    w.until_not_ready("b", "BlockInvalid").await?;
    w.api
        .put_block(&w.name, &Block::object(&w.name, "dev", ""))
        .await?;
    let said = w.until_not_ready("b", "BlockIncomplete").await?;
    ensure!(said.message.contains("access_token"), "{}", said.message);
    w.api
        .put_block(&w.name, &Block::object(&w.name, "dev", &w.token))
        .await?;
    w.until_ready("b").await?;

    // Once there are good values, a block that breaks takes nothing away.
    w.api
        .put_block(&w.name, &Block::Secret(json!({"project": w.name})))
        .await?;
    w.until_condition("b", "BlockResolved", "False", "BlockIncomplete")
        .await?;
    w.until_values("b", &good()).await?;
    w.api.delete_block("secret", &w.name).await?;
    w.until_not_ready("b", "BlockMissing").await?;
    w.until_values("b", &good()).await?;
    w.api
        .put_block(&w.name, &Block::json_string(&w.name, "dev", &w.token))
        .await?;
    w.until_ready("b").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_block_is_noticed_and_told() -> Result<()> {
    let w = World::start("up-source").await?;
    w.set("A", &secret("good"));
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    let token = format!("dp.st.prd.{}", secret(&w.name));
    w.doppler.add_service_token(&token, &w.name, "prd");
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.api
        .put_block(&w.name, &Block::object(&w.name, "prd", &token))
        .await?;
    w.until_values("b", &pairs(&[("A", secret("prd"))])).await?;
    let told = w.until_event("SourceChanged").await?;
    ensure!(told.contains("dev") && told.contains("prd"), "{told}");
    w.until("the status to name the new config", async || {
        let status = w.status("b").await?;
        ensure!(status["config"] == "prd", "{status}");
        Ok(())
    })
    .await?;
    w.until_ready("b").await?;
    ensure!(w.events("SourceChanged").await?.len() == 1);
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_base_url_is_told_from_a_missing_block() -> Result<()> {
    let w = World::start("up-url").await?;
    let mut spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("{}/nowhere", w.prefect.api_url()));
    w.bind("wrong", &spec).await?;
    let said = w.until_not_ready("wrong", "PrefectWrongUrl").await?;
    ensure!(said.message.contains("/api"), "{}", said.message);
    let [port] = testkit::ports::free()?;
    spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("http://127.0.0.1:{port}/api"));
    w.bind("nobody", &spec).await?;
    w.until_not_ready("nobody", "PrefectUnreachable").await?;
    // What the manual says of `/api`: it is appended if it is missing.
    w.set("A", &secret("good"));
    spec["prefect"]["server"]["remoteApiUrl"] = json!(w.prefect.api_url().trim_end_matches("/api"));
    w.bind("short", &spec).await?;
    w.until_ready("short").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_allowed_is_sent_nothing() -> Result<()> {
    let w = World::start("up-hosts").await?;
    let thief = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200))
        .mount(&thief)
        .await;
    // The same server under a name that the flags do not list, and forms that are always refused.
    let named = format!("http://localhost:{}", thief.address().port());
    let doppler_hosts = [
        named.clone(),
        format!("https://localhost:{}", thief.address().port()),
        format!(
            "http://user:{}@127.0.0.1:{}",
            secret("pw"),
            thief.address().port()
        ),
        "http://169.254.169.254".to_owned(),
    ];
    let mut spec = w.spec();
    for (number, host) in doppler_hosts.iter().enumerate() {
        spec["doppler"]["host"] = json!(host);
        w.bind(&format!("doppler-{number}"), &spec).await?;
    }
    spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("{named}/api"));
    spec["prefect"]["server"]["apiKey"] = json!({"value": secret("pnu")});
    w.bind("prefect", &spec).await?;
    for number in 0..doppler_hosts.len() {
        w.until_not_ready(&format!("doppler-{number}"), "HostNotAllowed")
            .await?;
    }
    let said = w.until_not_ready("doppler-0", "HostNotAllowed").await?;
    ensure!(
        said.message.contains("--allowed-doppler-host"),
        "{}",
        said.message
    );
    let said = w.until_not_ready("prefect", "HostNotAllowed").await?;
    ensure!(
        said.message.contains("--allowed-prefect-host"),
        "{}",
        said.message
    );
    let received = thief.received_requests().await.context("no record")?;
    ensure!(
        received.is_empty(),
        "{} requests were sent there",
        received.len()
    );
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_slipped_past_the_rules_is_its_own_error_and_nobody_elses() -> Result<()> {
    let w = World::start("up-invalid").await?;
    w.set("A", &secret("good"));
    let mut spec = w.spec();
    spec["doppler"]["include"] = json!(["[A-"]);
    w.bind("bad-glob", &spec).await?;
    w.bind("good", &w.spec()).await?;
    w.until_ready("good").await?;
    let said = w.until_not_ready("bad-glob", "InvalidSpec").await?;
    ensure!(said.message.contains("[A-"), "{}", said.message);
    kubernetes::delete(&w.client, &w.name, &json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding", "metadata": {"name": "bad-glob"},
    }).to_string()).await?;
    w.until_unbound("bad-glob").await?;
    w.end().await
}

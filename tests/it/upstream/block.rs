//! The block: its formats, errors and changes, and the hosts that it is read from.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::kubernetes;
use testkit::prefect::Block;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::good;
use crate::world::{World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn reads_a_block_in_every_supported_shape() -> Result<()> {
    let w = World::start("up-shapes").await?;
    w.set_doppler_secret("A", &secret("good"));
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
        w.apply_binding(binding, &spec).await?;
    }
    for (binding, _) in &blocks {
        w.until_ready(binding).await?;
        w.until_values(binding, &good()).await?;
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_an_unusable_block_and_recovers_once_it_is_fixed() -> Result<()> {
    let w = World::start("up-block").await?;
    w.set_doppler_secret("A", &secret("good"));
    w.api.delete_block("secret", &w.name).await?;
    w.apply_binding("b", &w.spec()).await?;
    let ready = w.until_not_ready("b", "BlockMissing").await?;
    ensure!(
        ready.message.contains(&w.name) && ready.message.contains("create it"),
        "{}",
        ready.message
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
    let ready = w.until_not_ready("b", "BlockIncomplete").await?;
    ensure!(ready.message.contains("access_token"), "{}", ready.message);
    w.api
        .put_block(&w.name, &Block::object(&w.name, "dev", &w.token))
        .await?;
    w.until_ready("b").await?;

    // The block fails after a successful read: the Secret keeps its values.
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
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_block_is_synced_and_emits_source_changed() -> Result<()> {
    let w = World::start("up-source").await?;
    w.set_doppler_secret("A", &secret("good"));
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    let token = format!("dp.st.prd.{}", secret(&w.name));
    w.doppler.add_service_token(&token, &w.name, "prd");
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.api
        .put_block(&w.name, &Block::object(&w.name, "prd", &token))
        .await?;
    w.until_values("b", &pairs(&[("A", secret("prd"))])).await?;
    let event = w.until_event("SourceChanged").await?;
    ensure!(event.contains("dev") && event.contains("prd"), "{event}");
    w.until("the new config in the status", async || {
        let status = w.status("b").await?;
        ensure!(status["config"] == "prd", "{status}");
        Ok(())
    })
    .await?;
    w.until_ready("b").await?;
    ensure!(w.events("SourceChanged").await?.len() == 1);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn distinguishes_a_wrong_base_url_from_a_missing_block() -> Result<()> {
    let w = World::start("up-url").await?;
    let mut spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("{}/nowhere", w.prefect.api_url()));
    w.apply_binding("wrong", &spec).await?;
    let ready = w.until_not_ready("wrong", "PrefectWrongUrl").await?;
    ensure!(ready.message.contains("/api"), "{}", ready.message);
    let [port] = testkit::ports::free()?;
    spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("http://127.0.0.1:{port}/api"));
    w.apply_binding("unreachable", &spec).await?;
    w.until_not_ready("unreachable", "PrefectUnreachable")
        .await?;
    // The operator appends `/api` if it is missing.
    w.set_doppler_secret("A", &secret("good"));
    spec["prefect"]["server"]["remoteApiUrl"] = json!(w.prefect.api_url().trim_end_matches("/api"));
    w.apply_binding("short", &spec).await?;
    w.until_ready("short").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_nothing_to_a_host_that_is_not_allowed() -> Result<()> {
    let w = World::start("up-hosts").await?;
    let unlisted = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200))
        .mount(&unlisted)
        .await;
    // The same server under a name that the flags do not list, and forms that are always refused.
    let named = format!("http://localhost:{}", unlisted.address().port());
    let doppler_hosts = [
        named.clone(),
        format!("https://localhost:{}", unlisted.address().port()),
        format!(
            "http://user:{}@127.0.0.1:{}",
            secret("pw"),
            unlisted.address().port()
        ),
        "http://169.254.169.254".to_owned(),
    ];
    let mut spec = w.spec();
    for (number, host) in doppler_hosts.iter().enumerate() {
        spec["doppler"]["host"] = json!(host);
        w.apply_binding(&format!("doppler-{number}"), &spec).await?;
    }
    spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("{named}/api"));
    spec["prefect"]["server"]["apiKey"] = json!({"value": secret("pnu")});
    w.apply_binding("prefect", &spec).await?;
    for number in 0..doppler_hosts.len() {
        w.until_not_ready(&format!("doppler-{number}"), "HostNotAllowed")
            .await?;
    }
    let ready = w.until_not_ready("doppler-0", "HostNotAllowed").await?;
    ensure!(
        ready.message.contains("--allowed-doppler-host"),
        "{}",
        ready.message
    );
    let ready = w.until_not_ready("prefect", "HostNotAllowed").await?;
    ensure!(
        ready.message.contains("--allowed-prefect-host"),
        "{}",
        ready.message
    );
    let received = unlisted
        .received_requests()
        .await
        .context("the server does not record requests")?;
    ensure!(
        received.is_empty(),
        "{} requests to a host that is not allowed",
        received.len()
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_binding_fails_alone() -> Result<()> {
    let w = World::start("up-invalid").await?;
    w.set_doppler_secret("A", &secret("good"));
    let mut spec = w.spec();
    spec["doppler"]["include"] = json!(["[A-"]);
    w.apply_binding("bad-glob", &spec).await?;
    w.apply_binding("good", &w.spec()).await?;
    w.until_ready("good").await?;
    let ready = w.until_not_ready("bad-glob", "InvalidSpec").await?;
    ensure!(ready.message.contains("[A-"), "{}", ready.message);
    kubernetes::delete(&w.client, &w.name, &json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding", "metadata": {"name": "bad-glob"},
    }).to_string()).await?;
    w.until_binding_deleted("bad-glob").await?;
    w.finish().await
}

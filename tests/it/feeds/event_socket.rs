//! The event socket of the real Prefect server, and servers without an event socket.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::prefect::{Block, PrefectOptions, PrefectServer, PrefectVersion};
use wiremock::matchers::path_regex;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{sample_name, values_with_a};
use crate::work_pools::template;
use crate::world::{Setup, World, secret};

impl World {
    /// A world without polls, with configs `dev` and `prd`, whose values are their names, and the
    /// token of `prd`.
    async fn with_dev_and_prd(name: &str) -> Result<(Self, String)> {
        let w = Self::with(name, Setup::without_polls()).await?;
        for config in ["dev", "prd"] {
            w.doppler.set(&w.name, config, "A", &secret(config));
        }
        let prd = format!("dp.st.prd.{}", secret(name));
        w.doppler.add_service_token(&prd, name, "prd");
        Ok((w, prd))
    }

    /// Writes a block that no binding refers to.
    async fn put_unrelated_block(&self) -> Result<()> {
        let block = Block::object("p", "c", "t");
        let name = format!("{}-another", self.name);
        self.api.put_block(&name, &block).await.map(drop)
    }

    /// Waits for the first event, since the server does not confirm the subscription.
    async fn until_events_arrive(&self) -> Result<()> {
        self.until_subscriptions("prefect", 1).await?;
        let received = sample_name("change_notifications_total", "source", "prefect");
        self.until("an event", async || {
            self.put_unrelated_block().await?;
            ensure!(self.sample(&received).await? > 0, "no event was received");
            Ok(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn block_update_delete_and_recreate_arrive_without_a_poll() -> Result<()> {
    let (w, prd) = World::with_dev_and_prd("feed-block").await?;
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_values("b", &values_with_a("dev")).await?;
    w.until_events_arrive().await?;

    w.api
        .put_block(&w.name, &Block::object(&w.name, "prd", &prd))
        .await?;
    w.until_values("b", &values_with_a("prd")).await?;
    let event = w.until_event("SourceChanged").await?;
    let configs = [format!("{}/dev", w.name), format!("{}/prd", w.name)];
    ensure!(
        configs.iter().all(|config| event.contains(config)),
        "{event}"
    );

    w.api.delete_block("secret", &w.name).await?;
    w.until_not_ready("b", "BlockMissing").await?;
    w.until_values("b", &values_with_a("prd")).await?;
    // A recreated block has another id and the same name.
    w.api
        .put_block(&w.name, &Block::object(&w.name, "dev", &w.token))
        .await?;
    w.until_ready("b").await?;
    w.until_values("b", &values_with_a("dev")).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn referenced_block_change_arrives_without_a_poll() -> Result<()> {
    let (w, prd) = World::with_dev_and_prd("feed-parent").await?;
    let parent = format!("{}-parent", w.name);
    w.api
        .put_block(&parent, &Block::parent(&parent, &w.name))
        .await?;
    let mut spec = w.spec();
    spec["prefect"]["block"] = json!({"name": parent, "typeSlug": parent});
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    w.until_values("b", &values_with_a("dev")).await?;
    w.until_events_arrive().await?;
    w.api
        .put_block(&w.name, &Block::object(&w.name, "prd", &prd))
        .await?;
    w.until_values("b", &values_with_a("prd")).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_pool_entry_is_restored_without_a_poll() -> Result<()> {
    let (w, _) = World::with_dev_and_prd("feed-pool").await?;
    w.create_pool(&w.name, &template(&w.name)).await?;
    w.bind_to("b", &w.name).await?;
    w.until_ready("b").await?;
    w.until_sources(&w.name, &["b"]).await?;
    w.until_events_arrive().await?;
    w.write_template(&w.name, &template(&w.name)).await?;
    w.until_sources(&w.name, &["b"]).await?;
    // Block and pool share one socket.
    w.until_subscriptions("prefect", 1).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn unrelated_blocks_cause_no_reads() -> Result<()> {
    const OTHERS: u64 = 12;
    let (w, prd) = World::with_dev_and_prd("feed-others").await?;
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_events_arrive().await?;
    w.reconciles_at_rest().await?;
    let before = w.all_reads("prefect").await?;
    for _ in 0..OTHERS {
        w.put_unrelated_block().await?;
    }
    // The server sends events in order, so the earlier ones have arrived by then.
    w.api
        .put_block(&w.name, &Block::object(&w.name, "prd", &prd))
        .await?;
    w.until_values("b", &values_with_a("prd")).await?;
    let reads = w.all_reads("prefect").await? - before;
    // The block is read at once and twice more; the first read of the socket may still be pending.
    ensure!((1..=4).contains(&reads), "{reads} reads");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_blocks_less_often_while_subscribed() -> Result<()> {
    let setup = Setup::default().args(&["--pushed-refresh-interval", "1h"]);
    let w = World::with("feed-rarely", setup).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_subscriptions("prefect", 1).await?;
    let version = w.status("b").await?["prefectVersion"].clone();
    ensure!(version == "3.8.8", "{version}");
    // Reads that started before the socket connected.
    w.until_polls("unchanged", 2).await?;
    let before = w.all_reads("prefect").await?;
    w.until_polls("unchanged", 5).await?;
    let more = w.all_reads("prefect").await? - before;
    ensure!(more == 0, "{more} reads of a subscribed block");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_reports_no_blocks_is_polled_at_the_interval() -> Result<()> {
    let options = PrefectOptions {
        version: PrefectVersion::WithoutBlockEvents,
        ..PrefectOptions::default()
    };
    let setup = Setup::default().args(&["--pushed-refresh-interval", "1h"]);
    let w = World::with("feed-silent", setup).await?;
    let server = PrefectServer::start(options).await?;
    let api = server.api()?;
    let prd = format!("dp.st.prd.{}", secret("feed-silent"));
    w.doppler.add_service_token(&prd, &w.name, "prd");
    w.doppler.set(&w.name, "dev", "A", &secret("dev"));
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    let block = |config: &str, token: &str| Block::json_string(&w.name, config, token);
    api.put_block(&w.name, &block("dev", &w.token)).await?;
    let mut spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(server.api_url());
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    // The server accepts the socket, and is silent.
    w.until_subscriptions("prefect", 1).await?;
    w.until_values("b", &values_with_a("dev")).await?;
    api.put_block(&w.name, &block("prd", &prd)).await?;
    w.until_values("b", &values_with_a("prd")).await?;
    ensure!(w.status("b").await?["prefectVersion"] == "3.7.3");
    let message = w.condition("b", "BlockResolved").await?.message;
    ensure!(message.contains("so the operator polls them"), "{message}");
    w.finish().await
}

/// A server without a socket. Each of its blocks names the world's config.
async fn without_socket(w: &World) -> MockServer {
    let server = MockServer::start().await;
    let value = json!({"project": w.name, "config": "dev", "access_token": w.token});
    let document = ResponseTemplate::new(200).set_body_json(json!({"data": {"value": value}}));
    Mock::given(path_regex("/block_documents/name/"))
        .respond_with(document)
        .mount(&server)
        .await;
    server
}

/// Number of requests for blocks below `path`.
async fn block_requests(server: &MockServer, path: &str) -> Result<usize> {
    let requests = server
        .received_requests()
        .await
        .context("the server does not record requests")?;
    let of = requests.iter().map(|request| request.url.path());
    let blocks = of.filter(|of| of.contains(path) && of.contains("/block_documents/"));
    Ok(blocks.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_a_server_without_a_socket_and_reports_it_once() -> Result<()> {
    let w = World::start("feed-old").await?;
    w.set_doppler_secret("A", &secret("a"));
    let server = without_socket(&w).await;
    let mut spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(server.uri());
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    w.until("the rejection in the condition", async || {
        let resolved = w.condition("b", "BlockResolved").await?;
        ensure!(resolved.status == "True", "{resolved:?}");
        let times = resolved.message.matches("rejects the event socket");
        ensure!(times.count() == 1, "{}", resolved.message);
        Ok(())
    })
    .await?;
    w.until_polls("unchanged", 1).await?;
    let before = w.binding("b").await?.metadata.resource_version;
    let polled = block_requests(&server, "/api/").await?;
    w.until("polls of the block", async || {
        let now = block_requests(&server, "/api/").await?;
        ensure!(now >= polled + 3, "{} so far", now - polled);
        Ok(())
    })
    .await?;
    ensure!(w.binding("b").await?.metadata.resource_version == before);
    let rejections = sample_name("subscription_rejections_total", "upstream", "prefect");
    ensure!(
        w.sample(&rejections).await? == 1,
        "the socket was tried again"
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_account_budget_does_not_delay_other_accounts() -> Result<()> {
    const BUDGET: usize = 5;
    let setup = Setup::without_polls().args(&["--prefect-account-budget", "5"]);
    let w = World::with("feed-budget", setup).await?;
    w.set_doppler_secret("A", &secret("a"));
    let server = without_socket(&w).await;
    let account = |number: u8| format!("{number:08}-0000-4000-8000-000000000000");
    let spec = |number: u8, block: &str| {
        let workspace = account(9);
        let at = json!({
            "remoteApiUrl": server.uri(), "apiKey": {"value": secret("pnu")},
            "accountId": account(number), "workspaceId": workspace,
        });
        let mut spec = w.spec();
        spec["prefect"] = json!({"server": at, "block": {"name": block}});
        spec
    };
    for number in 0..BUDGET + 3 {
        let name = format!("b{number}");
        w.apply_binding(&name, &spec(1, &name)).await?;
    }
    let queued = sample_name("upstream_queue_depth", "upstream", "prefect");
    w.until_sample(&queued, 3).await?;
    let sent = block_requests(&server, &account(1)).await?;
    ensure!(sent <= BUDGET, "{sent} requests");
    w.apply_binding("other", &spec(2, "other")).await?;
    w.until_ready("other").await?;
    w.finish().await
}

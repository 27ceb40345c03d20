//! The event socket of the real Prefect server, and servers without one.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::prefect::Block;
use wiremock::matchers::path_regex;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{a, of};
use crate::work_pools::template;
use crate::world::{Setup, World, secret};

impl World {
    /// A world whose operator does not poll, with config `dev` of value `dev` and config `prd` of value `prd`, and the token of `prd`.
    async fn told(name: &str) -> Result<(Self, String)> {
        let w = Self::with(name, Setup::without_polls()).await?;
        for config in ["dev", "prd"] {
            w.doppler.set(&w.name, config, "A", &secret(config));
        }
        let prd = format!("dp.st.prd.{}", secret(name));
        w.doppler.add_service_token(&prd, name, "prd");
        Ok((w, prd))
    }

    /// Writes a block that no binding names.
    async fn put_another(&self) -> Result<()> {
        let block = Block::object("p", "c", "t");
        let name = format!("{}-another", self.name);
        self.api.put_block(&name, &block).await.map(drop)
    }

    /// Waits until the socket is heard on: the server does not say when it has understood what is wanted.
    async fn until_heard(&self) -> Result<()> {
        self.until_links("prefect", 1).await?;
        let told = of("pushes_total", "kind", "prefect");
        self.until("an event", async || {
            self.put_another().await?;
            ensure!(self.sample(&told).await? > 0, "none is told");
            Ok(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_changed_deleted_or_made_again_is_noticed_without_a_poll() -> Result<()> {
    let (w, prd) = World::told("push-block").await?;
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_values("b", &a("dev")).await?;
    w.until_heard().await?;

    w.api
        .put_block(&w.name, &Block::object(&w.name, "prd", &prd))
        .await?;
    w.until_values("b", &a("prd")).await?;
    let told = w.until_event("SourceChanged").await?;
    let ways = [format!("{}/dev", w.name), format!("{}/prd", w.name)];
    ensure!(ways.iter().all(|way| told.contains(way)), "{told}");

    w.api.delete_block("secret", &w.name).await?;
    w.until_not_ready("b", "BlockMissing").await?;
    w.until_values("b", &a("prd")).await?;
    // Made again it has another id, and is known by its name.
    w.api
        .put_block(&w.name, &Block::object(&w.name, "dev", &w.token))
        .await?;
    w.until_ready("b").await?;
    w.until_values("b", &a("dev")).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_another_refers_to_is_noticed_without_a_poll() -> Result<()> {
    let (w, prd) = World::told("push-parent").await?;
    let parent = format!("{}-parent", w.name);
    w.api
        .put_block(&parent, &Block::parent(&parent, &w.name))
        .await?;
    let mut spec = w.spec();
    spec["prefect"]["block"] = json!({"name": parent, "typeSlug": parent});
    w.bind("b", &spec).await?;
    w.until_ready("b").await?;
    w.until_values("b", &a("dev")).await?;
    w.until_heard().await?;
    w.api
        .put_block(&w.name, &Block::object(&w.name, "prd", &prd))
        .await?;
    w.until_values("b", &a("prd")).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_somebody_takes_out_of_a_pool_is_put_back_without_a_poll() -> Result<()> {
    let (w, _) = World::told("push-pool").await?;
    w.make_pool(&w.name, &template(&w.name)).await?;
    w.bind_to("b", &w.name).await?;
    w.until_ready("b").await?;
    w.until_sources(&w.name, &["b"]).await?;
    w.until_heard().await?;
    w.write_template(&w.name, &template(&w.name)).await?;
    w.until_sources(&w.name, &["b"]).await?;
    // One socket is enough for block and pool.
    w.until_links("prefect", 1).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_others_cost_nothing() -> Result<()> {
    const OTHERS: u64 = 12;
    let (w, prd) = World::told("push-others").await?;
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_heard().await?;
    w.reconciles_at_rest().await?;
    let before = w.all_reads("prefect").await?;
    for _ in 0..OTHERS {
        w.put_another().await?;
    }
    // By the time that ours is told of, all of those were.
    w.api
        .put_block(&w.name, &Block::object(&w.name, "prd", &prd))
        .await?;
    w.until_values("b", &a("prd")).await?;
    let reads = w.all_reads("prefect").await? - before;
    // Ours is read at once and twice shortly after; the socket's own first read may still have been on its way.
    ensure!((1..=4).contains(&reads), "{reads} reads");
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_polled_less_often_while_the_socket_is_up() -> Result<()> {
    let setup = Setup::default().args(&["--pushed-refresh-interval", "1h"]);
    let w = World::with("push-rarely", setup).await?;
    w.set("A", &secret("a"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_links("prefect", 1).await?;
    // What was on its way when the socket came up.
    w.until_polls("same", 2).await?;
    let before = w.all_reads("prefect").await?;
    w.until_polls("same", 5).await?;
    let more = w.all_reads("prefect").await? - before;
    ensure!(more == 0, "{more} reads of a block that would be told of");
    w.end().await
}

/// A server without a socket, for which every block names the world's config.
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

/// How often blocks were asked for below `path`.
async fn asked(server: &MockServer, path: &str) -> Result<usize> {
    let requests = server.received_requests().await.context("no record")?;
    let of = requests.iter().map(|request| request.url.path());
    let blocks = of.filter(|of| of.contains(path) && of.contains("/block_documents/"));
    Ok(blocks.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_socket_is_polled_which_is_said_once() -> Result<()> {
    let w = World::start("push-old").await?;
    w.set("A", &secret("a"));
    let server = without_socket(&w).await;
    let mut spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(server.uri());
    w.bind("b", &spec).await?;
    w.until_ready("b").await?;
    w.until("the refusal to be told", async || {
        let resolved = w.condition("b", "BlockResolved").await?;
        ensure!(resolved.status == "True", "{resolved:?}");
        let times = resolved.message.matches("refuses its event socket");
        ensure!(times.count() == 1, "{}", resolved.message);
        Ok(())
    })
    .await?;
    w.until_polls("same", 1).await?;
    let before = w.binding("b").await?.metadata.resource_version;
    let polled = asked(&server, "/api/").await?;
    w.until("polls of the block", async || {
        let now = asked(&server, "/api/").await?;
        ensure!(now >= polled + 3, "{} so far", now - polled);
        Ok(())
    })
    .await?;
    ensure!(w.binding("b").await?.metadata.resource_version == before);
    let refusals = of("link_refusals_total", "upstream", "prefect");
    ensure!(w.sample(&refusals).await? == 1, "it is tried rarely");
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_prefect_cloud_keeps_to_its_budget_and_holds_up_no_other() -> Result<()> {
    const BUDGET: usize = 5;
    let setup = Setup::without_polls().args(&["--prefect-account-budget", "5"]);
    let w = World::with("push-budget", setup).await?;
    w.set("A", &secret("a"));
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
        w.bind(&name, &spec(1, &name)).await?;
    }
    let waiting = of("upstream_waiting", "upstream", "prefect");
    w.until_sample(&waiting, 3).await?;
    let sent = asked(&server, &account(1)).await?;
    ensure!(sent <= BUDGET, "{sent} requests");
    w.bind("other", &spec(2, "other")).await?;
    w.until_ready("other").await?;
    w.end().await
}

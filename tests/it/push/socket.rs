//! The event socket of the real Prefect server. No operator here polls while its test lasts.

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::prefect::Block;

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

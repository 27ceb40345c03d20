//! The oldest supported Prefect server, 2.20: block, entry, drift and removal.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::prefect::{Block, PrefectOptions, PrefectServer, PrefectVersion, env_from};

use crate::work_pools::template;
use crate::world::{World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn block_entry_and_removal_work_with_version_2_20() -> Result<()> {
    let w = World::start("prefect-oldest").await?;
    let server = PrefectServer::start(PrefectOptions {
        version: PrefectVersion::Oldest,
        ..PrefectOptions::default()
    })
    .await?;
    let (api, pool) = (server.api()?, "oldest");
    w.set_doppler_secret("A", &secret("a"));
    // Its block of type secret holds text only.
    let block = Block::json_string(&w.name, "dev", &w.token);
    api.put_block(&w.name, &block).await?;
    let body: Value = serde_json::from_str(&template(&w.name))?;
    api.create_pool(pool, "kubernetes", Some(body)).await?;
    let before = api.template_text(pool).await?;

    let mut spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(server.api_url());
    spec["inject"] = json!({"workPools": [{"name": pool}]});
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    ensure!(w.values("b").await? == pairs(&[("A", secret("a"))]));
    w.until("the version in the status", async || {
        let status = w.status("b").await?;
        ensure!(status["prefectVersion"] == "2.20.25", "{status}");
        Ok(())
    })
    .await?;
    let entries =
        async || -> Result<Vec<Value>> { Ok(env_from(&mut api.template(pool).await?)?.clone()) };
    let ours = json!({"secretRef": {"name": "b", "optional": true}});
    ensure!(entries().await? == std::slice::from_ref(&ours));

    // Another client writes the template as it was.
    let body: Value = serde_json::from_str(&before)?;
    api.set_template(pool, &body).await?;
    w.until("the entry again", async || {
        let found = entries().await?;
        ensure!(found == std::slice::from_ref(&ours), "{found:?}");
        Ok(())
    })
    .await?;
    w.until_polls("unchanged", 2).await?;
    w.delete_binding("b").await?;
    w.until_binding_deleted("b").await?;
    ensure!(api.template_text(pool).await? == before, "another template");
    ensure!(w.secrets().get_opt("b").await?.is_none());
    w.finish().await
}

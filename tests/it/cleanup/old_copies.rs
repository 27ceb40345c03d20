//! A copy of a template that is older than the removal of an entry.
//!
//! The stand-in plays Prefect, because no event of the real server may tell of the copy.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::prefect::{StandIn, kubernetes_template};

use super::removal_order::with_cleanup_delay;
use crate::world::{Setup, World, secret};

/// Whether the template of the pool has an entry for the Secret.
fn has_entry(server: &StandIn, pool: &str, secret: &str) -> Result<bool> {
    let template = server.template(pool).context("no pool")?;
    Ok(template
        .to_string()
        .contains(&json!({"name": secret, "optional": true}).to_string()))
}

fn spec(w: &World, server: &StandIn, secret: &str) -> Value {
    let mut spec = w.pool_spec(&json!([{"name": w.name}]));
    spec["prefect"]["server"] = json!({"remoteApiUrl": server.api_url()});
    spec["prefect"]["block"]["name"] = json!("b");
    spec["managedSecret"] = json!({"name": secret});
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_comes_back_unseen_is_removed_again() -> Result<()> {
    let pool = "cleanup-old-copies";
    let setup = Setup {
        refresh_interval: "1h",
        ..with_cleanup_delay()
    };
    let w = World::with(pool, setup).await?;
    w.set_doppler_secret("A", &secret("a"));
    let server = StandIn::start()?;
    server.put_block("b", &w.name, "dev", &w.token);
    let mut template = kubernetes_template()?;
    template["variables"]["properties"]["namespace"]["default"] = json!(w.name);
    server.put_pool(pool, template);

    w.apply_binding("b", &spec(&w, &server, "first")).await?;
    w.until_ready("b").await?;
    let copy = server.template(pool).context("no pool")?;
    w.apply_binding("b", &spec(&w, &server, "second")).await?;
    w.until("the entry of the new name alone", async || {
        ensure!(has_entry(&server, pool, "second")? && !has_entry(&server, pool, "first")?);
        Ok(())
    })
    .await?;

    // The operator keeps the record for a while. No event and no poll tells of the copy.
    server.put_pool(pool, copy);
    w.until_no_secret("first").await?;
    w.until("the entry of the new name alone", async || {
        ensure!(has_entry(&server, pool, "second")? && !has_entry(&server, pool, "first")?);
        Ok(())
    })
    .await?;
    w.delete_binding("b").await?;
    w.until_binding_deleted("b").await?;
    ensure!(!has_entry(&server, pool, "second")?);
    w.finish().await
}

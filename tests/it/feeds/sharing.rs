//! Sources and subscriptions that bindings share, and when they close.

use anyhow::{Result, ensure};
use kube::ResourceExt;
use serde_json::json;
use testkit::doppler::RecordedRequest;
use testkit::prefect::Block;

use super::{sample_name, values_with_a};
use crate::work_pools::template;
use crate::world::{Setup, World, secret};

#[tokio::test(flavor = "multi_thread")]
async fn config_change_reconciles_only_the_bindings_of_that_config() -> Result<()> {
    const MANY: u64 = 10;
    let w = World::with("feed-change", Setup::without_polls()).await?;
    w.doppler.add_account_token(&w.token);
    for config in ["dev", "prd"] {
        w.doppler.set(&w.name, config, "A", &secret("before"));
    }
    let many: Vec<_> = (0..MANY).map(|number| format!("dev-{number}")).collect();
    for name in &many {
        w.apply_binding(name, &w.spec()).await?;
    }
    let mut prd = w.spec();
    prd["doppler"]["config"] = json!("prd");
    w.apply_binding("prd", &prd).await?;
    for name in &many {
        w.until_ready(name).await?;
    }
    w.until_ready("prd").await?;
    w.until_subscriptions("doppler", 2).await?;

    let before = w.reconciles_at_rest().await?;
    let written = w.writes(Some("secret")).await?;
    w.doppler.set(&w.name, "prd", "A", &secret("after"));
    w.until_values("prd", &values_with_a("after")).await?;
    let one = w.reconciles_at_rest().await? - before;
    ensure!(
        (1..MANY / 2).contains(&one),
        "{one} reconciles for one binding"
    );
    ensure!(w.writes(Some("secret")).await? == written + 1);

    w.set_doppler_secret("A", &secret("after"));
    for name in &many {
        w.until_values(name, &values_with_a("after")).await?;
    }
    let all = w.reconciles_at_rest().await? - before - one;
    ensure!(
        (MANY..MANY * MANY / 2).contains(&all),
        "{all} reconciles for {MANY} bindings"
    );
    ensure!(w.writes(Some("secret")).await? == written + 1 + MANY);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_reads_each_source_once_and_writes_only_drift() -> Result<()> {
    let mut w = World::with("feed-restart", Setup::without_polls()).await?;
    let token = format!("dp.st.prd.{}", secret("feed-restart"));
    w.doppler.add_service_token(&token, &w.name, "prd");
    let second = format!("{}-prd", w.name);
    w.api
        .put_block(&second, &Block::object(&w.name, "prd", &token))
        .await?;
    let mut prd = w.spec();
    prd["prefect"]["block"]["name"] = json!(second);
    let mut names = Vec::new();
    for (config, spec) in [("dev", w.spec()), ("prd", prd)] {
        w.doppler.set(&w.name, config, "A", &secret(config));
        for number in 0..3 {
            let name = format!("{config}-{number}");
            w.apply_binding(&name, &spec).await?;
            names.push(name);
        }
    }
    for name in &names {
        w.until_ready(name).await?;
    }
    w.reconciles_at_rest().await?;
    w.stop_operator().await?;
    let drift = json!({"stringData": {"A": secret("drift")}});
    w.edit_secret("dev-1", &drift).await?;
    let before = versions(&w, &names).await?;
    let full = full_downloads(&w);
    w.start_operator().await?;
    w.until_values("dev-1", &values_with_a("dev")).await?;
    w.reconciles_at_rest().await?;
    ensure!(
        w.sample(super::RECONCILES).await? >= 6,
        "some bindings were not reconciled"
    );
    // If the socket connects after the first read, the block is read once more.
    let (new, same) = (
        w.reads("prefect", "changed").await?,
        w.reads("prefect", "unchanged").await?,
    );
    ensure!(new == 2 && same <= 2, "{new} + {same} reads of two blocks");
    let read = full_downloads(&w) - full;
    ensure!(read == 2, "{read} downloads of two configs");
    let written = [
        w.writes(Some("secret")).await?,
        w.writes(Some("status")).await?,
    ];
    ensure!(written == [1, 0], "{written:?}");
    ensure!(
        versions(&w, &names).await? == before,
        "something was written"
    );
    w.finish().await
}

/// The resource versions of all bindings, and of all Secrets except the edited one.
async fn versions(w: &World, names: &[String]) -> Result<Vec<Option<String>>> {
    let mut found = Vec::new();
    for name in names {
        found.push(w.binding(name).await?.resource_version());
        if name != "dev-1" {
            found.push(w.secrets().get(name).await?.resource_version());
        }
    }
    Ok(found)
}

/// Downloads of both configs that returned the config.
fn full_downloads(w: &World) -> usize {
    let calls = w.doppler.downloads();
    let ours = |call: &&RecordedRequest| {
        call.status == Some(200) && (call.is_for(&w.name, "dev") || call.is_for(&w.name, "prd"))
    };
    calls.iter().filter(ours).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_sources_and_subscriptions_without_bindings() -> Result<()> {
    let w = World::with_own_doppler("feed-end", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.create_pool(&w.name, &template(&w.name)).await?;
    let mut spec = w.pool_spec(&json!([{"name": w.name}]));
    let until = async |count: u64| -> Result<()> {
        for upstream in ["doppler", "prefect"] {
            w.until_subscriptions(upstream, count).await?;
        }
        for kind in ["block", "config", "pool"] {
            w.until_sample(&sample_name("sources", "kind", kind), count)
                .await?;
        }
        w.until("the streams at Doppler", async || {
            let streams = w.doppler.open_streams() as u64;
            ensure!(streams == count, "{streams}");
            Ok(())
        })
        .await
    };
    // Several, because the deletion of a Secret may enqueue its binding while that is being
    // deleted.
    let names: Vec<_> = (0..8).map(|number| format!("b{number}")).collect();
    let entries: Vec<_> = names.iter().map(String::as_str).collect();
    for (suspend, reason, subscriptions) in [
        (false, "Ready", 1),
        (true, "Suspended", 0),
        (false, "Ready", 1),
    ] {
        spec["suspend"] = json!(suspend);
        for name in &names {
            w.apply_binding(name, &spec).await?;
        }
        let status = if suspend { "Unknown" } else { "True" };
        for name in &names {
            w.until_condition(name, "Ready", status, reason).await?;
        }
        until(subscriptions).await?;
        w.until_sources(&w.name, &entries).await?;
    }
    for name in &names {
        w.delete_binding(name).await?;
    }
    for name in &names {
        w.until_binding_deleted(name).await?;
    }
    until(0).await?;
    w.finish().await
}

//! What a change of a server, of its key, and its deletion cause.

use anyhow::{Result, ensure};
use kube::api::DeleteParams;
use serde_json::json;

use super::fixture::Fixture;
use crate::work_pools::template;
use crate::world::{Setup, pairs, secret};

/// Bindings that share the server.
const BINDINGS: [&str; 4] = ["b0", "b1", "b2", "b3"];

fn without_polls() -> Setup {
    Setup {
        refresh_interval: "1h",
        ..Fixture::setup()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dependants_share_a_connection_and_resolve_once() -> Result<()> {
    let f = Fixture::start("servers-changes", without_polls()).await?;
    let w = &f.w;
    w.set_doppler_secret("A", &secret("first"));
    f.put_block("servers-changes").await?;
    w.create_pool("servers-changes", &template(&w.name)).await?;
    let mut lists = json!({
        "namespaces": {"names": [w.name]}, "blocks": ["servers-*"], "workPools": ["servers-*"],
    });
    f.put_server(&lists).await?;
    for name in BINDINGS {
        w.apply_binding(name, &f.spec("servers-changes", &[]))
            .await?;
    }
    for name in BINDINGS {
        w.until_ready(name).await?;
    }
    f.until_server("Resolved", 4, 0).await?;
    // One read of the block serves all bindings.
    let block = "block_documents/name/servers-changes";
    let reads = f.front.requests(block).len();
    ensure!(reads == 1, "{reads} reads of the block");

    // A change of the lists that changes nothing for them: no request, no write of a status.
    let mut versions = Vec::new();
    for name in BINDINGS {
        versions.push(f.version(name).await?);
    }
    f.front.clear();
    lists["blocks"] = json!(["servers-changes", "other"]);
    f.put_server(&lists).await?;
    f.until_server("Resolved", 4, 0).await?;
    f.ensure_silent("/api")?;
    for (name, before) in BINDINGS.iter().zip(&versions) {
        ensure!(f.version(name).await? == *before, "{name} was written");
    }

    // A new key: one read with it serves all bindings, and the old one is used no more.
    let key = secret("api-key-2");
    f.front.set_key(&key);
    f.front.clear();
    w.set_doppler_secret("A", &secret("second"));
    f.put_key(&key).await?;
    w.until("a read with the new key", async || {
        ensure!(!f.front.requests(block).is_empty());
        Ok(())
    })
    .await?;
    for name in BINDINGS {
        w.until_ready(name).await?;
    }
    f.until_server("Resolved", 4, 0).await?;
    let reads = f.front.requests(block).len();
    ensure!(reads == 1, "{reads} reads of the block with the new key");

    // Without the key, server and bindings say what is missing.
    f.keys()
        .delete("prefect-api-key", &DeleteParams::default())
        .await?;
    let text = f.until_server("ReferenceMissing", 4, 0).await?;
    ensure!(
        text.contains("spec.server.apiKey") && text.contains("servers-changes-platform"),
        "{text}"
    );
    let missing = w.until_not_ready(BINDINGS[0], "ReferenceMissing").await?;
    let text = missing.message;
    ensure!(
        text.contains("ClusterPrefectServer servers-changes"),
        "{text}"
    );
    f.put_key(&key).await?;
    for name in BINDINGS {
        w.until_ready(name).await?;
    }
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_values_stay_without_the_server() -> Result<()> {
    let mut f = Fixture::start("servers-deleted", Fixture::setup()).await?;
    let value = secret("deleted");
    f.w.set_doppler_secret("A", &value);
    f.put_block("servers-deleted").await?;
    f.w.create_pool("servers-deleted", &template(&f.w.name))
        .await?;
    let lists = json!({
        "namespaces": {"names": [f.w.name]}, "blocks": ["*"], "workPools": ["servers-deleted"],
    });
    f.put_server(&lists).await?;
    let spec = f.spec("servers-deleted", &["servers-deleted"]);
    f.w.apply_binding("b", &spec).await?;
    f.w.until_ready("b").await?;
    f.delete_server().await?;
    let text = f.refused(&f.w, "b", "ServerNotFound").await?;
    ensure!(
        text.contains("ClusterPrefectServer servers-deleted: it does not exist"),
        "{text}"
    );
    // Also for an operator that starts without it.
    f.w.stop_operator().await?;
    f.front.clear();
    f.w.set_doppler_secret("A", &secret("newer"));
    f.w.start_operator().await?;
    f.w.apply_binding("new", &spec).await?;
    f.w.until_not_ready("new", "ServerNotFound").await?;
    f.w.until_not_ready("b", "ServerNotFound").await?;
    f.ensure_silent("/api")?;
    ensure!(f.w.values("b").await? == pairs(&[("A", value)]));
    ensure!(f.w.sources("servers-deleted").await? == ["b"]);
    // The server comes back, and both bindings follow.
    f.put_server(&lists).await?;
    f.w.until_values("b", &pairs(&[("A", secret("newer"))]))
        .await?;
    f.w.until_ready("new").await?;
    f.until_server("Resolved", 2, 0).await?;
    f.finish().await
}

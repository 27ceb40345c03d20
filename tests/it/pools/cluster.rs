//! Pools whose `cluster_config` names a cluster.

use anyhow::{Result, ensure};
use serde_json::json;

use super::world;
use crate::work_pools::{entry, replaced, template, with_sources};

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_this_cluster_is_written_if_the_binding_says_so() -> Result<()> {
    let world = world("pool-cluster").await?;
    let text = replaced(
        &template(&world.name),
        "\"cluster_config\": \"{{ cluster_config }}\"",
        "\"cluster_config\": {\"context_name\": \"this\", \"config\": {}}",
    );
    world.create_pool("pool-cluster", &text).await?;
    let by_hand = format!("[{}]", entry("cluster", true));
    world
        .create_pool("pool-cluster-seen", &with_sources(&text, &by_hand))
        .await?;
    let pools = |same_cluster: bool| {
        json!([
            {"name": "pool-cluster", "sameCluster": same_cluster},
            {"name": "pool-cluster-seen", "mode": "Observe"},
        ])
    };
    world
        .apply_binding("cluster", &world.pool_spec(&pools(false)))
        .await?;
    world
        .until_pool("cluster", "pool-cluster", "OtherCluster")
        .await?;
    world
        .until_pool("cluster", "pool-cluster-seen", "AlreadyPresent")
        .await?;
    ensure!(world.sources("pool-cluster").await?.is_empty());
    world
        .apply_binding("cluster", &world.pool_spec(&pools(true)))
        .await?;
    world
        .until_pool("cluster", "pool-cluster", "Patched")
        .await?;
    world.until_ready("cluster").await?;
    world.finish().await
}

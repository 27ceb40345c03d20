//! `kubectl apply` of the smallest example, with the real kubectl.

use anyhow::{Result, ensure};
use testkit::kubectl::kubectl_async;

use super::{client, namespace};
use crate::world::plane;

#[tokio::test(flavor = "multi_thread")]
async fn second_kubectl_apply_of_the_smallest_example_is_unchanged() -> Result<()> {
    namespace(&client().await?, "flows").await?;
    let kubeconfig = plane()?.admin_kubeconfig_path();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/smallest.yaml");
    for expected in ["created", "unchanged"] {
        let printed = kubectl_async(&["apply", "-f", file], &kubeconfig).await?;
        ensure!(printed.trim().ends_with(expected), "{printed}");
    }
    kubectl_async(&["delete", "-f", file], &kubeconfig).await?;
    Ok(())
}

//! The default server, and an operator that cannot read servers.

use anyhow::{Result, ensure};
use serde_json::json;

use super::fixture::Fixture;
use crate::world::{Setup, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_of_two_lines_uses_the_default_server() -> Result<()> {
    let setup = Fixture::setup().args(&["--default-prefect-server", "servers-default"]);
    let f = Fixture::start("servers-default", setup).await?;
    let w = &f.w;
    w.set_doppler_secret("A", &secret("default"));
    f.put_block("servers-default").await?;
    let lists = json!({"namespaces": {"names": [w.name]}, "blocks": ["{namespace}"]});
    f.put_server(&lists).await?;
    // The stand-in of Doppler is at another address than Doppler; everything else is left out.
    let doppler = json!({"host": w.doppler.url()});
    let spec = json!({"prefect": {"block": {"name": "servers-default"}}, "doppler": doppler});
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    w.until_values("b", &pairs(&[("A", secret("default"))]))
        .await?;
    f.until_server("Resolved", 1, 0).await?;
    // The lists decide about these bindings, too: the default block is not listed.
    w.apply_binding("c", &json!({"prefect": {}, "doppler": doppler}))
        .await?;
    let text = f.refused(w, "c", "ServerNotAllowed").await?;
    ensure!(text.contains("block doppler-config"), "{text}");
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reasons_say_why_an_operator_cannot_read_servers() -> Result<()> {
    // The flag without the permission.
    let setup = Setup::default().args(&["--cluster-servers"]);
    let mut f = Fixture::start("servers-right", setup).await?;
    let lists = json!({"namespaces": {"names": [f.w.name]}, "blocks": ["*"]});
    f.put_server(&lists).await?;
    f.w.apply_binding("b", &f.spec("servers-right", &[]))
        .await?;
    let text = f.refused(&f.w, "b", "ServerNotFound").await?;
    ensure!(
        text.contains("no permission to list ClusterPrefectServers"),
        "{text}"
    );
    // Another binding is not affected.
    f.w.set_doppler_secret("A", &secret("right"));
    f.w.apply_binding("own", &f.w.spec()).await?;
    f.w.until_ready("own").await?;
    // Without the flag.
    f.w.stop_operator().await?;
    f.w.clear_operator_args();
    f.w.start_operator().await?;
    let what = "the message of an operator without the flag";
    f.w.until(what, async || {
        let ready = f.w.until_not_ready("b", "ServerNotFound").await?;
        ensure!(
            ready.message.contains("clusterServers.enabled"),
            "{}",
            ready.message
        );
        Ok(())
    })
    .await?;
    f.w.apply_binding("unnamed", &json!({"prefect": {}}))
        .await?;
    let text = f.refused(&f.w, "unnamed", "InvalidSpec").await?;
    ensure!(text.contains("--default-prefect-server"), "{text}");
    f.ensure_silent("/api")?;
    f.finish().await
}

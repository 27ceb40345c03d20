//! The annotation `doppler-prefect.dev/refresh`, the subcommand `refresh` and the webhook for it.

use std::process::Output;
use std::time::Instant;

use anyhow::{Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use testkit::doppler::{Fault, FaultId};
use testkit::kubectl::kubectl_async;
use testkit::prefect::Block;
use tokio::process::Command;

use crate::doppler_webhook::{SecretDir, post_signed};
use crate::world::{World, pairs, secret};

impl World {
    pub(super) async fn request_refresh(&self, text: &str) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {"doppler-prefect.dev/refresh": text}}});
        let params = PatchParams::default();
        self.bindings()
            .patch("b", &params, &Patch::Merge(&patch))
            .await?;
        Ok(())
    }

    pub(super) async fn until_refreshed(&self, text: &str) -> Result<()> {
        self.until(&format!("the answer to {text:?}"), async || {
            let refreshed = self.status("b").await?["refreshed"].clone();
            ensure!(refreshed == text, "{refreshed}");
            Ok(())
        })
        .await
    }

    /// Lets all requests with the world's token fail.
    fn stop_doppler(&self) -> FaultId {
        let token = self.token.clone();
        let fault = Fault::Error(503, "down".to_owned());
        self.doppler
            .fault(move |call| call.uses_token(&token), fault)
    }

    /// Runs the subcommand as the administrator.
    async fn refresh(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doppler-prefect-operator"));
        command
            .arg("refresh")
            .args(["-n", &self.name])
            .args(args)
            .env("KUBECONFIG", self.plane.admin_kubeconfig_path());
        Ok(command.output().await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn annotation_reads_block_and_config_and_the_status_repeats_it() -> Result<()> {
    let w = World::quiet_with_pool("refresh-annotation").await?;
    w.set_doppler_secret("A", &secret("new"));
    w.request_refresh("deploy 1").await?;
    // As docs/refresh.md waits for it.
    let wait = [
        "wait",
        "dpb",
        "b",
        "--namespace",
        &w.name,
        "--for=jsonpath={.status.refreshed}=deploy 1",
        "--timeout=30s",
    ];
    kubectl_async(&wait, &w.plane.admin_kubeconfig_path()).await?;
    ensure!(w.values("b").await? == pairs(&[("A", secret("new"))]));

    // The answer follows a read of the block, too. The event of the block may come first.
    let prd = format!("dp.st.prd.{}", secret("refresh-annotation"));
    w.doppler.add_service_token(&prd, &w.name, "prd");
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    let block = Block::object(&w.name, "prd", &prd);
    w.api.put_block(&w.name, &block).await?;
    w.request_refresh("deploy 2").await?;
    w.until_refreshed("deploy 2").await?;
    ensure!(w.values("b").await? == pairs(&[("A", secret("prd"))]));

    // An unchanged config is answered too, and then everything rests.
    w.until_reads_end().await?;
    let (doppler, prefect) = (w.all_reads("doppler").await?, w.all_reads("prefect").await?);
    w.request_refresh("deploy 3").await?;
    w.until_refreshed("deploy 3").await?;
    w.until_reads_end().await?;
    let more = (
        w.all_reads("doppler").await? - doppler,
        w.all_reads("prefect").await? - prefect,
    );
    ensure!(more == (1, 1), "{more:?} reads");
    let writes = w.writes(None).await?;
    w.request_refresh("deploy 3").await?;
    w.until_reads_end().await?;
    ensure!(
        w.all_reads("doppler").await? == doppler + 1,
        "it was answered"
    );
    ensure!(w.writes(None).await? == writes);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn annotation_that_changes_often_causes_one_read_a_second() -> Result<()> {
    let w = World::quiet_with_pool("refresh-storm").await?;
    let (before, started) = (w.downloads(), Instant::now());
    for number in 0..60 {
        w.set_doppler_secret("A", &secret(&format!("value-{number}")));
        w.request_refresh(&format!("request {number}")).await?;
    }
    w.until_refreshed("request 59").await?;
    ensure!(w.values("b").await? == pairs(&[("A", secret("value-59"))]));
    let seconds = usize::try_from(started.elapsed().as_secs())?;
    let reads = w.downloads() - before;
    ensure!(reads <= seconds + 3, "{reads} reads in {seconds} s");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn annotation_is_answered_after_an_outage_and_survives_a_restart() -> Result<()> {
    let mut w = World::quiet_with_pool("refresh-outage").await?;
    let down = w.stop_doppler();
    w.set_doppler_secret("A", &secret("new"));
    let failed = w.all_reads("doppler").await?;
    w.request_refresh("during the outage").await?;
    w.until("failed reads", async || {
        ensure!(w.all_reads("doppler").await? >= failed + 2, "too few");
        Ok(())
    })
    .await?;
    ensure!(w.status("b").await?["refreshed"].is_null());
    w.doppler.remove_fault(down);
    w.until_refreshed("during the outage").await?;
    ensure!(w.values("b").await? == pairs(&[("A", secret("new"))]));

    // A request that no process has seen yet.
    w.stop_operator().await?;
    w.request_refresh("while it was stopped").await?;
    w.start_operator().await?;
    w.until_refreshed("while it was stopped").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn annotation_that_is_too_long_is_refused_with_an_event() -> Result<()> {
    let w = World::quiet_with_pool("refresh-long").await?;
    let before = w.all_reads("doppler").await?;
    w.request_refresh(&"x".repeat(129)).await?;
    let event = w.until_event("RefreshRefused").await?;
    ensure!(event.contains("more than 128 characters"), "{event}");
    w.until_reads_end().await?;
    ensure!(w.all_reads("doppler").await? == before);
    ensure!(w.status("b").await?["refreshed"].is_null());
    w.until_ready("b").await?;
    let longest = "y".repeat(128);
    w.request_refresh(&longest).await?;
    w.until_refreshed(&longest).await?;
    ensure!(w.events("RefreshRefused").await?.len() == 1);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn subcommand_waits_for_the_current_values() -> Result<()> {
    let w = World::quiet_with_pool("refresh-command").await?;
    w.set_doppler_secret("A", &secret("new"));
    let done = w.refresh(&["b"]).await?;
    let shown = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.code() == Some(0), "{shown}");
    ensure!(w.values("b").await? == pairs(&[("A", secret("new"))]));

    let down = w.stop_doppler();
    let late = w.refresh(&["b", "--wait", "2s"]).await?;
    let shown = String::from_utf8_lossy(&late.stderr).into_owned();
    ensure!(late.status.code() == Some(3), "{shown}");
    ensure!(shown.contains("is not refreshed after 2 s"), "{shown}");
    w.doppler.remove_fault(down);

    let missing = w.refresh(&["none"]).await?;
    let shown = String::from_utf8_lossy(&missing.stderr).into_owned();
    ensure!(missing.status.code() == Some(1), "{shown}");
    ensure!(shown.contains("refresh-command/none"), "{shown}");

    let mut spec = w.pool_spec(&json!([{"name": w.name}]));
    spec["suspend"] = json!(true);
    w.apply_binding("b", &spec).await?;
    let suspended = w.refresh(&["b"]).await?;
    let shown = String::from_utf8_lossy(&suspended.stderr).into_owned();
    ensure!(suspended.status.code() == Some(1), "{shown}");
    ensure!(shown.contains("set spec.suspend to false"), "{shown}");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_webhook_refreshes_one_binding() -> Result<()> {
    let dir = SecretDir::new("refresh-webhook")?;
    let (all, mine, other) = (secret("for-all"), secret("for-mine"), secret("for-others"));
    dir.write("_all", &all)?;
    dir.write("refresh-webhook", &mine)?;
    dir.write("elsewhere", &other)?;
    let w = World::with("refresh-webhook", dir.setup()).await?;
    w.set_doppler_secret("A", &secret("0"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    let address = w.operator()?.webhook_address().to_owned();
    let post = async |secret: &str, name: &str, body: &str| {
        let url = format!("http://{address}/webhooks/refresh/refresh-webhook/{name}");
        post_signed(&url, secret, body).await
    };
    let body = "refresh-webhook/b";
    for (number, key) in ["1", "2"].into_iter().zip([&all, &mine]) {
        w.set_doppler_secret("A", &secret(number));
        ensure!(post(key, "b", body).await? == 202);
        w.until_values("b", &pairs(&[("A", secret(number))]))
            .await?;
    }
    let before = w.downloads();
    // The secret of another project, a wrong secret, another body, and no such binding.
    ensure!(post(&other, "b", body).await? == 404);
    ensure!(post(&secret("not-a-webhook-secret"), "b", body).await? == 401);
    ensure!(post(&all, "b", "refresh-webhook/c").await? == 401);
    ensure!(post(&all, "c", "refresh-webhook/c").await? == 404);
    ensure!(w.downloads() == before);
    let started = Instant::now();
    for _ in 0..50 {
        ensure!(post(&all, "b", body).await? == 202);
    }
    w.until_reads_end().await?;
    let bound = started.elapsed().as_secs() + 2;
    let reads = u64::try_from(w.downloads() - before)?;
    ensure!((1..=bound).contains(&reads), "{reads} reads");
    w.finish().await
}

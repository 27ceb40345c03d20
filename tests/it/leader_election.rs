//! Several replicas: one works, the others stand by, take hooks, and take over.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use testkit::operator::Operator;

use crate::cleanup::run_detach;
use crate::doppler_webhook::{SecretDir, post_webhook, update_body};
use crate::world::{Setup, World, pairs, secret};

/// As the Lease says.
const LASTS: Duration = Duration::from_secs(15);

impl World {
    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.grant.namespace)
    }

    async fn holder(&self) -> Result<Option<String>> {
        let lease = self.leases().get(&self.grant.service_account).await?;
        Ok(lease.spec.and_then(|spec| spec.holder_identity))
    }

    /// Waits until a replica leads and has seen everything.
    async fn until_leads(&self, operator: &Operator) -> Result<()> {
        self.until("the replica to lead", async || {
            ensure!(leads(operator).await?, "it stands by");
            Ok(())
        })
        .await?;
        operator.ready(LASTS * 2).await
    }
}

async fn leads(operator: &Operator) -> Result<bool> {
    let metrics = operator.metrics().await?;
    Ok(metrics.contains("doppler_prefect_leader 1\n"))
}

/// It has neither read nor written anything for a binding.
async fn is_idle(operator: &Operator) -> Result<()> {
    let metrics = operator.metrics().await?;
    for family in ["kubernetes_writes_total{", "upstream_reads_total{"] {
        ensure!(
            !metrics.contains(&format!("doppler_prefect_{family}")),
            "{metrics}"
        );
    }
    ensure!(
        metrics.contains("doppler_prefect_reconciles_total 0\n"),
        "{metrics}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_works_and_the_other_takes_over_when_it_is_killed() -> Result<()> {
    let mut w = World::with("replica-killed", Setup::default().replicated()).await?;
    ensure!(leads(w.operator()?).await?);
    let second = w.start_replica().await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    w.until_polls("unchanged", 2).await?;
    ensure!(!leads(&second).await?);
    is_idle(&second).await?;
    let holder = w.holder().await?.context("nobody holds the lease")?;
    ensure!(holder.starts_with("replica_"), "{holder}");

    w.kill_operator();
    let killed = Instant::now();
    w.set_doppler_secret("A", &secret("b"));
    w.until_leads(&second).await?;
    // A leader has given up ten seconds after its last renewal at the latest.
    ensure!(
        killed.elapsed() >= Duration::from_secs(5),
        "{:?}",
        killed.elapsed()
    );
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    ensure!(w.holder().await?.is_some_and(|now| now != holder));
    w.operator = Some(second);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_the_renewal_of_the_lease_is_the_only_write() -> Result<()> {
    let w = World::with("replica-rest", Setup::default().replicated()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    for told in ["SecretCreated", "Ready"] {
        w.until_event(told).await?;
    }
    let state = async || -> Result<_> {
        let written = w.secrets().get("b").await?.metadata.resource_version;
        let binding = w.binding("b").await?.metadata.resource_version;
        Ok((w.writes(None).await?, written, binding))
    };
    let renewed = async || -> Result<_> {
        let lease = w.leases().get(&w.grant.service_account).await?;
        Ok(lease.spec.and_then(|spec| spec.renew_time))
    };
    let before = state().await?;
    for _ in 0..2 {
        let last = renewed().await?;
        w.until_within(LASTS * 2, "the lease to be renewed", async || {
            ensure!(renewed().await? != last, "it was not");
            Ok(())
        })
        .await?;
    }
    let after = state().await?;
    ensure!(after == before, "{before:?}, then {after:?}");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_end_hands_over_at_once() -> Result<()> {
    let mut w = World::with("replica-ended", Setup::default().replicated()).await?;
    let second = w.start_replica().await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    let before = w.holder().await?;
    w.stop_operator().await?;
    let ended = Instant::now();
    ensure!(w.holder().await? != before, "it was not given back");
    w.until_leads(&second).await?;
    ensure!(ended.elapsed() < LASTS, "{:?}", ended.elapsed());
    w.set_doppler_secret("A", &secret("b"));
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    w.operator = Some(second);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stands_by_ends_when_it_is_told_to() -> Result<()> {
    let w = World::with("replica-standby", Setup::default().replicated()).await?;
    let second = w.start_replica().await?;
    ensure!(second.terminate(Duration::from_secs(20)).await? == 0);
    ensure!(leads(w.operator()?).await?);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_another_has_taken_ends_with_an_error() -> Result<()> {
    let mut w = World::with("replica-lost", Setup::default().replicated()).await?;
    let taken = Patch::Merge(json!({"spec": {"holderIdentity": "another"}}));
    let name = w.grant.service_account.clone();
    w.leases()
        .patch(&name, &PatchParams::default(), &taken)
        .await?;
    let operator = w.operator.take().context("no operator runs")?;
    let code = operator.process().wait_async(LASTS * 2).await;
    ensure!(code == Some(1), "{code:?}");
    ensure!(w.log().contains("the lease was lost"), "{}", w.log_tail());
    ensure!(
        w.holder().await?.as_deref() == Some("another"),
        "it was overwritten"
    );
    w.finish().await
}

/// Or a replica that is still ending would put back what is taken out.
#[tokio::test(flavor = "multi_thread")]
async fn no_replica_works_while_and_shortly_after_everything_is_released() -> Result<()> {
    let mut w = World::with("replica-released", Setup::default().replicated()).await?;
    let second = w.start_replica().await?;
    let (home, name) = (w.grant.namespace.clone(), w.grant.service_account.clone());
    let args = ["--operator-namespace", &home, "--lease-name", &name];
    let ends = async {
        ensure!(second.terminate(Duration::from_secs(20)).await? == 0);
        w.operator()?.terminate(Duration::from_secs(20)).await
    };
    let (released, code) = tokio::join!(run_detach(&w, &args), ends);
    released?;
    ensure!(code? == 0);
    let holder = w.holder().await?.context("the lease was given back")?;
    ensure!(holder.starts_with("detach_"), "{holder}");
    w.operator = None;
    let late = w.start_replica().await?;
    ensure!(!leads(&late).await?);
    // Whoever changes their mind waits for as long as a lease lasts.
    w.until_leads(&late).await?;
    w.operator = Some(late);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_lands_on_the_replica_that_stands_by_reaches_the_leader() -> Result<()> {
    let secrets = SecretDir::new("replica-hook")?;
    let mine = secret("the-hook-secret");
    secrets.write("_all", &mine)?;
    let w = World::with("replica-hook", secrets.setup().replicated()).await?;
    let second = w.start_replica().await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    w.set_doppler_secret("A", &secret("b"));
    let (door, body) = (second.webhook_address(), update_body("replica-hook", "dev"));
    let before = w.downloads();
    ensure!(post_webhook(door, &secret("not-the-hook-secret"), &body).await? == 401);
    ensure!(w.downloads() == before);
    ensure!(post_webhook(door, &mine, &body).await? == 202);
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    ensure!(w.downloads() == before + 1);
    is_idle(&second).await?;
    let forwarded = "doppler_prefect_webhook_requests_total{outcome=\"forwarded\"} 1\n";
    ensure!(second.metrics().await?.contains(forwarded));

    // Nobody takes it: its sender hears so.
    w.operator()?.process().pause();
    ensure!(post_webhook(door, &mine, &body).await? == 503);
    w.operator()?.process().resume();
    ensure!(second.terminate(Duration::from_secs(20)).await? == 0);
    w.finish().await
}

//! Several replicas: one leads, the others are standby, forward webhooks, and take over.

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

/// The duration of the Lease.
const LEASE_DURATION: Duration = Duration::from_secs(15);

impl World {
    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.grant.namespace)
    }

    async fn holder(&self) -> Result<Option<String>> {
        let lease = self.leases().get(&self.grant.service_account).await?;
        Ok(lease.spec.and_then(|spec| spec.holder_identity))
    }

    /// Waits until the replica leads and its caches are in sync.
    async fn until_leader(&self, operator: &Operator) -> Result<()> {
        self.until("the replica to become leader", async || {
            ensure!(is_leader(operator).await?, "it is standby");
            Ok(())
        })
        .await?;
        operator.ready(LEASE_DURATION * 2).await
    }
}

async fn is_leader(operator: &Operator) -> Result<bool> {
    let metrics = operator.metrics().await?;
    Ok(metrics.contains("doppler_prefect_leader 1\n"))
}

/// Fails if the replica has read or written anything for a binding.
async fn ensure_idle(operator: &Operator) -> Result<()> {
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
async fn standby_takes_over_when_the_leader_is_killed() -> Result<()> {
    let mut w = World::with("replica-killed", Setup::default().replicated()).await?;
    ensure!(is_leader(w.operator()?).await?);
    let second = w.start_replica().await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    w.until_polls("unchanged", 2).await?;
    ensure!(!is_leader(&second).await?);
    ensure_idle(&second).await?;
    let holder = w.holder().await?.context("the lease has no holder")?;
    ensure!(holder.starts_with("replica_"), "{holder}");

    w.kill_operator();
    let killed = Instant::now();
    w.set_doppler_secret("A", &secret("b"));
    w.until_leader(&second).await?;
    // The leader gives up ten seconds after its last renewal.
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
async fn idle_leader_only_renews_its_lease() -> Result<()> {
    let w = World::with("replica-rest", Setup::default().replicated()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    for reason in ["SecretCreated", "Ready"] {
        w.until_event(reason).await?;
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
        w.until_within(LEASE_DURATION * 2, "the lease to be renewed", async || {
            ensure!(renewed().await? != last, "it was not renewed");
            Ok(())
        })
        .await?;
    }
    let after = state().await?;
    ensure!(after == before, "{before:?}, then {after:?}");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_leader_hands_over_at_once() -> Result<()> {
    let mut w = World::with("replica-ended", Setup::default().replicated()).await?;
    let second = w.start_replica().await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    let before = w.holder().await?;
    w.stop_operator().await?;
    let ended = Instant::now();
    ensure!(w.holder().await? != before, "the lease was not released");
    w.until_leader(&second).await?;
    ensure!(ended.elapsed() < LEASE_DURATION, "{:?}", ended.elapsed());
    w.set_doppler_secret("A", &secret("b"));
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    w.operator = Some(second);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_standby_exits_with_zero() -> Result<()> {
    let w = World::with("replica-standby", Setup::default().replicated()).await?;
    let second = w.start_replica().await?;
    ensure!(second.terminate(Duration::from_secs(20)).await? == 0);
    ensure!(is_leader(w.operator()?).await?);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_exits_with_an_error_when_it_loses_the_lease() -> Result<()> {
    let mut w = World::with("replica-lost", Setup::default().replicated()).await?;
    let taken = Patch::Merge(json!({"spec": {"holderIdentity": "another"}}));
    let name = w.grant.service_account.clone();
    w.leases()
        .patch(&name, &PatchParams::default(), &taken)
        .await?;
    let operator = w.operator.take().context("no operator runs")?;
    let code = operator.process().wait_async(LEASE_DURATION * 2).await;
    ensure!(code == Some(1), "{code:?}");
    ensure!(w.log().contains("the lease was lost"), "{}", w.log_tail());
    ensure!(
        w.holder().await?.as_deref() == Some("another"),
        "the lease was overwritten"
    );
    w.finish().await
}

/// A replica that is still shutting down must not add the entries again.
#[tokio::test(flavor = "multi_thread")]
async fn no_replica_leads_during_and_shortly_after_detach() -> Result<()> {
    let mut w = World::with("replica-detached", Setup::default().replicated()).await?;
    let second = w.start_replica().await?;
    let (home, name) = (w.grant.namespace.clone(), w.grant.service_account.clone());
    let args = ["--operator-namespace", &home, "--lease-name", &name];
    let shutdown = async {
        ensure!(second.terminate(Duration::from_secs(20)).await? == 0);
        w.operator()?.terminate(Duration::from_secs(20)).await
    };
    let (detached, code) = tokio::join!(run_detach(&w, &args), shutdown);
    detached?;
    ensure!(code? == 0);
    let holder = w.holder().await?.context("the lease has no holder")?;
    ensure!(holder.starts_with("detach_"), "{holder}");
    w.operator = None;
    let late = w.start_replica().await?;
    ensure!(!is_leader(&late).await?);
    // A replica that starts after `detach` waits until the lease has expired.
    w.until_leader(&late).await?;
    w.operator = Some(late);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_forwards_webhooks_to_the_leader() -> Result<()> {
    let secrets = SecretDir::new("replica-webhook")?;
    let mine = secret("the-webhook-secret");
    secrets.write("_all", &mine)?;
    let w = World::with("replica-webhook", secrets.setup().replicated()).await?;
    let second = w.start_replica().await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    w.set_doppler_secret("A", &secret("b"));
    let (address, body) = (
        second.webhook_address(),
        update_body("replica-webhook", "dev"),
    );
    let before = w.downloads();
    ensure!(post_webhook(address, &secret("not-the-webhook-secret"), &body).await? == 401);
    ensure!(w.downloads() == before);
    ensure!(post_webhook(address, &mine, &body).await? == 202);
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    ensure!(w.downloads() == before + 1);
    ensure_idle(&second).await?;
    let forwarded = "doppler_prefect_webhook_requests_total{outcome=\"forwarded\"} 1\n";
    ensure!(second.metrics().await?.contains(forwarded));

    // The standby cannot reach the leader and reports it to the sender.
    w.operator()?.process().pause();
    ensure!(post_webhook(address, &mine, &body).await? == 503);
    w.operator()?.process().resume();
    ensure!(second.terminate(Duration::from_secs(20)).await? == 0);
    w.finish().await
}

//! From the first token to its revocation.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::doppler::{Fault, Quirks, RecordedRequest};

use super::{Fixture, LONG, SHORT};
use crate::world::{Setup, World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_costs_one_request_and_no_download() -> Result<()> {
    let f = Fixture::new(World::start("identities-renewal").await?, SHORT).await?;
    f.w.apply_binding("b", &f.spec()).await?;
    f.w.until_ready("b").await?;
    f.w.until_values("b", &pairs(&[("A", secret("1"))])).await?;
    let version = |secret: k8s_openapi::api::core::v1::Secret| secret.metadata.resource_version;
    let before = version(f.w.secrets().get("b").await?);
    let until_tokens = async |number: usize| {
        f.w.until(&format!("{number} tokens"), async || {
            ensure!(f.exchanges() >= number, "{} so far", f.exchanges());
            Ok(())
        })
        .await
    };
    // The writes of the start have ended by then. Events are written with a delay.
    until_tokens(2).await?;
    let writes = async || {
        let [secret, status] = [Some("secret"), Some("status")];
        Ok::<_, anyhow::Error>((f.w.writes(secret).await?, f.w.writes(status).await?))
    };
    let written = writes().await?;
    until_tokens(4).await?;
    let requests = f.doppler.requests();
    let downloads: Vec<_> = requests.iter().filter(|it| it.is_download()).collect();
    let whole = downloads.iter().filter(|it| it.status == Some(200)).count();
    ensure!(whole == 1, "{whole} downloads with a body");
    let streams = requests.iter().filter(|it| it.is_watch()).count();
    ensure!(streams == 1, "{streams} streams");
    let exchanges = requests.iter().filter(|it| it.is_exchange()).count();
    ensure!(
        requests.len() == downloads.len() + streams + exchanges,
        "other requests than these: {requests:?}"
    );
    // A token lives for several polls.
    ensure!(downloads.len() > exchanges, "{requests:?}");
    ensure!(version(f.w.secrets().get("b").await?) == before);
    ensure!(writes().await? == written, "something was written");
    // The stream that the first token opened still reports changes.
    f.doppler.set(&f.w.name, "dev", "A", &secret("2"));
    f.w.until_values("b", &pairs(&[("A", secret("2"))])).await?;
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_with_its_token_gets_a_new_one() -> Result<()> {
    let w = World::with("identities-streams", Setup::without_polls()).await?;
    let f = Fixture::new(w, SHORT).await?;
    f.doppler.set_quirks(Quirks {
        expiry_closes_streams: true,
        ..Quirks::default()
    });
    f.w.apply_binding("b", &f.spec()).await?;
    f.w.until_ready("b").await?;
    f.w.until("three streams", async || {
        let streams = f.doppler.counts().watches;
        ensure!(streams >= 3, "{streams} so far");
        Ok(())
    })
    .await?;
    f.doppler.set(&f.w.name, "dev", "A", &secret("2"));
    f.w.until_values("b", &pairs(&[("A", secret("2"))])).await?;
    let bodies = f.doppler.downloads();
    let bodies = bodies.iter().filter(|it| it.status == Some(200)).count();
    ensure!(bodies == 2, "{bodies} downloads with a body");
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_renewed_at_once() -> Result<()> {
    let f = Fixture::new(World::start("identities-revoked").await?, LONG).await?;
    f.w.apply_binding("b", &f.spec()).await?;
    f.w.until_ready("b").await?;
    f.doppler.revoke_identity_tokens();
    f.doppler.set(&f.w.name, "dev", "A", &secret("2"));
    f.w.until_values("b", &pairs(&[("A", secret("2"))])).await?;
    ensure!(f.exchanges() == 2, "{} tokens", f.exchanges());
    ensure!(f.w.condition("b", "Ready").await?.status == "True");
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_a_binding_is_revoked() -> Result<()> {
    let f = Fixture::new(World::start("identities-unused").await?, LONG).await?;
    for name in ["deleted", "changed", "kept"] {
        f.w.apply_binding(name, &f.spec()).await?;
        f.w.until_ready(name).await?;
    }
    ensure!(f.doppler.valid_identity_tokens() == 3);
    let until_valid = async |number: usize| {
        f.w.until(&format!("{number} valid tokens"), async || {
            let valid = f.doppler.valid_identity_tokens();
            ensure!(valid == number, "{valid} are valid");
            Ok(())
        })
        .await
    };
    f.w.delete_binding("deleted").await?;
    until_valid(2).await?;
    let mut spec = f.spec();
    let token = f.doppler.account_token();
    f.w.put_token("own", &token).await?;
    spec["doppler"]["identity"] = json!(null);
    spec["doppler"]["accessToken"] =
        json!({"valueFrom": {"secretKeyRef": {"name": "own", "key": "token"}}});
    f.w.apply_binding("changed", &spec).await?;
    until_valid(1).await?;
    f.w.until_ready("changed").await?;
    let metrics = f.w.operator()?.metrics().await?;
    for (outcome, number) in [("issued", 3), ("revoked", 2)] {
        let name = "doppler_prefect_identity_tokens_total";
        let line = format!("{name}{{outcome=\"{outcome}\"}} {number}\n");
        ensure!(metrics.contains(&line), "no {line} in {metrics}");
    }
    // The operator keeps tokens in memory only, so nothing can use them after it has ended.
    let mut f = f;
    f.w.stop_operator().await?;
    ensure!(f.doppler.valid_identity_tokens() == 0);
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_doppler_while_a_token_expires_is_overcome() -> Result<()> {
    let f = Fixture::new(World::start("identities-outage").await?, SHORT).await?;
    f.w.apply_binding("b", &f.spec()).await?;
    f.w.until_ready("b").await?;
    let fault = f.doppler.fault(
        RecordedRequest::is_exchange,
        Fault::Error(503, "Service Unavailable".to_owned()),
    );
    f.w.until("a failed read", async || {
        let failed = f.w.reads("doppler", "DopplerUnreachable").await?;
        ensure!(failed > 0, "the token is still valid");
        Ok(())
    })
    .await?;
    ensure!(
        f.w.condition("b", "Ready").await?.status == "True",
        "within --stale-after"
    );
    f.doppler.remove_fault(fault);
    f.doppler.set(&f.w.name, "dev", "A", &secret("2"));
    f.w.until_within(Duration::from_mins(1), "the new value", async || {
        let values = f.w.values("b").await?;
        ensure!(values == pairs(&[("A", secret("2"))]), "the old value");
        Ok(())
    })
    .await?;
    f.finish().await
}

//! Failures of Doppler, transient and persistent.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::doppler::Fault;

use super::{good, with};
use crate::world::{Setup, World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn transient_failure_writes_nothing_and_recovers() -> Result<()> {
    let w = World::start("up-transient").await?;
    w.set_doppler_secret("A", &secret("good"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_polls("unchanged", 1).await?;
    let before = w.binding("b").await?.metadata.resource_version;
    let writes = w.writes(None).await?;
    let fault = w.doppler.fault(
        with(&w.token),
        Fault::Error(503, secret("Service Unavailable")),
    );
    w.until_polls("DopplerUnreachable", 3).await?;
    ensure!(
        w.binding("b").await?.metadata.resource_version == before,
        "the status was written: {:?}",
        w.condition("b", "Ready").await
    );
    ensure!(w.writes(None).await? == writes);
    w.until_values("b", &good()).await?;
    w.doppler.remove_fault(fault);
    w.set_doppler_secret("A", &secret("after"));
    w.until_values("b", &pairs(&[("A", secret("after"))]))
        .await?;
    w.until_ready("b").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn persistent_doppler_failure_keeps_last_good_values() -> Result<()> {
    let leak = Fault::Answer(
        500,
        "application/json".to_owned(),
        json!({"messages": [secret("leak")], "success": false})
            .to_string()
            .into_bytes(),
    );
    let cases = [
        ("fault", leak, "DopplerUnreachable"),
        ("hang", Fault::Hang, "DopplerUnreachable"),
        ("close", Fault::Close, "DopplerUnreachable"),
        ("cut", Fault::Truncate(9), "DopplerUnreachable"),
        (
            "slow",
            Fault::Delay(Duration::from_secs(5)),
            "DopplerUnreachable",
        ),
    ];
    reports_and_recovers("up-persistent", &cases).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_invalid_response_and_keeps_last_good_values() -> Result<()> {
    let page = Fault::not_json();
    let mixed = Fault::Answer(
        200,
        "application/json".to_owned(),
        json!({"A": {"nested": secret("n")}, "B": secret("b")})
            .to_string()
            .into_bytes(),
    );
    let cases = [
        ("page", page, "DopplerError"),
        ("mixed", mixed, "DopplerError"),
        (
            "redirect",
            Fault::Redirect("http://127.0.0.1:1/".to_owned()),
            "DopplerError",
        ),
        ("huge", Fault::Huge(20 << 20), "AnswerTooLarge"),
    ];
    reports_and_recovers("up-answers", &cases).await
}

/// Each config has its own fault: the binding reports it, keeps its values, and recovers.
async fn reports_and_recovers(name: &str, cases: &[(&str, Fault, &str)]) -> Result<()> {
    let w = World::with(
        name,
        Setup::default().args(&["--stale-after", "3s", "--doppler-timeout", "1s"]),
    )
    .await?;
    let token = |case: &str| format!("dp.st.{case}.{}", secret(&w.name));
    for (case, ..) in cases {
        w.doppler.set(&w.name, case, "A", &secret("good"));
        w.doppler.add_service_token(&token(case), &w.name, case);
        w.put_token(&format!("{case}-token"), &token(case)).await?;
        let mut spec = w.direct_spec().await?;
        spec["doppler"]["config"] = json!(case);
        spec["doppler"]["accessToken"]["valueFrom"]["secretKeyRef"]["name"] =
            json!(format!("{case}-token"));
        w.apply_binding(case, &spec).await?;
    }
    for (case, ..) in cases {
        w.until_ready(case).await?;
        w.until_values(case, &good()).await?;
    }
    let mut planned = Vec::new();
    for (case, fault, _) in cases {
        // Changes the value, because a 304 has no body that the fault could truncate.
        w.doppler.set(&w.name, case, "A", &secret("after"));
        planned.push(w.doppler.fault(with(&token(case)), fault.clone()));
    }
    let mut faults = Vec::new();
    for (case, _, reason) in cases {
        if let Err(error) = w.until_not_ready(case, reason).await {
            faults.push(format!("{case}: {error:#}"));
        }
        let kept = w.values(case).await?;
        // One poll may have read the new value before the fault applied.
        ensure!(
            kept == good() || kept == pairs(&[("A", secret("after"))]),
            "{case} lost its values"
        );
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    for fault in planned {
        w.doppler.remove_fault(fault);
    }
    for (case, ..) in cases {
        w.until_within(
            Duration::from_secs(90),
            &format!("{case} to recover"),
            async || {
                let ready = w.condition(case, "Ready").await?;
                ensure!(ready.status == "True", "{ready:?}");
                Ok(())
            },
        )
        .await?;
        w.until_values(case, &pairs(&[("A", secret("after"))]))
            .await?;
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_values_survive_a_restart_without_upstreams() -> Result<()> {
    let mut w = World::with(
        "up-restart",
        Setup::default().args(&["--stale-after", "2s"]),
    )
    .await?;
    w.set_doppler_secret("A", &secret("good"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.stop_operator().await?;
    let fault = w.doppler.fault(with(&w.token), Fault::Close);
    w.start_operator().await?;
    w.until_not_ready("b", "DopplerUnreachable").await?;
    w.until_values("b", &good()).await?;
    w.doppler.remove_fault(fault);
    w.until_within(Duration::from_secs(90), "recovery", async || {
        ensure!(w.condition("b", "Ready").await?.status == "True");
        Ok(())
    })
    .await?;
    w.finish().await
}

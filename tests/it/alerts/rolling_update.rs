//! No alert flaps while a release replaces its pods, as its Deployment does: one pod ends before the
//! next one starts.
//!
//! Input: the scrapes of a real update, with bindings that are well and bindings that fail.
//! Output: alerts of what fails go on to fire, and no other alert starts.
//! Invariants: the same scrapes fail the test if the rules do not bridge the gap.

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde_json::{Value, json};
use testkit::operator::Operator;

use super::RULES;
use super::recording::{Recorder, Recording};
use crate::world::{Setup, TIMEOUT, World, pairs, secret};

/// What fires because of the bindings of [`bind`].
fn expected() -> [Value; 2] {
    [
        json!({"alertname": "DopplerPrefectBindingNotReady", "reason": "ReferenceMissing", "severity": "warning"}),
        json!({"alertname": "DopplerPrefectTokenRefused", "reason": "DopplerUnauthorized", "severity": "warning"}),
    ]
}

async fn bind(world: &World) -> Result<()> {
    world.set_doppler_secret("A", &secret("a"));
    let mut spec = world.direct_spec().await?;
    world.apply_binding("well", &spec).await?;
    let token = "/doppler/accessToken/valueFrom/secretKeyRef/name";
    let name = |name: &str, spec: &mut Value| {
        *spec.pointer_mut(token).unwrap() = json!(name);
    };
    name("no-such-secret", &mut spec);
    world.apply_binding("missing", &spec).await?;
    world.put_token("wrong", &secret("no-such-token")).await?;
    name("wrong", &mut spec);
    world.apply_binding("refused", &spec).await?;
    world.until_ready("well").await?;
    world.until_not_ready("missing", "ReferenceMissing").await?;
    world
        .until_not_ready("refused", "DopplerUnauthorized")
        .await?;
    Ok(())
}

/// Ends a pod, and removes it once its process is gone.
async fn end(recorder: &Recorder, pod: &str, operator: &Operator) -> Result<()> {
    let code = operator.terminate(TIMEOUT).await?;
    ensure!(code == 0, "{pod} exited with {code}");
    recorder.remove(pod);
    Ok(())
}

/// Waits until a replica leads and has reconciled a change.
async fn until_served(world: &World, value: &str) -> Result<()> {
    world.set_doppler_secret("A", &secret(value));
    world
        .until_values("well", &pairs(&[("A", secret(value))]))
        .await
}

/// The rules hold, and the recording would show it if they did not.
fn judge(recording: &Recording) -> Result<()> {
    recording.replay(RULES, &expected())?;
    let narrow = Regex::new(r"\[(?:10|20)m\]")?;
    let narrow = narrow.replace_all(RULES, "[15s]");
    ensure!(
        recording.replay(&narrow, &expected()).is_err(),
        "no gap was recorded"
    );
    let immediate = Regex::new(r"(?m)^ +for: .*\n")?;
    let immediate = immediate.replace_all(RULES, "");
    ensure!(
        recording.replay(&immediate, &expected()).is_err(),
        "nothing but `for` keeps the alerts silent"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_alert_flaps_while_the_only_replica_is_replaced() -> Result<()> {
    let mut world = World::start("alerts-replaced").await?;
    bind(&world).await?;
    let recorder = Recorder::start()?;
    recorder.add("first", world.operator()?.metrics_address());
    recorder.scrapes(4).await?;
    let old = world.operator.take().context("no operator")?;
    end(&recorder, "first", &old).await?;
    // The image is pulled.
    recorder.scrapes(4).await?;
    world.start_operator().await?;
    recorder.add("second", world.operator()?.metrics_address());
    until_served(&world, "b").await?;
    recorder.scrapes(4).await?;
    let recording = recorder.finish();
    ensure!(recording.scrapes_without_leader() >= 3);
    ensure!(recording.leaders().len() == 2, "{:?}", recording.leaders());
    judge(&recording)?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_alert_flaps_in_a_rolling_update_of_replicas() -> Result<()> {
    let setup = Setup::default().replicated();
    let mut world = World::with("alerts-rolling", setup).await?;
    bind(&world).await?;
    let second = world.start_replica().await?;
    let recorder = Recorder::start()?;
    recorder.add("old-leader", world.operator()?.metrics_address());
    recorder.add("old-standby", second.metrics_address());
    recorder.scrapes(4).await?;

    // The first pod of the update is the leader, so that the work moves twice.
    let old = world.operator.take().context("no operator")?;
    end(&recorder, "old-leader", &old).await?;
    // A pod starts more slowly than a standby takes over.
    until_served(&world, "b").await?;
    let third = world.start_replica().await?;
    recorder.add("new-first", third.metrics_address());
    recorder.scrapes(4).await?;
    end(&recorder, "old-standby", &second).await?;
    world.operator = Some(third);
    until_served(&world, "c").await?;
    let fourth = world.start_replica().await?;
    recorder.add("new-second", fourth.metrics_address());
    recorder.scrapes(4).await?;

    let recording = recorder.finish();
    ensure!(recording.leaders().len() >= 3, "{:?}", recording.leaders());
    recording.replay(RULES, &expected())?;
    ensure!(fourth.terminate(TIMEOUT).await? == 0);
    world.finish().await
}

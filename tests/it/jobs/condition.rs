//! The condition of a binding that selects Jobs where the policy is missing, and the findings of
//! `check`.
//!
//! The tests of a missing policy have their own control plane.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::control_plane::{ControlPlane, Options};
use testkit::{admission, kubernetes};

use super::{install_policy, spec_for, until_admitted};
use crate::check::run_check_of;
use crate::world::{CRD, Setup, World, secret};

/// Keeps a control plane until the process ends, because the clients outlive the test.
async fn own_plane(apiserver_arguments: Vec<String>) -> Result<&'static ControlPlane> {
    let plane = ControlPlane::start(Options {
        manifests: vec![CRD.to_owned()],
        apiserver_arguments,
    })
    .await?;
    Ok(Box::leak(Box::new(plane)))
}

async fn world_on(name: &str, plane: &'static ControlPlane) -> Result<World> {
    let setup = Setup {
        plane: Some(plane),
        ..Setup::default()
    };
    let w = World::with(name, setup).await?;
    w.set_doppler_secret("A", &secret("a"));
    Ok(w)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_not_installed_is_reported_with_the_value() -> Result<()> {
    let plane = own_plane(Vec::new()).await?;
    let mut w = world_on("jobs-missing", plane).await?;
    w.apply_binding("etl", &spec_for(&w, "nightly")).await?;
    let injected = w
        .until_condition("etl", "Injected", "False", "AdmissionUnavailable")
        .await?;
    ensure!(
        injected.message.contains("admission.enabled"),
        "{}",
        injected.message
    );
    w.until_not_ready("etl", "AdmissionUnavailable").await?;
    ensure!(w.secrets().get_opt("etl").await?.is_some(), "no Secret");
    // The policy without its binding has no effect either.
    let rendered = admission::render(plane.version()).await?;
    let objects = kubernetes::documents(&rendered)?;
    let policy = objects.first().context("no policy")?;
    kubernetes::apply(&w.client, "default", &serde_json::to_string(policy)?).await?;
    w.restart_operator().await?;
    w.until_condition("etl", "Injected", "False", "AdmissionUnavailable")
        .await?;
    admission::install(plane).await?;
    w.restart_operator().await?;
    w.until_condition("etl", "Injected", "True", "Injected")
        .await?;
    until_admitted(&w, "nightly", &["etl"]).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_not_served_is_reported_with_the_version() -> Result<()> {
    let resources = [
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    ];
    let off = ["v1", "v1beta1"].into_iter().flat_map(|version| {
        resources.map(|resource| format!("admissionregistration.k8s.io/{version}/{resource}=false"))
    });
    let off: Vec<String> = off.collect();
    let plane = own_plane(vec![
        format!("--runtime-config={}", off.join(",")),
        "--disable-admission-plugins=MutatingAdmissionPolicy".to_owned(),
    ])
    .await?;
    let w = world_on("jobs-unserved", plane).await?;
    w.apply_binding("etl", &spec_for(&w, "nightly")).await?;
    let injected = w
        .until_condition("etl", "Injected", "False", "AdmissionUnavailable")
        .await?;
    ensure!(
        injected.message.contains("use Kubernetes 1.36 or newer"),
        "{}",
        injected.message
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn check_prints_what_the_policy_adds_to_a_dry_run() -> Result<()> {
    install_policy().await?;
    let w = World::start("jobs-check").await?;
    w.set_doppler_secret("A", &secret("a"));
    let spec = spec_for(&w, "nightly");
    let (ok, text) = run_check_of(&w, "etl", &spec, &[]).await?;
    ensure!(ok && text.contains("this one is not applied yet"), "{text}");
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    until_admitted(&w, "nightly", &["etl"]).await?;
    let (ok, text) = run_check_of(&w, "etl", &spec, &[]).await?;
    let topic = "ok    Jobs with prefect.io/deployment-name=nightly: the policy adds to the first container:";
    ensure!(ok && text.contains(topic), "{text}");
    ensure!(
        text.contains("\"name\": \"etl\"")
            && text.contains("doppler-prefect.dev/injected: etl/etl="),
        "{text}"
    );
    // A file that differs from the stored binding.
    let mut other = spec.clone();
    other["inject"]["jobs"][0]["matchLabels"] = json!({"team": "x"});
    let (ok, text) = run_check_of(&w, "etl", &other, &[]).await?;
    let expected = "FAIL  Jobs with team=x: the policy does not add Secret etl";
    ensure!(!ok && text.contains(expected), "{text}");
    w.finish().await
}

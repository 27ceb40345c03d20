//! `check` and `env` resolve an identity with the rights of the user.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use super::{Fixture, ID, LONG};
use crate::check::{run_check, run_with_input};
use crate::world::{Setup, World, canary as search, secret};

/// Runs `check` on binding `checked` with the rights of the operator's account.
async fn check_as_operator(f: &Fixture, spec: &Value) -> Result<(bool, String)> {
    let binding = json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": {"name": "checked", "namespace": f.w.name}, "spec": spec,
    });
    run_with_input(&f.w.grant.kubeconfig, &binding.to_string(), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reads_with_the_identity_and_reports_its_failures() -> Result<()> {
    let w = World::without_operator("identities-check", Setup::default()).await?;
    let f = Fixture::new(w, LONG).await?;
    let (all_ok, output) = run_check(&f.w, &f.spec(), &[]).await?;
    ensure!(all_ok && output.contains("gives 4 keys"), "{output}");
    ensure!(f.exchanges() == 1, "{} tokens", f.exchanges());
    ensure!(f.doppler.valid_identity_tokens() == 0, "it is not revoked");
    let (all_ok, output) = check_as_operator(&f, &f.spec()).await?;
    ensure!(all_ok && output.contains("gives 4 keys"), "{output}");

    // A user without the permission, and an account that does not exist.
    let mut spec = f.spec();
    spec["doppler"]["identity"]["serviceAccountRef"]["name"] = json!("other");
    let (all_ok, output) = check_as_operator(&f, &spec).await?;
    ensure!(
        !all_ok && output.contains("ServiceAccountTokenRefused"),
        "{output}"
    );
    let (all_ok, output) = run_check(&f.w, &spec, &[]).await?;
    ensure!(
        !all_ok && output.contains("ServiceAccountMissing"),
        "{output}"
    );

    f.doppler.remove_identity(ID);
    let (all_ok, output) = run_check(&f.w, &f.spec(), &[]).await?;
    ensure!(!all_ok && output.contains("IdentityRefused"), "{output}");
    ensure!(
        output.contains("dopplerPrefectBinding:identities-check:checked"),
        "{output}"
    );
    search::ensure_no_token("check", &output, &f.doppler.seen_identity_tokens())?;
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn env_revokes_its_token_before_the_command_starts() -> Result<()> {
    let w = World::without_operator("identities-env", Setup::default()).await?;
    let f = Fixture::new(w, LONG).await?;
    let binding = json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": {"name": "b", "namespace": f.w.name}, "spec": f.spec(),
    });
    let file = f.w.plane.folder().join("identities-env.yaml");
    std::fs::write(&file, binding.to_string())?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_doppler-prefect-operator"));
    command
        .env("KUBECONFIG", f.w.plane.admin_kubeconfig_path())
        .arg("env")
        .arg(&file)
        .args(["--allowed-doppler-host", "http://127.0.0.1:*"])
        .args(["--", "sh", "-c", "echo \"$A\"; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let line = timeout(Duration::from_mins(1), lines.next_line()).await??;
    ensure!(line == Some(secret("1")), "other values");
    // The command runs.
    ensure!(f.exchanges() == 1, "{} tokens", f.exchanges());
    ensure!(f.doppler.valid_identity_tokens() == 0, "it is not revoked");
    drop(child.stdin.take());
    ensure!(child.wait().await?.success());
    f.finish().await
}

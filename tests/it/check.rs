//! The subcommand `check` with a user's own kubeconfig: its findings and exit status, that it
//! writes nothing, and that it prints no value.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use testkit::prefect::{Deployment, flows};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::work_pools::{replaced, template, with_sources};
use crate::world::{Setup, World, canary, plane, secret};

const TIMEOUT: Duration = Duration::from_mins(1);

/// Runs `check` on the binding `checked`, as the admin. Returns whether everything would work, and the output.
pub async fn run_check(world: &World, spec: &Value, args: &[&str]) -> Result<(bool, String)> {
    run_check_of(world, "checked", spec, args).await
}

pub async fn run_check_of(
    world: &World,
    name: &str,
    spec: &Value,
    args: &[&str],
) -> Result<(bool, String)> {
    let binding = json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": {"name": name, "namespace": world.name}, "spec": spec,
    });
    run_with_input(
        &plane()?.admin_kubeconfig_path(),
        &binding.to_string(),
        args,
    )
    .await
}

pub async fn run_with_input(
    kubeconfig: &Path,
    input: &str,
    args: &[&str],
) -> Result<(bool, String)> {
    let hosts = [
        "--allowed-prefect-host",
        "http://127.0.0.1:*",
        "--allowed-doppler-host",
        "http://127.0.0.1:*,api.doppler.com",
    ];
    run_binary(kubeconfig, input, &[&hosts, args].concat()).await
}

/// Runs `check` with these arguments only.
async fn run_binary(kubeconfig: &Path, input: &str, args: &[&str]) -> Result<(bool, String)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_doppler-prefect-operator"))
        .args(["check", "-"])
        .args(args)
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let done = timeout(TIMEOUT * 3, child.wait_with_output()).await??;
    let output = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    canary::ensure_absent("check", &output)?;
    Ok((done.status.success(), output))
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_planned_writes_and_writes_nothing() -> Result<()> {
    let world = World::without_operator("check-well", Setup::default()).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    world.set_doppler_secret("PATH", &secret("/nowhere"));
    let theirs = r#"[{"secretRef":{"name":"theirs"}}]"#;
    let text = replaced(
        &template(&world.name),
        "\"title\": \"Environment Variables\",",
        "\"title\": \"Environment Variables\", \"default\": {\"SECRET_API_KEY\": \"shadow\"},",
    );
    world
        .create_pool("check-well", &with_sources(&text, theirs))
        .await?;
    let deployment = Deployment {
        name: "check-well-afar",
        pool: "check-well",
        path: &flows(),
        entrypoint: "flow.py:main",
        job_variables: json!({"namespace": "afar"}),
    };
    world.api.create_deployment(&deployment).await?;
    let (before, written) = (
        world.template_text("check-well").await?,
        world.last_write("check-well").await?,
    );

    let spec = world.pool_spec(&json!([{"name": "check-well"}]));
    let (all_ok, output) = run_check(&world, &spec, &[]).await?;
    ensure!(all_ok, "{output}");
    for expected in [
        "project check-well, config dev",
        "SECRET_API_KEY",
        "excluded: PATH",
        "checked would be created",
        "+    \"secretRef\": {",
        "own env or envFrom overrides: SECRET_API_KEY",
        "\"name\": \"theirs\"",
        "later sources override equal keys: Secret theirs",
        "deployments send jobs to namespace afar, which does not have the Secret: check-well-afar",
    ] {
        ensure!(
            output.contains(expected),
            "{expected:?} is missing in: {output}"
        );
    }
    assert_eq!(world.template_text("check-well").await?, before);
    assert_eq!(world.last_write("check-well").await?, written);
    ensure!(
        world.binding("checked").await.is_err(),
        "the binding was created"
    );
    ensure!(
        world.values("checked").await.is_err(),
        "the Secret was created"
    );
    world.finish().await
}

/// The README shows what `check` prints for `examples/smallest.yaml`, with the names of this test.
#[tokio::test(flavor = "multi_thread")]
async fn readme_shows_the_real_output() -> Result<()> {
    let world = World::without_operator("check-readme", Setup::default()).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    world.set_doppler_secret("DATABASE_URL", &secret("postgres://db"));
    world.set_doppler_secret("PATH", &secret("/nowhere"));
    world
        .create_pool("check-readme-pool", &template(&world.name))
        .await?;
    let spec = world.pool_spec(&json!([{"name": "check-readme-pool"}]));
    let (all_ok, output) = run_check_of(&world, "my-project-dev", &spec, &[]).await?;
    ensure!(all_ok, "{output}");
    let shown = output
        .replace("project check-readme,", "project my-project,")
        .replace("check-readme-pool", "k8s")
        .replace("check-readme", "flows");
    let readme = include_str!("../../README.md");
    let block =
        format!("```console\n$ doppler-prefect-operator check examples/smallest.yaml\n{shown}```");
    ensure!(readme.contains(&block), "README.md has to show:\n{block}");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn fails_with_the_fix_for_each_problem() -> Result<()> {
    let world = World::without_operator("check-wrong", Setup::default()).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    world
        .create_pool("check-wrong", &template("elsewhere"))
        .await?;
    let good = world.spec();
    let with = |pointer: &str, value: Value| -> Result<Value> {
        let mut spec = world.pool_spec(&json!([]));
        *spec.pointer_mut(pointer).context("the pointer is wrong")? = value;
        Ok(spec)
    };
    let cases = [
        (
            with("/prefect/block/name", json!("missing"))?,
            "BlockMissing",
        ),
        (
            with("/doppler/host", json!("https://evil.example.com"))?,
            "--allowed-doppler-host",
        ),
        (
            world.pool_spec(&json!([{"name": "check-wrong"}])),
            "PoolOtherNamespace",
        ),
        (
            world.pool_spec(&json!([{"name": "check-none"}])),
            "PoolMissing",
        ),
        (
            with(
                "/prefect/server",
                json!({"name": "a", "remoteApiUrl": "https://b.example.com"}),
            )?,
            "name",
        ),
    ];
    for (spec, expected) in cases {
        let (all_ok, output) = run_check(&world, &spec, &[]).await?;
        ensure!(
            !all_ok && output.contains(expected),
            "{expected:?} is missing in: {output}"
        );
    }
    let foreign = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "checked"}, "stringData": {"a": "b"}});
    world.apply(&foreign.to_string()).await?;
    let (all_ok, output) = run_check(&world, &good, &[]).await?;
    ensure!(!all_ok && output.contains("SecretForeign"), "{output}");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_needs_no_network_and_api_url_can_be_overridden() -> Result<()> {
    let world = World::without_operator("check-apart", Setup::default()).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    let nowhere = Path::new("/nonexistent");
    let smallest = include_str!("../../examples/smallest.yaml");
    let selected = include_str!("../../examples/selected.yaml");
    for example in [smallest, selected] {
        let (all_ok, output) = run_with_input(nowhere, example, &["--offline"]).await?;
        ensure!(all_ok, "{output}");
    }
    for (form, expected) in [
        ("json", r#""op":"add""#),
        ("prefect-operator", "baseJobTemplate"),
        ("terraform", "prefect_work_pool"),
        ("helm", "worker.config.baseJobTemplate"),
    ] {
        let (all_ok, output) = run_with_input(nowhere, smallest, &["--print-patch", form]).await?;
        ensure!(
            all_ok && output.contains("my-project-dev") && output.contains(expected),
            "{form}: {output}"
        );
        let (all_ok, output) = run_with_input(nowhere, selected, &["--print-patch", form]).await?;
        ensure!(all_ok, "{form}: {output}");
        for part in [expected, r#"["none","etl-prd"]"#, "{{ doppler_config }}"] {
            ensure!(output.contains(part), "{form}: {part}: {output}");
        }
    }

    // The address in the cluster is not reachable from here. The overriding one is.
    let mut spec = world.spec();
    world.create_service("prefect-server").await?;
    spec["prefect"]["server"] = json!({"name": "prefect-server"});
    let (all_ok, output) = run_check(
        &world,
        &spec,
        &["--prefect-api-url", &world.prefect.api_url()],
    )
    .await?;
    ensure!(all_ok, "{output}");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn judges_hosts_by_the_settings_of_the_operator() -> Result<()> {
    let world = World::without_operator("check-settings", Setup::default()).await?;
    world.set_doppler_secret("A", &secret("a"));
    let binding = json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": {"name": "checked", "namespace": world.name}, "spec": world.spec(),
    })
    .to_string();
    let admin = plane()?.admin_kubeconfig_path();
    let args = ["--operator-namespace", world.name.as_str()];
    let (all_ok, output) = run_binary(&admin, &binding, &args).await?;
    let noted = "has no Deployment of the operator";
    ensure!(all_ok && output.contains(noted), "{output}");
    ensure!(!output.contains("gives"), "it sent a request: {output}");

    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "operator"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{
                "name": "operator", "image": "doppler-prefect-operator",
                "args": ["run", "--allowed-prefect-host=http://127.0.0.1:*"],
                "env": [{"name": "ALLOWED_DOPPLER_HOST", "value": "http://127.0.0.1:*"}],
            }]}},
        },
    });
    world.apply(&deployment.to_string()).await?;
    let (all_ok, output) = run_binary(&admin, &binding, &args).await?;
    ensure!(all_ok && output.contains("gives 4 keys"), "{output}");
    let flag = ["--allowed-doppler-host", "api.doppler.com"];
    let (all_ok, output) = run_binary(&admin, &binding, &[args, flag].concat()).await?;
    ensure!(!all_ok && output.contains("FAIL  Doppler: "), "{output}");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn accepts_what_kubectl_prints_and_refuses_what_kubectl_refuses() -> Result<()> {
    let world = World::start("check-list").await?;
    world.set_doppler_secret("A", &secret("a"));
    let mut spec = world.spec();
    for name in ["first", "second"] {
        world.apply_binding(name, &spec).await?;
        world.until_ready(name).await?;
    }
    let kubeconfig = plane()?.admin_kubeconfig_path();
    let get = [
        "-n",
        &world.name,
        "get",
        "dpb",
        "-o",
        "yaml",
        "--show-managed-fields",
    ];
    let list = testkit::kubectl::kubectl_async(&get, &kubeconfig).await?;
    ensure!(list.contains("kind: List"), "{list}");
    let (all_ok, output) = run_with_input(&kubeconfig, &list, &[]).await?;
    for name in ["first", "second"] {
        let title = format!("DopplerPrefectBinding check-list/{name}\n");
        ensure!(all_ok && output.contains(&title), "{output}");
    }
    // A field without a value is absent.
    spec["managedSecret"] = json!(null);
    let (all_ok, output) = run_check(&world, &spec, &[]).await?;
    ensure!(all_ok, "{output}");
    spec["managedSecrets"] = json!({"name": "a"});
    let (all_ok, output) = run_check(&world, &spec, &[]).await?;
    let refused = output.contains("FAIL  API server: ") && output.contains("managedSecrets");
    ensure!(!all_ok && refused, "{output}");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn agrees_with_the_controller_about_an_orphaned_secret() -> Result<()> {
    let world = World::start("check-orphan").await?;
    world.set_doppler_secret("A", &secret("a"));
    let spec = world.spec();
    world.apply_binding("checked", &spec).await?;
    world.until_ready("checked").await?;
    let (all_ok, output) = run_check(&world, &spec, &[]).await?;
    ensure!(
        all_ok && output.contains("checked is up to date"),
        "{output}"
    );

    // The Secret remains, and its annotations name a binding of this name with another UID.
    world
        .bindings()
        .delete("checked", &DeleteParams::orphan())
        .await?;
    world.until_binding_deleted("checked").await?;
    let (all_ok, output) = run_check(&world, &spec, &[]).await?;
    ensure!(!all_ok && output.contains("SecretForeign"), "{output}");

    world.apply_binding("checked", &spec).await?;
    world.until_not_ready("checked", "SecretForeign").await?;
    let (all_ok, output) = run_check(&world, &spec, &[]).await?;
    ensure!(!all_ok && output.contains("SecretForeign"), "{output}");

    let mut adopting = spec.clone();
    adopting["managedSecret"] = json!({"adopt": true});
    let (all_ok, output) = run_check(&world, &adopting, &[]).await?;
    ensure!(
        !all_ok && output.contains("annotate secret checked doppler-prefect.dev/adopt=checked"),
        "{output}"
    );
    let consent = json!({"metadata": {"annotations": {"doppler-prefect.dev/adopt": "checked"}}});
    world.edit_secret("checked", &consent).await?;
    let (all_ok, output) = run_check(&world, &adopting, &[]).await?;
    ensure!(
        all_ok && output.contains("checked exists and would be adopted"),
        "{output}"
    );
    world.finish().await
}

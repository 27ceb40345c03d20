//! The subcommand `env`, and `check --compare`: the values of a run on another machine, and the keys that
//! the bindings of several stages have.

use std::{collections::BTreeMap, path::PathBuf, process::Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::{prefect::flows, venv};
use tokio::process::Command;

use crate::world::{Setup, World, canary, secret};

const BINARY: &str = env!("CARGO_BIN_EXE_doppler-prefect-operator");
const HOSTS: [&str; 4] = [
    "--allowed-prefect-host",
    "http://127.0.0.1:*",
    "--allowed-doppler-host",
    "http://127.0.0.1:*",
];

impl World {
    /// A command of the administrator.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("KUBECONFIG", self.plane.admin_kubeconfig_path())
            .kill_on_drop(true);
        command
    }

    /// Runs `env` in the world's namespace.
    async fn environment(&self, target: &str, args: &[&str]) -> Result<Output> {
        let mut command = self.command(BINARY);
        command
            .args(["env", target, "--namespace", &self.name])
            .args(HOSTS)
            .args(args);
        Ok(command.output().await?)
    }

    /// Writes a binding to a file.
    fn file(&self, name: &str, spec: &Value) -> Result<String> {
        let binding = json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
            "metadata": {"name": name}, "spec": spec,
        });
        let path: PathBuf = self
            .plane
            .folder()
            .join(format!("{}-{name}.yaml", self.name));
        std::fs::write(&path, binding.to_string())?;
        Ok(path.to_str().context("a path of UTF-8")?.to_owned())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_equals_the_secret_that_the_operator_writes() -> Result<()> {
    let world = World::start("env-parity").await?;
    for (name, value) in [
        ("SECRET_API_KEY", secret("1234567890")),
        ("LINES", secret("a\nb 'c' \"d\" $HOME")),
        ("PATH", secret("/nowhere")),
        ("OTHER", secret("not included")),
    ] {
        world.set_doppler_secret(name, &value);
    }
    let mut spec = world.spec();
    spec["doppler"]["exclude"] = json!(["OTHER"]);
    world.apply_binding("b", &spec).await?;
    world.until_ready("b").await?;
    let data = world.secrets().get("b").await?.data.unwrap_or_default();
    let written: BTreeMap<String, String> = data
        .into_iter()
        .map(|(name, value)| (name, text(&value.0)))
        .collect();

    let file = world.file("b", &spec)?;
    for target in ["b", file.as_str()] {
        let output = world.environment(target, &["--format", "json"]).await?;
        let notes = text(&output.stderr);
        ensure!(output.status.success(), "{notes}");
        let printed: BTreeMap<String, String> = serde_json::from_slice(&output.stdout)?;
        ensure!(printed == written, "{target}: other values than the Secret");
        ensure!(
            notes.contains("excluded, as in a run: PATH, OTHER"),
            "{notes}"
        );
        canary::ensure_absent("standard error", &notes)?;
    }
    // A shell reads the default format.
    let script = format!(
        "set -a; eval \"$('{BINARY}' env b -n {} {})\"; printf %s \"$LINES\"",
        world.name,
        HOSTS.map(|part| format!("'{part}'")).join(" ")
    );
    let output = world.command("sh").args(["-c", &script]).output().await?;
    ensure!(text(&output.stdout) == written["LINES"], "another value");
    // A value of several lines does not fit into docker's format.
    let output = world.environment("b", &["--format", "docker"]).await?;
    let error = text(&output.stderr);
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty());
    ensure!(error.contains("LINES"), "{error}");
    canary::ensure_absent("standard error", &error)?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_the_values_of_a_run() -> Result<()> {
    let world = World::without_operator("env-command", Setup::default()).await?;
    let value = secret("1234567890");
    world.set_doppler_secret("SECRET_API_KEY", &value);
    let file = world.file("b", &world.spec())?;
    // The command keeps its exit code, and its values come before those of the caller.
    let script = "printf %s \"$SECRET_API_KEY\"; exit 7";
    let mut command = world.command(BINARY);
    command
        .args(["env", &file, "-n", &world.name])
        .args(HOSTS)
        .args(["--", "sh", "-c", script])
        .env("SECRET_API_KEY", "of the caller");
    let output = command.output().await?;
    ensure!(output.status.code() == Some(7), "{}", text(&output.stderr));
    ensure!(text(&output.stdout) == value);
    let output = world
        .environment(&file, &["--", "no-such-program-at-all"])
        .await?;
    ensure!(output.status.code() == Some(127));
    ensure!(text(&output.stderr).contains("no-such-program-at-all"));

    // The flow that runs in the pool runs here as well.
    let python = tokio::task::spawn_blocking(|| venv::venv("prefect")).await??;
    let python = python.join("bin/python").display().to_string();
    let flow = flows().join("flow.py").display().to_string();
    let mut command = world.command(BINARY);
    command
        .args(["env", &file, "-n", &world.name])
        .args(HOSTS)
        .args(["--", &python, &flow])
        .env("PREFECT_API_URL", world.prefect.api_url())
        .env("PREFECT_LOGGING_LEVEL", "INFO");
    let output = command.output().await?;
    let printed = format!("{}{}", text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "{printed}");
    ensure!(
        printed.contains(&format!("secret_api_key = {value}")),
        "{printed}"
    );
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gets_values_only_with_show() -> Result<()> {
    let world = World::without_operator("env-terminal", Setup::default()).await?;
    let value = secret("1234567890");
    world.set_doppler_secret("SECRET_API_KEY", &value);
    let file = world.file("b", &world.spec())?;
    let on_a_terminal = async |more: &[&str]| -> Result<Output> {
        let code =
            "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
        let mut command = world.command("python3");
        command
            .args(["-c", code, BINARY, "env", &file, "-n", &world.name])
            .args(HOSTS)
            .args(more)
            .stdin(std::process::Stdio::null());
        Ok(command.output().await?)
    };
    let refused = on_a_terminal(&[]).await?;
    let shown = text(&refused.stdout);
    ensure!(refused.status.code() == Some(1), "{shown}");
    ensure!(shown.contains("--show"), "{shown}");
    canary::ensure_absent("the terminal", &shown)?;
    let allowed = on_a_terminal(&["--show"]).await?;
    let shown = text(&allowed.stdout);
    ensure!(allowed.status.success(), "{shown}");
    ensure!(
        shown.contains(&format!("SECRET_API_KEY='{value}'")),
        "{shown}"
    );
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_names_the_reason_and_prints_no_values() -> Result<()> {
    let world = World::without_operator("env-failure", Setup::default()).await?;
    world.set_doppler_secret("A", &secret("a"));
    let mut spec = world.spec();
    spec["prefect"]["block"]["name"] = json!("missing");
    let file = world.file("b", &spec)?;
    let output = world.environment(&file, &["--", "true"]).await?;
    let error = text(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && error.contains("BlockMissing"),
        "{error}"
    );
    // A host that the operator does not allow gets no token.
    let mut spec = world.spec();
    spec["doppler"]["host"] = json!("http://localhost:1");
    let file = world.file("b", &spec)?;
    let output = world.environment(&file, &[]).await?;
    let error = text(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && error.contains("localhost"),
        "{error}"
    );
    let output = world.environment("nothing", &[]).await?;
    let error = text(&output.stderr);
    ensure!(
        error.contains("there is no DopplerPrefectBinding env-failure/nothing"),
        "{error}"
    );
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn compare_fails_on_a_gap_between_stages() -> Result<()> {
    let world = World::without_operator("env-compare", Setup::default()).await?;
    let (stg, prd) = ("stg", "prd");
    let mut files = Vec::new();
    for stage in [stg, prd] {
        let token = format!("dp.st.{stage}.{}", secret("env-compare"));
        world.doppler.add_service_token(&token, &world.name, stage);
        world.doppler.set(&world.name, stage, "A", &secret(stage));
        world.put_token(stage, &token).await?;
        let mut spec = world.direct_spec().await?;
        spec["doppler"]["config"] = json!(stage);
        spec["doppler"]["accessToken"]["valueFrom"]["secretKeyRef"]["name"] = json!(stage);
        files.push(format!("{stage}={}", world.file(stage, &spec)?));
    }
    let compare = async || -> Result<(Option<i32>, String)> {
        let mut command = world.command(BINARY);
        command
            .args(["check", "--compare"])
            .args(&files)
            .args(HOSTS);
        // The files name no namespace.
        let kubeconfig = world.plane.folder().join("env-compare.kubeconfig");
        let text = std::fs::read_to_string(world.plane.admin_kubeconfig_path())?;
        let mut config: Value = serde_saphyr::from_str(&text)?;
        config["contexts"][0]["context"]["namespace"] = json!(world.name);
        std::fs::write(&kubeconfig, config.to_string())?;
        let output = command.env("KUBECONFIG", kubeconfig).output().await?;
        let printed = format!(
            "{}{}",
            self::text(&output.stdout),
            self::text(&output.stderr)
        );
        canary::ensure_absent("check --compare", &printed)?;
        Ok((output.status.code(), printed))
    };
    let (code, printed) = compare().await?;
    ensure!(
        code == Some(0) && printed.contains("each has the same"),
        "{printed}"
    );

    world
        .doppler
        .set(&world.name, stg, "NEW_FLAG", &secret("flag"));
    world.doppler.set(&world.name, stg, "PATH", &secret("path"));
    let (code, printed) = compare().await?;
    ensure!(code == Some(1), "{printed}");
    for line in [
        "prd lacks NEW_FLAG, which stg has",
        "stg excludes PATH, which prd does not have at all",
    ] {
        ensure!(printed.contains(line), "{line:?} is missing in {printed}");
    }
    world.finish().await
}

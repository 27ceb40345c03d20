//! The stand-in with Doppler's own clients: the SDK for Python and the command line tool.
//!
//! Invariants: the clients run in the network of the tests, so no request reaches the internet.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::doppler::{DOWNLOAD_PATH, Doppler, RateLimit, WATCH_PATH};
use testkit::network::Network;
use testkit::{cache, venv, wait};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const TIMEOUT: Duration = Duration::from_mins(1);
/// The version that `go install …@latest` installs.
const CLI: &str = "github.com/DopplerHQ/cli@v0.5.11-0.20230908185655-7aef4713e1a4";
/// Downloads as users of the SDK do: text to a file, and the file to the environment.
const SDK: &str = r#"
import os
from dopplersdk import DopplerSDK
from dotenv import load_dotenv

sdk = DopplerSDK()
sdk.set_access_token(os.environ["TOKEN"])
if "BASE_URL" in os.environ:
    sdk.set_base_url(os.environ["BASE_URL"])
answer = sdk.secrets.download(project="shop", config="dev", format="env")
with open(".env", "w") as file:
    file.write(answer.text)
load_dotenv(".env")
print(os.environ["SECRET_API_KEY"], os.environ["DOPPLER_CONFIG"], repr(os.environ["LONG"]))
"#;

struct World {
    network: Network,
    doppler: Doppler,
    token: String,
    home: TempDir,
}

impl World {
    fn start() -> Result<Self> {
        let (network, doppler) = (Network::start()?, Doppler::start()?);
        network.route("api.doppler.com:443", doppler.tls_addr());
        doppler.replace(
            "shop",
            "dev",
            [
                ("SECRET_API_KEY", "1234567890"),
                ("LONG", "say \"hi\"\nto ü\\n 🙂"),
            ],
        );
        let token = doppler.service_token("shop", "dev");
        let home = tempfile::tempdir()?;
        std::fs::write(home.path().join("ca.pem"), doppler.ca_pem())?;
        // Otherwise the command line tool sends analytics.
        std::fs::create_dir(home.path().join(".doppler"))?;
        std::fs::write(
            home.path().join(".doppler/.doppler.yaml"),
            "analytics:\n  disable: true\n",
        )?;
        Ok(Self {
            network,
            doppler,
            token,
            home,
        })
    }

    /// A process with this world's network and authority, its own home, and none of the test's
    /// environment.
    fn command(&self, program: &Path) -> Command {
        let ca = self.home.path().join("ca.pem");
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("SSL_CERT_FILE", &ca)
            .env("REQUESTS_CA_BUNDLE", &ca)
            .envs(self.network.env())
            .current_dir(self.home.path())
            .kill_on_drop(true);
        command
    }

    async fn sdk(&self) -> Result<Command> {
        let venv = tokio::task::spawn_blocking(|| venv::venv("prefect")).await??;
        let mut command = self.command(&venv.join("bin/python"));
        command.args(["-c", SDK]).env("TOKEN", &self.token);
        Ok(command)
    }

    async fn cli(&self) -> Result<Command> {
        let mut command = self.command(&tokio::task::spawn_blocking(cli).await??);
        command
            .env("DOPPLER_TOKEN", &self.token)
            .arg("--no-check-version");
        Ok(command)
    }

    async fn plain_cli(&self) -> Result<Command> {
        let mut command = self.cli().await?;
        command.args(["--api-host", &self.doppler.url()]);
        Ok(command)
    }
}

/// The command line tool, built once from its Go module.
fn cli() -> Result<PathBuf> {
    let key = cache::key("doppler-cli", &[CLI.as_bytes()]);
    let entry = cache::get_or_build(&key, "Doppler's command line tool", |folder| {
        let mut go = std::process::Command::new("go");
        let output = go
            .args(["install", "-trimpath", "-ldflags", "-s -w", CLI])
            .env("GOBIN", folder)
            .current_dir(folder)
            .output()
            .context("tests need Go in PATH")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    })?;
    Ok(entry.join("cli"))
}

async fn output(mut command: Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    tokio::time::timeout(TIMEOUT, output)
        .await
        .context("the client took too long")?
        .context("the client did not start")
}

async fn stdout(command: Command) -> Result<String> {
    let output = output(command).await?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn failure(command: Command) -> Result<String> {
    let output = output(command).await?;
    ensure!(!output.status.success(), "the client succeeded");
    Ok(String::from_utf8(output.stderr)?)
}

#[tokio::test]
async fn the_sdk_fills_the_environment_from_a_download() -> Result<()> {
    let world = World::start()?;
    let mut sdk = world.sdk().await?;
    sdk.env("BASE_URL", world.doppler.url());
    let printed = stdout(sdk).await?;
    assert_eq!(printed, r#"1234567890 dev 'say "hi"\nto ü\\n 🙂'"#);
    let call = &world.doppler.downloads()[0];
    assert!(call.is_for("shop", "dev") && call.uses_token(&world.token));
    assert!(
        call.headers["user-agent"].starts_with("DopplerSDK/1.3.0"),
        "{call:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_sdk_reaches_dopplers_own_address_through_the_network() -> Result<()> {
    let world = World::start()?;
    let printed = stdout(world.sdk().await?).await?;
    assert!(printed.starts_with("1234567890 dev "), "{printed}");
    assert_eq!(world.network.requests("api.doppler.com:443"), 1);
    assert_eq!(
        world.doppler.requests()[0].headers["host"],
        "api.doppler.com"
    );
    Ok(())
}

#[tokio::test]
async fn the_sdk_understands_errors() -> Result<()> {
    let world = World::start()?;
    world.doppler.set_rate_limit(RateLimit {
        secret_reads: 0,
        ..RateLimit::TEAM
    });
    let error = failure(world.sdk().await?).await?;
    assert!(
        error.contains("TooManyRequestsException") && error.contains("Exceeded rate limit"),
        "{error}"
    );
    world.doppler.set_rate_limit(RateLimit::TEAM);
    world.doppler.revoke(&world.token);
    let error = failure(world.sdk().await?).await?;
    assert!(
        error.contains("UnauthorizedException") && error.contains("Invalid Auth token"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn the_command_line_tool_downloads_secrets() -> Result<()> {
    let world = World::start()?;
    for mut cli in [world.plain_cli().await?, world.cli().await?] {
        cli.args(["secrets", "download", "--no-file", "--format", "json"]);
        let printed: Value = serde_json::from_str(&stdout(cli).await?)?;
        let expected = json!({
            "DOPPLER_CONFIG": "dev", "DOPPLER_ENVIRONMENT": "dev", "DOPPLER_PROJECT": "shop",
            "LONG": "say \"hi\"\nto ü\\n 🙂", "SECRET_API_KEY": "1234567890",
        });
        assert_eq!(printed, expected);
    }
    // Once directly, and once with Doppler's own address.
    assert_eq!(
        world.network.requests_by_host(),
        [("api.doppler.com:443".to_owned(), 1)].into()
    );
    assert_eq!(world.doppler.counts().downloads, 2);
    let mut cli = world.plain_cli().await?;
    cli.args([
        "secrets",
        "download",
        "--no-file",
        "--format",
        "env",
        "--name-transformer",
        "tf-var",
    ]);
    let printed = stdout(cli).await?;
    assert!(
        printed.contains("TF_VAR_secret_api_key=\"1234567890\""),
        "{printed}"
    );
    Ok(())
}

#[tokio::test]
async fn the_command_line_tool_shows_the_error() -> Result<()> {
    let world = World::start()?;
    let download = ["secrets", "download", "--no-file", "--no-fallback"];
    let mut cli = world.plain_cli().await?;
    cli.args(download)
        .args(["--project", "shop", "--config", "prd"]);
    let error = failure(cli).await?;
    assert!(
        error.contains("This token does not have access to requested config 'prd'"),
        "{error}"
    );
    world.doppler.revoke(&world.token);
    let mut cli = world.plain_cli().await?;
    cli.args(download);
    let error = failure(cli).await?;
    assert!(error.contains("Invalid Auth token"), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_command_line_tool_sends_its_etag_and_accepts_304() -> Result<()> {
    let world = World::start()?;
    for _ in 0..2 {
        let mut cli = world.plain_cli().await?;
        cli.args(["run", "--", "printenv", "SECRET_API_KEY"]);
        assert_eq!(stdout(cli).await?, "1234567890");
    }
    let statuses: Vec<_> = world
        .doppler
        .downloads()
        .iter()
        .map(|call| call.status)
        .collect();
    assert_eq!(statuses, [Some(200), Some(304)]);
    Ok(())
}

#[tokio::test]
async fn the_command_line_tool_restarts_its_command_on_a_change() -> Result<()> {
    let world = World::start()?;
    let mut cli = world.plain_cli().await?;
    // It exits with its standard input, so it exits with this test.
    cli.args([
        "run",
        "--watch",
        "--",
        "sh",
        "-c",
        "echo \"key=$SECRET_API_KEY\"; read _",
    ]);
    let mut cli = cli
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut lines = BufReader::new(cli.stdout.take().context("its output")?).lines();
    assert_eq!(
        tokio::time::timeout(TIMEOUT, lines.next_line())
            .await??
            .as_deref(),
        Some("key=1234567890")
    );
    wait::until(TIMEOUT, "the stream", async || {
        (world.doppler.open_streams_of("shop", "dev") == 1).then_some(())
    })
    .await?;
    world.doppler.set("shop", "dev", "SECRET_API_KEY", "2");
    let restarted = async {
        while let Some(line) = lines.next_line().await? {
            if line.starts_with("key=") {
                return anyhow::Ok(line);
            }
        }
        bail!("it ended")
    };
    assert_eq!(tokio::time::timeout(TIMEOUT, restarted).await??, "key=2");
    let paths: Vec<_> = world
        .doppler
        .requests()
        .into_iter()
        .map(|call| call.path)
        .collect();
    assert_eq!(paths, [DOWNLOAD_PATH, WATCH_PATH, DOWNLOAD_PATH]);
    Ok(())
}

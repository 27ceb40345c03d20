//! Doppler's webhooks: a signed one is read at once, any other changes nothing. No operator here polls while its test lasts.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::world::{Setup, World, pairs, secret};

/// A folder of hook secrets, as a Secret would be mounted.
pub struct Folder(PathBuf);

impl Folder {
    /// Empty, beside the control plane's own files.
    pub fn new(name: &str) -> Result<Self> {
        let path = crate::world::plane()?
            .folder()
            .join(format!("{name}.hooks"));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Writes a file; it is exchanged whole, as the kubelet does.
    pub fn put(&self, name: &str, secret: &str) -> Result<()> {
        let new = self.0.join("..new");
        std::fs::write(&new, format!("{secret}\n"))?;
        Ok(std::fs::rename(new, self.0.join(name))?)
    }

    /// An operator that takes hooks and does not poll.
    pub fn setup(&self) -> Setup {
        let folder = self.0.display().to_string();
        // Nor streams: what is read was told by a hook.
        Setup::without_polls().args(&["--webhook-secrets", &folder, "--max-streams", "0"])
    }
}

/// Sends a hook to the door at `address`: the status.
pub async fn post(address: &str, secret: &str, body: &str) -> Result<u16> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    let signature = mac.chain_update(body).finalize().into_bytes();
    let mut header = "sha256=".to_owned();
    for byte in signature {
        write!(header, "{byte:02x}")?;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let answer = http
        .post(format!("http://{address}/hooks/doppler"))
        .header("X-Doppler-Signature", header)
        .body(body.to_owned())
        .send()
        .await?;
    Ok(answer.status().as_u16())
}

/// As Doppler writes it.
pub fn update_of(project: &str, config: &str) -> String {
    json!({
        "type": "config.secrets.update",
        "config": {"name": config, "project": project, "environment": config},
        "project": {"id": project, "name": project},
        "workplace": {"name": "test"},
    })
    .to_string()
}

impl World {
    async fn hook(&self, secret: &str, body: &str) -> Result<u16> {
        post(self.operator()?.webhook_address(), secret, body).await
    }

    async fn until_downloads(&self, count: usize) -> Result<()> {
        self.until(&format!("{count} downloads"), async || {
            let found = self.downloads();
            ensure!(found == count, "{found}");
            Ok(())
        })
        .await
    }

    /// A binding `name` of config `config` of the world's project, with an account's token.
    async fn bind_config(&self, name: &str, config: &str) -> Result<()> {
        let mut spec: Value = self.direct_spec().await?;
        let token = self.doppler.service_token(&self.name, config);
        self.put_token(&format!("token-{config}"), &token).await?;
        spec["doppler"]["config"] = json!(config);
        spec["doppler"]["accessToken"]["valueFrom"]["secretKeyRef"]["name"] =
            json!(format!("token-{config}"));
        self.apply_binding(name, &spec).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_hook_brings_a_change_at_once_and_any_other_changes_nothing() -> Result<()> {
    let folder = Folder::new("hook-signed")?;
    let mine = secret("the-hook-secret");
    folder.put("hook-signed", &mine)?;
    folder.put("elsewhere", &secret("another-project"))?;
    let w = World::with("hook-signed", folder.setup()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    w.set_doppler_secret("A", &secret("b"));
    let body = update_of("hook-signed", "dev");
    let before = w.downloads();

    ensure!(w.hook(&secret("not-the-hook-secret"), &body).await? == 401);
    ensure!(w.hook(&mine, &" ".repeat(65 * 1024)).await? == 413);
    // Right, but of a project that this one's secrets are none of its business.
    ensure!(w.hook(&secret("another-project"), &body).await? == 202);
    ensure!(w.hook(&mine, &update_of("hook-signed", "prd")).await? == 202);
    ensure!(w.downloads() == before, "something was read");

    ensure!(w.hook(&mine, &body).await? == 202);
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    ensure!(w.downloads() == before + 1, "{}", w.downloads() - before);
    let metrics = w.operator()?.metrics().await?;
    for (outcome, count) in [("accepted", 3), ("refused", 1), ("too-large", 1)] {
        let line = format!("doppler_prefect_hooks_total{{outcome=\"{outcome}\"}} {count}\n");
        ensure!(metrics.contains(&line), "{line}{metrics}");
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_place_wakes_all_that_its_secret_speaks_for() -> Result<()> {
    let folder = Folder::new("hook-whole")?;
    folder.put("hook-whole", &secret("of-the-project"))?;
    folder.put("_all", &secret("of-all-projects"))?;
    let w = World::with("hook-whole", folder.setup()).await?;
    for config in ["dev", "prd"] {
        w.doppler.set("hook-whole", config, "A", &secret("a"));
        w.bind_config(config, config).await?;
        w.until_ready(config).await?;
    }
    for (hook, body, value) in [
        ("of-the-project", "my own words", "b"),
        ("of-all-projects", "{}", "c"),
    ] {
        for config in ["dev", "prd"] {
            w.doppler.set("hook-whole", config, "A", &secret(value));
        }
        ensure!(w.hook(&secret(hook), body).await? == 202);
        for config in ["dev", "prd"] {
            w.until_values(config, &pairs(&[("A", secret(value))]))
                .await?;
        }
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_rotated_without_a_restart() -> Result<()> {
    let folder = Folder::new("hook-rotated")?;
    let (old, new) = (secret("the-old-one"), secret("the-new-one"));
    folder.put("hook-rotated", &old)?;
    folder.put("hook-rotated.new", &new)?;
    let w = World::with("hook-rotated", folder.setup()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    let before = w.downloads();
    let dev = update_of("hook-rotated", "dev");
    ensure!(w.hook(&old, &dev).await? == 202);
    w.until_downloads(before + 1).await?;
    ensure!(w.hook(&new, &dev).await? == 202);
    w.until_downloads(before + 2).await?;

    let newest = secret("the-newest-one");
    folder.put("hook-rotated", &newest)?;
    let status = async |secret: &str, expected: u16| {
        w.until(&format!("status {expected}"), async || {
            let found = w.hook(secret, &dev).await?;
            ensure!(found == expected, "{found}");
            Ok(())
        })
        .await
    };
    status(&newest, 202).await?;
    status(&old, 401).await?;
    status(&new, 202).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_secrets_there_is_no_door() -> Result<()> {
    let w = World::with("hook-none", Setup::without_polls()).await?;
    let closed = w.hook(&secret("any"), "{}").await;
    ensure!(closed.is_err(), "{closed:?}");
    for address in [
        w.operator()?.metrics_address(),
        w.operator()?.health_address(),
    ] {
        ensure!(post(address, &secret("any"), "{}").await? == 404);
    }
    w.finish().await
}

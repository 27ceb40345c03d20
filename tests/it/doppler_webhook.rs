//! Doppler's webhooks: a signed webhook triggers a read at once, any other changes nothing.
//! No operator here polls during its test.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::world::{Setup, World, pairs, secret};

/// A directory of webhook secrets, as the kubelet mounts a Secret.
pub struct SecretDir(PathBuf);

impl SecretDir {
    /// Creates an empty directory beside the files of the control plane.
    pub fn new(name: &str) -> Result<Self> {
        let path = crate::world::plane()?
            .folder()
            .join(format!("{name}.webhooks"));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Writes a file by replacing it, as the kubelet does.
    pub fn write(&self, name: &str, secret: &str) -> Result<()> {
        let new = self.0.join("..new");
        std::fs::write(&new, format!("{secret}\n"))?;
        Ok(std::fs::rename(new, self.0.join(name))?)
    }

    /// The path, as a value of `--webhook-secrets`.
    pub fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// The setup of an operator that receives webhooks and does not poll.
    pub fn setup(&self) -> Setup {
        let path = self.path();
        // Without streams either, so only a webhook can trigger a read.
        Setup::without_polls().args(&["--webhook-secrets", &path, "--max-streams", "0"])
    }
}

/// Sends a webhook to `address` and returns the status of the answer.
pub async fn post_webhook(address: &str, secret: &str, body: &str) -> Result<u16> {
    post_signed(&format!("http://{address}/webhooks/doppler"), secret, body).await
}

/// Sends a signed body to `url` and returns the status of the answer.
pub async fn post_signed(url: &str, secret: &str, body: &str) -> Result<u16> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    let signature = mac.chain_update(body).finalize().into_bytes();
    let mut header = "sha256=".to_owned();
    for byte in signature {
        write!(header, "{byte:02x}")?;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let answer = http
        .post(url)
        .header("X-Doppler-Signature", header)
        .body(body.to_owned())
        .send()
        .await?;
    Ok(answer.status().as_u16())
}

/// The body of an update, as Doppler writes it.
pub fn update_body(project: &str, config: &str) -> String {
    json!({
        "type": "config.secrets.update",
        "config": {"name": config, "project": project, "environment": config},
        "project": {"id": project, "name": project},
        "workplace": {"name": "test"},
    })
    .to_string()
}

impl World {
    async fn post_webhook(&self, secret: &str, body: &str) -> Result<u16> {
        post_webhook(self.operator()?.webhook_address(), secret, body).await
    }

    async fn until_downloads(&self, count: usize) -> Result<()> {
        self.until(&format!("{count} downloads"), async || {
            let found = self.downloads();
            ensure!(found == count, "{found}");
            Ok(())
        })
        .await
    }

    /// Applies a binding of config `config` of the world's project, with a service token of its
    /// own.
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
async fn a_signed_webhook_triggers_a_read_and_any_other_does_not() -> Result<()> {
    let secrets = SecretDir::new("webhook-signed")?;
    let mine = secret("the-webhook-secret");
    secrets.write("webhook-signed", &mine)?;
    secrets.write("elsewhere", &secret("another-project"))?;
    let w = World::with("webhook-signed", secrets.setup()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    w.set_doppler_secret("A", &secret("b"));
    let body = update_body("webhook-signed", "dev");
    let before = w.downloads();

    ensure!(
        w.post_webhook(&secret("not-the-webhook-secret"), &body)
            .await?
            == 401
    );
    ensure!(w.post_webhook(&mine, &" ".repeat(65 * 1024)).await? == 413);
    // Valid, but the secret of another project.
    ensure!(w.post_webhook(&secret("another-project"), &body).await? == 202);
    ensure!(
        w.post_webhook(&mine, &update_body("webhook-signed", "prd"))
            .await?
            == 202
    );
    ensure!(w.downloads() == before, "a config was read");

    ensure!(w.post_webhook(&mine, &body).await? == 202);
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    ensure!(w.downloads() == before + 1, "{}", w.downloads() - before);
    let metrics = w.operator()?.metrics().await?;
    for (outcome, count) in [("accepted", 3), ("rejected", 1), ("too-large", 1)] {
        let line =
            format!("doppler_prefect_webhook_requests_total{{outcome=\"{outcome}\"}} {count}\n");
        ensure!(metrics.contains(&line), "{line}{metrics}");
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_target_triggers_reads_of_the_whole_scope() -> Result<()> {
    let secrets = SecretDir::new("webhook-whole")?;
    secrets.write("webhook-whole", &secret("of-the-project"))?;
    secrets.write("_all", &secret("of-all-projects"))?;
    let w = World::with("webhook-whole", secrets.setup()).await?;
    for config in ["dev", "prd"] {
        w.doppler.set("webhook-whole", config, "A", &secret("a"));
        w.bind_config(config, config).await?;
        w.until_ready(config).await?;
    }
    for (signer, body, value) in [
        ("of-the-project", "a body of my own", "b"),
        ("of-all-projects", "{}", "c"),
    ] {
        for config in ["dev", "prd"] {
            w.doppler.set("webhook-whole", config, "A", &secret(value));
        }
        ensure!(w.post_webhook(&secret(signer), body).await? == 202);
        for config in ["dev", "prd"] {
            w.until_values(config, &pairs(&[("A", secret(value))]))
                .await?;
        }
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_secrets_rotate_without_a_restart() -> Result<()> {
    let secrets = SecretDir::new("webhook-rotated")?;
    let (old, new) = (secret("the-old-one"), secret("the-new-one"));
    secrets.write("webhook-rotated", &old)?;
    secrets.write("webhook-rotated.new", &new)?;
    let w = World::with("webhook-rotated", secrets.setup()).await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    let before = w.downloads();
    let dev = update_body("webhook-rotated", "dev");
    ensure!(w.post_webhook(&old, &dev).await? == 202);
    w.until_downloads(before + 1).await?;
    ensure!(w.post_webhook(&new, &dev).await? == 202);
    w.until_downloads(before + 2).await?;

    let newest = secret("the-newest-one");
    secrets.write("webhook-rotated", &newest)?;
    let status = async |secret: &str, expected: u16| {
        w.until(&format!("status {expected}"), async || {
            let found = w.post_webhook(secret, &dev).await?;
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
async fn without_secrets_the_webhook_address_is_closed() -> Result<()> {
    let w = World::with("webhook-none", Setup::without_polls()).await?;
    let closed = w.post_webhook(&secret("any"), "{}").await;
    ensure!(closed.is_err(), "{closed:?}");
    for address in [
        w.operator()?.metrics_address(),
        w.operator()?.health_address(),
    ] {
        ensure!(post_webhook(address, &secret("any"), "{}").await? == 404);
    }
    w.finish().await
}

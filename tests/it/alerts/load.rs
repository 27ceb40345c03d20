//! A release of two replicas under load: bindings that are well and bindings that fail, changes,
//! webhooks, lost and rejected subscriptions.
//!
//! Input: a name.
//! Output: the running replicas and their [`World`], in which every family of metrics has samples.
//! Invariants: each step waits for its effect.

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::doppler::{Doppler, RateLimit, WatchMode};
use testkit::operator::Operator;

use crate::doppler_webhook::{SecretDir, post_webhook, update_body};
use crate::work_pools::template;
use crate::world::{Setup, World, pairs, secret};

/// A release under load.
pub struct Load {
    pub world: World,
    pub standby: Operator,
    webhook_secret: String,
}

/// The configs with a binding that is well. One more than there are streams.
const CONFIGS: [&str; 4] = ["dev", "stg", "qa", "prd"];

impl Load {
    /// Starts the replicas, and creates the bindings.
    pub async fn start(name: &str) -> Result<Self> {
        let secrets = SecretDir::new(name)?;
        let webhook_secret = secret("the-webhook-secret");
        secrets.write("_all", &webhook_secret)?;
        let directory = secrets.path();
        let watched = format!("{name},{name}-gone");
        let setup = Setup::default().replicated().args(&[
            "--webhook-secrets",
            &directory,
            "--watch-namespace",
            &watched,
            "--max-streams",
            "3",
            "--metrics-per-binding",
        ]);
        let mut world = World::with(name, setup).await?;
        // Like the shared one, it lives as long as the process.
        world.doppler = Box::leak(Box::new(Doppler::start()?));
        world.doppler.set_rate_limit(RateLimit {
            secret_reads: 100_000,
            reads: 100_000,
            ..RateLimit::DEVELOPER
        });
        world.doppler.add_account_token(&world.token);
        let standby = world.start_replica().await?;
        let load = Self {
            world,
            standby,
            webhook_secret,
        };
        load.bind().await?;
        Ok(load)
    }

    /// Creates bindings that are well, that fail, and that are suspended.
    async fn bind(&self) -> Result<()> {
        let world = &self.world;
        for config in CONFIGS {
            world.doppler.set(&world.name, config, "A", &secret("0"));
        }
        world
            .create_pool(&world.name, &template(&world.name))
            .await?;
        let mut spec = world.spec();
        spec["inject"] = json!({"workPools": [{"name": world.name}]});
        world.apply_binding("pool", &spec).await?;
        let mut spec = world.direct_spec().await?;
        for config in CONFIGS {
            spec["doppler"]["config"] = json!(config);
            world.apply_binding(config, &spec).await?;
        }
        spec["suspend"] = json!(true);
        world.apply_binding("suspended", &spec).await?;
        spec["suspend"] = json!(false);
        spec["doppler"]["config"] = json!("missing");
        world.apply_binding("missing", &spec).await?;
        world.put_token("wrong", &secret("no-such-token")).await?;
        spec["doppler"]["accessToken"]["valueFrom"]["secretKeyRef"]["name"] = json!("wrong");
        world.apply_binding("refused", &spec).await?;
        for name in CONFIGS.iter().chain(&["pool"]) {
            world.until_ready(name).await?;
        }
        world.until_not_ready("missing", "ConfigMissing").await?;
        world
            .until_not_ready("refused", "DopplerUnauthorized")
            .await?;
        Ok(())
    }

    /// Changes all configs, and waits until the Secrets have the change.
    pub async fn change(&self, value: &str) -> Result<()> {
        let world = &self.world;
        for config in CONFIGS {
            world.doppler.set(&world.name, config, "A", &secret(value));
        }
        let address = world.operator()?.webhook_address();
        let body = update_body(&world.name, "dev");
        ensure!(post_webhook(address, &self.webhook_secret, &body).await? == 202);
        for config in CONFIGS {
            let expected = pairs(&[("A", secret(value))]);
            world.until_values(config, &expected).await?;
        }
        Ok(())
    }

    /// Closes all streams, lets Doppler reject new ones, and waits until both are counted.
    pub async fn disturb_streams(&self) -> Result<()> {
        let doppler = self.world.doppler;
        doppler.close_streams();
        self.until_counted("subscription_reconnects_total").await?;
        doppler.set_watch_mode(WatchMode::Refused(403, "Upgrade your plan".to_owned()));
        doppler.close_streams();
        self.until_counted("subscription_rejections_total").await?;
        doppler.set_watch_mode(WatchMode::Open);
        Ok(())
    }

    async fn until_counted(&self, metric: &str) -> Result<()> {
        let sample = format!("doppler_prefect_{metric}{{upstream=\"doppler\"}} ");
        self.world
            .until(&format!("{metric} to be counted"), async || {
                let page = self.world.operator()?.metrics().await?;
                ensure!(page.contains(&sample), "{page}");
                Ok(())
            })
            .await
    }

    /// Stops both replicas.
    pub async fn finish(self) -> Result<()> {
        let code = self.standby.terminate(crate::world::TIMEOUT).await?;
        ensure!(code == 0, "the standby exited with {code}");
        self.world.finish().await
    }
}

//! Changes that arrive without a poll, and limits of requests and subscriptions.
//!
//! Tests that close streams, set limits or plan faults for all requests have their own Doppler.

mod bounds;
mod event_socket;
mod flipping;
mod sharing;
mod watch_stream;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::doppler::Doppler;

use crate::world::{Setup, World, pairs, secret};

const RECONCILES: &str = "doppler_prefect_reconciles_total";

/// The values of a config that only has the key `A`.
fn values_with_a(value: &str) -> BTreeMap<String, String> {
    pairs(&[("A", secret(value))])
}

/// The name of a sample with one label.
fn sample_name(metric: &str, label: &str, value: &str) -> String {
    format!("doppler_prefect_{metric}{{{label}=\"{value}\"}}")
}

impl World {
    /// Like [`World::with`], with a Doppler for this test alone.
    async fn with_own_doppler(name: &str, setup: Setup) -> Result<Self> {
        let mut world = Self::with(name, setup).await?;
        // Like the shared one, it lives as long as the process.
        world.doppler = Box::leak(Box::new(Doppler::start()?));
        world.doppler.add_service_token(&world.token, name, "dev");
        Ok(world)
    }

    /// The spec of a binding of this config. The world's token may read every config from now on.
    async fn own_spec(&self, config: &str) -> Result<Value> {
        self.doppler.add_account_token(&self.token);
        let mut spec = self.direct_spec().await?;
        spec["doppler"]["config"] = json!(config);
        Ok(spec)
    }

    /// Creates a binding for each config, with the name of the config.
    async fn bind_own(&self, configs: &[String]) -> Result<()> {
        let mut spec = self.own_spec("dev").await?;
        for config in configs {
            spec["doppler"]["config"] = json!(config);
            self.apply_binding(config, &spec).await?;
        }
        Ok(())
    }

    /// A sample of the operator's metrics, or 0 if it is missing.
    async fn sample(&self, metric: &str) -> Result<u64> {
        let metrics = self.operator()?.metrics().await?;
        let mut lines = metrics.lines();
        let found = lines.find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        Ok(found.map_or(Ok(0), str::parse)?)
    }

    async fn until_sample(&self, metric: &str, expected: u64) -> Result<()> {
        self.until(&format!("{metric} {expected}"), async || {
            let found = self.sample(metric).await?;
            ensure!(found == expected, "{found}");
            Ok(())
        })
        .await
    }

    async fn until_subscriptions(&self, upstream: &str, count: u64) -> Result<()> {
        self.until_sample(
            &sample_name("subscriptions_connected", "upstream", upstream),
            count,
        )
        .await
    }

    /// The number of reconciles, once it no longer grows.
    async fn reconciles_at_rest(&self) -> Result<u64> {
        let (mut last, mut unchanged) = (0, 0);
        self.until("the last reconcile", async || {
            let now = self.sample(RECONCILES).await?;
            unchanged = if now == last { unchanged + 1 } else { 0 };
            last = now;
            ensure!(unchanged >= 6, "{now} so far");
            Ok(now)
        })
        .await
    }

    /// Downloads with the world's token that returned a config. Other downloads found no change.
    fn full_downloads(&self) -> usize {
        let calls = self.doppler.downloads();
        let full = calls
            .iter()
            .filter(|call| call.uses_token(&self.token) && call.status == Some(200));
        full.count()
    }
}

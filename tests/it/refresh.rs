//! Values that are current when a flow run starts, and reads on request. No operator here polls during
//! its test, and none has streams or webhooks that push.

mod on_request;
mod on_run;
mod several_configs;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::prefect::{Block, Deployment};

use crate::work_pools::template;
use crate::world::{Setup, World, secret};

/// An operator that reads nothing by itself after its first reads.
fn quiet() -> Setup {
    Setup::without_polls().args(&["--max-streams", "0"])
}

impl World {
    /// A quiet world with work pool and binding `b`, which is ready and at rest.
    async fn quiet_with_pool(name: &str) -> Result<Self> {
        let w = Self::with(name, quiet()).await?;
        w.set_doppler_secret("A", &secret("old"));
        w.create_pool(&w.name, &template(&w.name)).await?;
        w.bind_to("b", &w.name).await?;
        w.until_ready("b").await?;
        w.until_events_of_blocks().await?;
        w.until_reads_end().await?;
        Ok(w)
    }

    /// Waits for the first event, since the server does not confirm the subscription.
    async fn until_events_of_blocks(&self) -> Result<()> {
        let name = "doppler_prefect_change_notifications_total{source=\"prefect\"}";
        let another = format!("{}-another", self.name);
        self.until("an event", async || {
            let block = Block::object("p", "c", "t");
            self.api.put_block(&another, &block).await?;
            let metrics = self.operator()?.metrics().await?;
            ensure!(metrics.contains(name), "no event was received");
            Ok(())
        })
        .await
    }

    /// Waits until the reads that follow the start and the connection of the socket have ended.
    async fn until_reads_end(&self) -> Result<()> {
        let (mut last, mut unchanged) = (0, 0);
        self.until("the last read", async || {
            let now = self.all_reads("doppler").await? + self.all_reads("prefect").await?;
            unchanged = if now == last { unchanged + 1 } else { 0 };
            last = now;
            ensure!(unchanged >= 12, "{now} reads so far");
            Ok(())
        })
        .await
    }

    /// A deployment of this pool.
    async fn deploy(&self, pool: &str) -> Result<String> {
        let deployment = Deployment {
            name: &format!("{}-{pool}", self.name),
            pool,
            path: &testkit::prefect::flows(),
            entrypoint: "flow.py:main",
            job_variables: json!({}),
        };
        self.api.create_deployment(&deployment).await
    }

    /// Creates a run and takes it, as a worker does before it creates the Job.
    async fn start_run(&self, deployment: &str) -> Result<()> {
        let run = self.api.create_flow_run(deployment).await?;
        let pending = json!({"state": {"type": "PENDING", "name": "Pending"}});
        let path = format!("/flow_runs/{run}/set_state");
        // The API client repeats requests that a busy database rejects, so it may be pending already.
        self.api.post(&path, &pending).await?;
        let state = self.api.run_state(&run).await?;
        ensure!(state.kind == "PENDING", "{state:?}");
        Ok(())
    }

    /// The events of flow runs that the operator has received.
    async fn run_events(&self) -> Result<u64> {
        let metrics = self.operator()?.metrics().await?;
        let name = "doppler_prefect_change_notifications_total{source=\"prefect-run\"} ";
        let found = metrics.lines().find_map(|line| line.strip_prefix(name));
        Ok(found.map_or(Ok(0), str::parse)?)
    }
}

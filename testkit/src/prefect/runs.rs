//! Deployments, flow runs, their states and their logs.
//!
//! Input: a flow, a deployment and the parameters of a run.
//! Output: the run on the server, its state and its log.
//! Invariants: each wait has a time limit.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::{PrefectApi, text};

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// A deployment to create.
pub struct Deployment<'a> {
    /// The name of the deployment and of its flow.
    pub name: &'a str,
    /// The work pool of its runs.
    pub pool: &'a str,
    /// The folder of the flow's code.
    pub path: &'a Path,
    /// File and function in it, such as `flow.py:main`.
    pub entrypoint: &'a str,
    /// Overrides of the pool's template, such as `{"namespace": "flows"}`.
    pub job_variables: Value,
}

/// The state of a flow run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunState {
    /// Such as `COMPLETED`.
    pub kind: String,
    /// Such as `Completed` or `InfrastructurePending`.
    pub name: String,
    /// Prefect's message about the state.
    pub message: String,
}

impl RunState {
    /// Whether the state is final.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "COMPLETED" | "FAILED" | "CRASHED" | "CANCELLED"
        )
    }
}

impl PrefectApi {
    /// Creates the flow and the deployment. Returns the deployment's id.
    ///
    /// # Errors
    /// If the server rejects a request.
    pub async fn create_deployment(&self, deployment: &Deployment<'_>) -> Result<String> {
        let flow = self
            .post("/flows/", &json!({"name": deployment.name}))
            .await?;
        let body = json!({
            "name": deployment.name,
            "flow_id": flow["id"],
            "work_pool_name": deployment.pool,
            "path": deployment.path,
            "entrypoint": deployment.entrypoint,
            "job_variables": deployment.job_variables,
        });
        text(&self.post("/deployments/", &body).await?, "id")
    }

    /// Creates a flow run. Returns its id.
    ///
    /// # Errors
    /// If the server rejects a request.
    pub async fn create_flow_run(&self, deployment_id: &str) -> Result<String> {
        let path = format!("/deployments/{deployment_id}/create_flow_run");
        text(&self.post(&path, &json!({})).await?, "id")
    }

    /// The state of a run.
    ///
    /// # Errors
    /// If the run does not exist.
    pub async fn run_state(&self, run_id: &str) -> Result<RunState> {
        let run = self.get(&format!("/flow_runs/{run_id}")).await?;
        let of = |key: &str| run["state"][key].as_str().unwrap_or_default().to_owned();
        Ok(RunState {
            kind: of("type"),
            name: of("name"),
            message: of("message"),
        })
    }

    /// Waits until the run's state is final.
    ///
    /// # Errors
    /// If it is not final within `limit`.
    pub async fn wait_for_run(&self, run_id: &str, limit: Duration) -> Result<RunState> {
        self.wait_for_state(run_id, limit, RunState::is_final).await
    }

    /// Waits until `wanted` accepts the run's state.
    ///
    /// # Errors
    /// If that does not happen within `limit`.
    pub async fn wait_for_state(
        &self,
        run_id: &str,
        limit: Duration,
        wanted: impl Fn(&RunState) -> bool,
    ) -> Result<RunState> {
        let deadline = Instant::now() + limit;
        loop {
            let state = self.run_state(run_id).await?;
            if wanted(&state) {
                return Ok(state);
            }
            if Instant::now() >= deadline {
                bail!("flow run {run_id} is {} after {limit:?}", state.name);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The log of the run in Prefect so far, one message per line.
    ///
    /// # Errors
    /// If the server rejects a request.
    pub async fn run_logs(&self, run_id: &str) -> Result<String> {
        let mut lines = String::new();
        for page in 0..100 {
            let filter = json!({
                "logs": {"flow_run_id": {"any_": [run_id]}},
                "sort": "TIMESTAMP_ASC", "limit": 200, "offset": page * 200,
            });
            let entries = self.post("/logs/filter", &filter).await?;
            let entries = entries.as_array().cloned().unwrap_or_default();
            for entry in &entries {
                lines.push_str(entry["message"].as_str().unwrap_or_default());
                lines.push('\n');
            }
            if entries.len() < 200 {
                break;
            }
        }
        Ok(lines)
    }
}

//! The requests for one pool, counted in the metrics.
//!
//! Input: the client of the Prefect server and the pool's name.
//! Output: the pool, its deployments' job variables, and one metric sample for each request.
//! Invariants: decides nothing and retries nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::metrics::{Metrics, ReadLabels};
use crate::prefect::{Client, DeploymentOverrides, PrefectError, WorkPool};
use crate::upstream::limiter::Priority;

/// The requests for one pool.
pub(super) struct PoolClient<'a> {
    pub(super) client: Arc<Client>,
    pub(super) pool: &'a str,
    pub(super) priority: Priority,
    pub(super) metrics: &'a Metrics,
}

impl PoolClient<'_> {
    pub(super) async fn get(&self) -> Result<WorkPool, PrefectError> {
        let result = self.client.work_pool(self.pool, self.priority).await;
        self.count("pool-read", result)
    }

    /// Writes the template that was planned for `pool`. If its turn comes late, the pool is read
    /// again, and `replan` plans from it; the result is false if nothing is left to write.
    pub(super) async fn edit(
        &self,
        pool: &mut WorkPool,
        template: Box<RawValue>,
        replan: impl FnMut(&WorkPool) -> Result<Option<Box<RawValue>>, PrefectError>,
    ) -> Result<bool, PrefectError> {
        let client = &self.client;
        let result = client.edit_work_pool(self.pool, pool, template, replan);
        match result.await {
            Ok(false) => Ok(false),
            result => self.count("pool-write", result),
        }
    }

    pub(super) async fn deployment_overrides(
        &self,
        variables: &BTreeSet<String>,
    ) -> Result<DeploymentOverrides, PrefectError> {
        if variables.is_empty() {
            // No deployment can change anything.
            return Ok(DeploymentOverrides::default());
        }
        let result = self
            .client
            .deployment_overrides(self.pool, variables, self.priority)
            .await;
        self.count("deployments-read", result)
    }

    fn count<T>(
        &self,
        success: &'static str,
        result: Result<T, PrefectError>,
    ) -> Result<T, PrefectError> {
        let outcome = result
            .as_ref()
            .map_or_else(|error| error.reason().as_str(), |_| success);
        let upstream = "prefect";
        let labels = ReadLabels { upstream, outcome };
        self.metrics.reads.get_or_create(&labels).inc();
        result
    }
}

//! Work pools and their base job templates.
//!
//! Input: names of work pools, and templates.
//! Output: pools on the server, and their templates as the server stores them.
//! Invariants: a template that is read as text keeps its bytes.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::api::PrefectApi;

/// The template that prefect-kubernetes sets in a new pool.
const KUBERNETES_TEMPLATE: &str = include_str!("../../fixtures/prefect-base-job-template.json");

/// The default template of a pool of type kubernetes.
///
/// # Errors
/// If the fixture is not JSON.
pub fn kubernetes_template() -> Result<Value> {
    serde_json::from_str(KUBERNETES_TEMPLATE).context("the fixture of the template")
}

/// The `envFrom` of the job's container, created if it is missing.
///
/// # Errors
/// If the template has no container, or `envFrom` is not a list.
pub fn env_from(template: &mut Value) -> Result<&mut Vec<Value>> {
    let container = template
        .pointer_mut("/job_configuration/job_manifest/spec/template/spec/containers/0")
        .and_then(Value::as_object_mut)
        .context("the template has no container")?;
    let entries = container.entry("envFrom").or_insert_with(|| json!([]));
    entries.as_array_mut().context("envFrom is not a list")
}

impl PrefectApi {
    /// Creates a pool of type kubernetes with the template that its worker would set.
    ///
    /// # Errors
    /// If the server rejects a request.
    pub async fn create_kubernetes_pool(&self, name: &str) -> Result<()> {
        let template = kubernetes_template()?;
        self.create_pool(name, "kubernetes", Some(template)).await
    }

    /// Creates a pool of `pool_type`. Without a template it is `{}` until a worker sets it.
    ///
    /// # Errors
    /// If the server rejects a request.
    pub async fn create_pool(
        &self,
        name: &str,
        pool_type: &str,
        template: Option<Value>,
    ) -> Result<()> {
        let mut body = json!({"name": name, "type": pool_type});
        if let Some(template) = template {
            body["base_job_template"] = template;
        }
        self.post("/work_pools/", &body).await.map(drop)
    }

    /// The pool as the API returns it, or `None`.
    ///
    /// # Errors
    /// If the server rejects a request.
    pub async fn pool(&self, name: &str) -> Result<Option<Value>> {
        self.find(&format!("/work_pools/{name}")).await
    }

    /// The pool's template.
    ///
    /// # Errors
    /// If the pool does not exist.
    pub async fn template(&self, pool: &str) -> Result<Value> {
        let mut pool = self.get(&format!("/work_pools/{pool}")).await?;
        Ok(pool["base_job_template"].take())
    }

    /// The pool's template, byte for byte as the API returns it.
    ///
    /// # Errors
    /// If the pool does not exist.
    pub async fn template_text(&self, pool: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Pool<'a> {
            #[serde(borrow)]
            base_job_template: &'a RawValue,
        }
        let answer = self.get_text(&format!("/work_pools/{pool}")).await?;
        let pool: Pool =
            serde_json::from_str(&answer).context("the response is not a work pool")?;
        Ok(pool.base_job_template.get().to_owned())
    }

    /// Replaces the whole template of the pool, as every PATCH does.
    ///
    /// # Errors
    /// If the server rejects a request.
    pub async fn set_template(&self, pool: &str, template: &Value) -> Result<()> {
        let body = json!({"base_job_template": template});
        let path = format!("/work_pools/{pool}");
        self.patch(&path, &body).await.map(drop)
    }

    /// Deletes the pool.
    ///
    /// # Errors
    /// If the pool does not exist.
    pub async fn delete_pool(&self, name: &str) -> Result<()> {
        self.delete(&format!("/work_pools/{name}")).await
    }

    /// The names of the online workers of `pool`.
    ///
    /// # Errors
    /// If the pool does not exist.
    pub async fn online_workers(&self, pool: &str) -> Result<Vec<String>> {
        let path = format!("/work_pools/{pool}/workers/filter");
        let workers = self.post(&path, &json!({})).await?;
        let online = workers.as_array().into_iter().flatten();
        let online = online.filter(|w| w["status"].as_str() == Some("ONLINE"));
        Ok(online
            .filter_map(|w| w["name"].as_str().map(ToOwned::to_owned))
            .collect())
    }
}

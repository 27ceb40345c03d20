//! In: names of work pools and what is done to their base job template. Out: pools on the server and
//! their templates as they stand there.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::api::PrefectApi;

/// The template that prefect-kubernetes gives a new pool.
const KUBERNETES_TEMPLATE: &str = include_str!("../../fixtures/prefect-base-job-template.json");

/// The default template of a pool of type kubernetes.
///
/// # Errors
/// Never, as long as the fixture is JSON.
pub fn kubernetes_template() -> Result<Value> {
    serde_json::from_str(KUBERNETES_TEMPLATE).context("the fixture of the template")
}

/// The `envFrom` of the job's container, made when it is not there.
///
/// # Errors
/// When the template has no container, or something else than a list there.
pub fn env_from(template: &mut Value) -> Result<&mut Vec<Value>> {
    let container = template
        .pointer_mut("/job_configuration/job_manifest/spec/template/spec/containers/0")
        .and_then(Value::as_object_mut)
        .context("the template has no container")?;
    let entries = container.entry("envFrom").or_insert_with(|| json!([]));
    entries.as_array_mut().context("envFrom is not a list")
}

impl PrefectApi {
    /// A pool of type kubernetes with the template that its worker would fill in.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_kubernetes_pool(&self, name: &str) -> Result<()> {
        let template = kubernetes_template()?;
        self.create_pool(name, "kubernetes", Some(template)).await
    }

    /// A pool of `pool_type`; without a template it is `{}` until a worker fills it.
    ///
    /// # Errors
    /// When the server refuses.
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

    /// The pool as the API answers it, or nothing.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn pool(&self, name: &str) -> Result<Option<Value>> {
        self.find(&format!("/work_pools/{name}")).await
    }

    /// The pool's template.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn template(&self, pool: &str) -> Result<Value> {
        let mut pool = self.get(&format!("/work_pools/{pool}")).await?;
        Ok(pool["base_job_template"].take())
    }

    /// The pool's template, byte for byte as the API answers it.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn template_text(&self, pool: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Pool<'a> {
            #[serde(borrow)]
            base_job_template: &'a RawValue,
        }
        let answer = self.get_text(&format!("/work_pools/{pool}")).await?;
        let pool: Pool = serde_json::from_str(&answer).context("the answer is no work pool")?;
        Ok(pool.base_job_template.get().to_owned())
    }

    /// Replaces the pool's template whole, as every PATCH does.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn set_template(&self, pool: &str, template: &Value) -> Result<()> {
        let body = json!({"base_job_template": template});
        let path = format!("/work_pools/{pool}");
        self.patch(&path, &body).await.map(drop)
    }

    /// Deletes the pool.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn delete_pool(&self, name: &str) -> Result<()> {
        self.delete(&format!("/work_pools/{name}")).await
    }

    /// The names of the workers of `pool` that are online.
    ///
    /// # Errors
    /// When there is no such pool.
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

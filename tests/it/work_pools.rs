//! Work pools of the real Prefect server, as text.
//!
//! Input: a world, names, and templates as text.
//! Output: pools created, written and read, and what a binding's status reports of them.
//! Invariants: templates stay text, because a parsed value loses the order of keys and the form of
//! numbers.

use anyhow::{Context, Result, ensure};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::world::World;

/// Prefect's default template of a pool of type kubernetes, in its own order.
const TEMPLATE: &str = include_str!("../../testkit/fixtures/prefect-base-job-template.json");

/// Sources of a user.
pub const USER_SOURCES: &str =
    r#"[{"configMapRef":{"name":"mine"}},{"secretRef":{"name":"theirs","optional":false}}]"#;

/// Prefect's template for jobs in `namespace`.
pub fn template(namespace: &str) -> String {
    let default = "\"default\": \"default\",\n    \"description\": \"The Kubernetes namespace";
    let ours = default.replacen(": \"default\"", &format!(": \"{namespace}\""), 1);
    replaced(TEMPLATE, default, &ours)
}

/// The template with these sources as `envFrom`, among the container's other members.
pub fn with_sources(template: &str, sources: &str) -> String {
    let before = "\"env\": \"{{ env }}\",\n        \"image\"";
    let after = format!("\"env\": \"{{{{ env }}}}\",\n \"envFrom\": {sources},\n \"image\"");
    replaced(template, before, &after)
}

/// The text with its only occurrence of `from` replaced.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replacen(from, to, 1)
}

/// The entry that the operator writes.
pub fn entry(secret: &str, optional: bool) -> String {
    format!(r#"{{"secretRef":{{"name":"{secret}","optional":{optional}}}}}"#)
}

/// Pools.
impl World {
    /// Creates a pool of type kubernetes with this template.
    pub async fn create_pool(&self, pool: &str, template: &str) -> Result<()> {
        let body =
            format!(r#"{{"name":"{pool}","type":"kubernetes","base_job_template":{template}}}"#);
        self.send(reqwest::Method::POST, "/work_pools/", body).await
    }

    /// Replaces a pool's template, as another writer would.
    pub async fn write_template(&self, pool: &str, template: &str) -> Result<()> {
        let body = format!(r#"{{"base_job_template":{template}}}"#);
        self.send(reqwest::Method::PATCH, &format!("/work_pools/{pool}"), body)
            .await
    }

    /// A pool's template as the server sends it.
    pub async fn template_text(&self, pool: &str) -> Result<String> {
        #[derive(serde::Deserialize)]
        struct Pool {
            base_job_template: Box<RawValue>,
        }
        let text = self.api.get_text(&format!("/work_pools/{pool}")).await?;
        let pool: Pool = serde_json::from_str(&text)?;
        Ok(pool.base_job_template.get().to_owned())
    }

    /// The time of the last write of a pool. A PATCH that changes nothing counts too.
    pub async fn last_write(&self, pool: &str) -> Result<String> {
        let pool = self.api.pool(pool).await?.context("no such pool")?;
        Ok(pool["updated"].to_string())
    }

    /// The names in the container's `envFrom`, in order.
    pub async fn sources(&self, pool: &str) -> Result<Vec<String>> {
        let template = self.api.template(pool).await?;
        let container = &template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
            ["containers"][0];
        let entries = container["envFrom"].as_array().cloned();
        let name = |entry: &Value| {
            let of = |kind: &str| entry[kind]["name"].as_str().map(ToOwned::to_owned);
            of("secretRef").or_else(|| of("configMapRef"))
        };
        Ok(entries
            .unwrap_or_default()
            .iter()
            .filter_map(name)
            .collect())
    }

    /// Waits until the container's `envFrom` has exactly these names.
    pub async fn until_sources(&self, pool: &str, expected: &[&str]) -> Result<()> {
        self.until(
            &format!("sources {expected:?} of pool {pool}"),
            async || {
                let found = self.sources(pool).await?;
                ensure!(found == expected, "{found:?}");
                Ok(())
            },
        )
        .await
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: String) -> Result<()> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("{}{path}", self.prefect.api_url());
        self.until(&format!("{method} {path}"), async || {
            let request = client.request(method.clone(), &url).body(body.clone());
            let request = request.header("content-type", "application/json");
            let answer = request.send().await?;
            ensure!(answer.status().is_success(), "{}", answer.text().await?);
            Ok(())
        })
        .await
    }
}

/// What a binding's status reports of its pools.
impl World {
    /// The world's spec with these entries of `inject.workPools`.
    pub fn pool_spec(&self, pools: &Value) -> Value {
        let mut spec = self.spec();
        spec["inject"] = json!({"workPools": pools});
        spec
    }

    /// Applies a binding that injects its Secret into one pool.
    pub async fn bind_to(&self, name: &str, pool: &str) -> Result<()> {
        self.apply_binding(name, &self.pool_spec(&json!([{"name": pool}])))
            .await
    }

    /// The pool's entry in the status.
    pub async fn pool_status(&self, binding: &str, pool: &str) -> Result<Value> {
        let status = self.status(binding).await?;
        let pools = status["workPools"].as_array().cloned().unwrap_or_default();
        let found = pools.into_iter().find(|one| one["name"] == pool);
        found.with_context(|| format!("the status has no pool {pool}"))
    }

    /// Waits until the pool has this state in the status.
    pub async fn until_pool(&self, binding: &str, pool: &str, state: &str) -> Result<Value> {
        self.until(
            &format!("pool {pool} to be {state} for {binding}"),
            async || {
                let found = self.pool_status(binding, pool).await?;
                ensure!(found["state"] == state, "{found}");
                Ok(found)
            },
        )
        .await
    }
}

//! A world whose bindings reach Prefect by a `ClusterPrefectServer`.
//!
//! Input: a world, and the lists of the server.
//! Output: the proxy in front of Prefect, the API key in the namespace of the platform team, and the
//! server, all with the name of the world.
//! Invariants: the proxy accepts no other key than the one in the Secret.

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use testkit::{grant::ensure_namespace, kubernetes, prefect::Block};

use super::front::Front;
use crate::world::{Setup, World, chart, secret};
use doppler_prefect_operator::crd::ClusterPrefectServer;

/// A world, and the server of its bindings.
pub struct Fixture {
    pub w: World,
    pub front: Front,
}

impl Fixture {
    /// Starts the operator of the world with the permission to read servers, and creates the key.
    pub async fn start(name: &str, setup: Setup) -> Result<Self> {
        let w = World::without_operator(name, setup).await?;
        let key = secret("api-key-1");
        let front = Front::start(&w.prefect.api_url(), &key).await?;
        let mut f = Self { w, front };
        ensure_namespace(&f.w.client, &f.platform()).await?;
        f.put_key(&key).await?;
        f.w.start_operator().await?;
        Ok(f)
    }

    /// A setup whose operator reads servers.
    pub fn setup() -> Setup {
        Setup {
            optional: chart::Optional::ClusterServers,
            ..Setup::default()
        }
        .args(&["--cluster-servers"])
    }

    /// The namespace of the platform team, which no operator watches for bindings.
    pub fn platform(&self) -> String {
        chart::platform(&self.w.name)
    }

    /// Writes the key of the Prefect API.
    pub async fn put_key(&self, key: &str) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": chart::SERVER_KEY},
            "stringData": {"key": key},
        });
        kubernetes::apply(&self.w.client, &self.platform(), &secret.to_string()).await?;
        Ok(())
    }

    /// Creates the server with these lists, or changes it.
    pub async fn put_server(&self, lists: &Value) -> Result<()> {
        let key = json!({"namespace": self.platform(), "name": chart::SERVER_KEY, "key": "key"});
        let mut spec = lists.clone();
        spec["server"] = json!({
            "remoteApiUrl": self.front.url(), "apiKey": {"valueFrom": {"secretKeyRef": key}},
        });
        let server = json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "ClusterPrefectServer",
            "metadata": {"name": self.w.name}, "spec": spec,
        });
        let params = PatchParams::apply("test").force();
        let patch = Patch::Apply(server);
        self.servers().patch(&self.w.name, &params, &patch).await?;
        Ok(())
    }

    pub async fn delete_server(&self) -> Result<()> {
        let params = DeleteParams::default();
        self.servers().delete(&self.w.name, &params).await?;
        Ok(())
    }

    fn servers(&self) -> Api<ClusterPrefectServer> {
        Api::all(self.w.client.clone())
    }

    /// The server as it is stored.
    pub async fn server(&self) -> Result<ClusterPrefectServer> {
        Ok(self.servers().get(&self.w.name).await?)
    }

    /// Waits for the status of the server: Ready with this reason, and these numbers of bindings.
    pub async fn until_server(&self, reason: &str, used: i32, refused: i32) -> Result<String> {
        let what = format!("{reason} with {used} and {refused} bindings");
        self.w
            .until(&what, async || {
                let server = self.server().await?;
                let status = server.status.context("no status yet")?;
                let ready = status.conditions.first().context("no condition")?;
                let found = (
                    ready.reason.as_str(),
                    status.bindings,
                    status.refused_bindings,
                );
                ensure!(
                    found == (reason, used, refused),
                    "{found:?}: {}",
                    ready.message
                );
                ensure!(status.observed_generation == server.metadata.generation);
                Ok(ready.message.clone())
            })
            .await
    }

    /// A binding that names the server.
    pub fn spec(&self, block: &str, pools: &[&str]) -> Value {
        let pools: Vec<Value> = pools.iter().map(|pool| json!({"name": pool})).collect();
        json!({
            "prefect": {"serverRef": {"name": self.w.name}, "block": {"name": block}},
            "doppler": {"host": self.w.doppler.url()},
            "inject": {"workPools": pools},
        })
    }

    /// Creates a block of this name for the world's config.
    pub async fn put_block(&self, name: &str) -> Result<()> {
        let block = Block::object(&self.w.name, "dev", &self.w.token);
        self.w.api.put_block(name, &block).await?;
        Ok(())
    }

    /// Fails if the proxy got a request that contains `part`.
    pub fn ensure_silent(&self, part: &str) -> Result<()> {
        let found = self.front.requests(part);
        ensure!(found.is_empty(), "requests were sent: {found:?}");
        Ok(())
    }

    /// The message of a binding that is not Ready for this reason.
    pub async fn refused(&self, w: &World, name: &str, reason: &str) -> Result<String> {
        let ready = w.until_not_ready(name, reason).await?;
        let text = ready.message;
        if text.contains("api-key") {
            return Err(anyhow!("the message shows the key: {text}"));
        }
        Ok(text)
    }

    /// The resource version of a binding.
    pub async fn version(&self, name: &str) -> Result<String> {
        let version = self.w.binding(name).await?.metadata.resource_version;
        version.context("no version")
    }

    /// The key's Secret.
    pub fn keys(&self) -> Api<Secret> {
        Api::namespaced(self.w.client.clone(), &self.platform())
    }

    /// Removes the server, and ends the world.
    pub async fn finish(self) -> Result<()> {
        let params = DeleteParams::default();
        let _ = self.servers().delete(&self.w.name, &params).await;
        self.w.finish().await
    }
}

//! Our operator as a subject.
//!
//! In: the path of its binary. Out: bindings, and the operator as a process of its own, with the flags that a chart for one namespace would give
//! it, the default log filter, and the rights of the chart.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::scene::Scene;
use super::subject::{How, Running, Subject};
use testkit::operator::{Operator, OperatorOptions};
use testkit::wait;

const STOP_LIMIT: Duration = Duration::from_secs(40);
/// How often it is asked whether it is ready: as fine as the figure is read.
const LOOK: Duration = Duration::from_millis(20);

/// Our operator.
pub struct Ours {
    binary: PathBuf,
}

impl Ours {
    /// The operator of that binary.
    #[must_use]
    pub fn new(binary: PathBuf) -> Self {
        Self { binary }
    }
}

impl Subject for Ours {
    fn name(&self) -> &'static str {
        "doppler-prefect-operator"
    }

    fn kind(&self) -> ApiResource {
        let kind =
            GroupVersionKind::gvk("doppler-prefect.dev", "v1alpha1", "DopplerPrefectBinding");
        ApiResource::from_gvk_with_plural(&kind, "dopplerprefectbindings")
    }

    fn resource(&self, scene: &Scene<'_>, index: usize) -> Value {
        let mut doppler = json!({"host": scene.doppler.url()});
        if let Some(config) = scene.config_override(index) {
            doppler["config"] = config.into();
        }
        let mut spec = json!({
            "prefect": {"server": {"remoteApiUrl": scene.prefect.api_url()}, "block": {"name": scene.block(index)}},
            "doppler": doppler,
        });
        if let Some(pool) = scene.pool() {
            spec["inject"] = json!({"workPools": [{"name": pool}]});
        }
        json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
            "metadata": {"name": self.resource_name(index), "namespace": scene.namespace}, "spec": spec,
        })
    }

    fn resource_name(&self, index: usize) -> String {
        // All of one length, so that all writes are of one size.
        format!("b{index:06}")
    }

    fn target(&self, index: usize) -> String {
        self.resource_name(index)
    }

    fn start<'a>(
        &'a self,
        scene: &'a Scene<'_>,
        how: &'a How,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Running>>> {
        async move {
            let local = "http://127.0.0.1:*";
            let refresh = format!("{}ms", how.refresh.as_millis());
            let mut args: Vec<String> = [
                ("--watch-namespace", scene.namespace.as_str()),
                ("--operator-namespace", &scene.grant.namespace),
                ("--refresh-interval", &refresh),
                ("--allowed-doppler-host", local),
                ("--allowed-prefect-host", local),
                ("--log-filter", "info"),
            ]
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()])
            .collect();
            if let Some(hooks) = &how.hooks {
                let secrets = hooks.secrets.display().to_string();
                for word in [
                    "--webhook-address",
                    &hooks.address,
                    "--webhook-secrets",
                    &secrets,
                ] {
                    args.push(word.to_owned());
                }
            }
            let operator = Operator::spawn(OperatorOptions {
                binary: self.binary.clone(),
                kubeconfig: scene.grant.kubeconfig.clone(),
                args,
                ..OperatorOptions::default()
            })?;
            Ok(Box::new(Process(operator)) as Box<dyn Running>)
        }
        .boxed_local()
    }
}

struct Process(Operator);

impl Running for Process {
    fn pid(&self) -> Option<u32> {
        Some(self.0.process().pid())
    }

    fn still_runs(&self) -> Result<()> {
        self.0.process().ensure_running()
    }

    fn ready(&self, limit: Duration) -> LocalBoxFuture<'_, Result<()>> {
        async move {
            let ready =
                wait::until_every(limit, LOOK, "the operator to be ready", async || match self
                    .0
                    .process()
                    .ensure_running()
                {
                    Err(ended) => Ok(Err(ended)),
                    Ok(()) => self.0.is_ready().await.map(Ok),
                });
            ready.await?
        }
        .boxed_local()
    }

    fn stop(self: Box<Self>) -> LocalBoxFuture<'static, Result<()>> {
        async move {
            let code = self.0.terminate(STOP_LIMIT).await?;
            ensure!(
                code == 0,
                "the operator ended with {code}: {}",
                self.0.process().log_tail()
            );
            Ok(())
        }
        .boxed_local()
    }
}

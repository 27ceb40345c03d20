//! The operator as a subject.
//!
//! Input: the path of its binary. Output: bindings, and the operator as a process.
//! Invariants: the process has the flags of the chart for one namespace, the default log filter,
//! and the rights of the chart.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use testkit::operator::{Operator, OperatorOptions};
use testkit::wait;

use crate::subject::{RunOptions, RunningSubject, Subject};
use crate::testbed::Testbed;

const STOP_LIMIT: Duration = Duration::from_secs(40);
/// The interval between readiness probes: the resolution of the figure.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// The operator.
pub struct OperatorSubject {
    binary: PathBuf,
}

impl OperatorSubject {
    /// The operator with that binary.
    #[must_use]
    pub fn new(binary: PathBuf) -> Self {
        Self { binary }
    }
}

impl Subject for OperatorSubject {
    fn name(&self) -> &'static str {
        "doppler-prefect-operator"
    }

    fn resource_kind(&self) -> ApiResource {
        let kind =
            GroupVersionKind::gvk("doppler-prefect.dev", "v1alpha1", "DopplerPrefectBinding");
        ApiResource::from_gvk_with_plural(&kind, "dopplerprefectbindings")
    }

    fn resource(&self, testbed: &Testbed<'_>, index: usize) -> Value {
        let workload = &testbed.workload;
        let mut doppler = json!({"host": testbed.doppler.url()});
        if let Some(config) = workload.config_override(index) {
            doppler["config"] = config.into();
        }
        let mut spec = json!({
            "prefect": {
                "server": {"remoteApiUrl": testbed.prefect.api_url()},
                "block": {"name": workload.block_of(index)},
            },
            "doppler": doppler,
        });
        if let Some(pool) = workload.pool() {
            spec["inject"] = json!({"workPools": [{"name": pool}]});
        }
        json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1",
            "kind": "DopplerPrefectBinding",
            "metadata": {"name": self.resource_name(index), "namespace": testbed.namespace},
            "spec": spec,
        })
    }

    fn resource_name(&self, index: usize) -> String {
        // All names have the same length, so that all writes have the same size.
        format!("b{index:06}")
    }

    fn secret_name(&self, index: usize) -> String {
        self.resource_name(index)
    }

    fn start<'a>(
        &'a self,
        testbed: &'a Testbed<'_>,
        options: &'a RunOptions,
    ) -> LocalBoxFuture<'a, Result<Box<dyn RunningSubject>>> {
        async move {
            let operator = Operator::spawn(OperatorOptions {
                binary: self.binary.clone(),
                kubeconfig: testbed.grant.kubeconfig.clone(),
                args: arguments(testbed, options),
                ..OperatorOptions::default()
            })?;
            Ok(Box::new(Process(operator)) as Box<dyn RunningSubject>)
        }
        .boxed_local()
    }
}

fn arguments(testbed: &Testbed<'_>, options: &RunOptions) -> Vec<String> {
    let local = "http://127.0.0.1:*".to_owned();
    let mut flags = vec![
        ("--watch-namespace", testbed.namespace.clone()),
        ("--operator-namespace", testbed.grant.namespace.clone()),
        (
            "--refresh-interval",
            format!("{}ms", options.refresh.as_millis()),
        ),
        ("--allowed-doppler-host", local.clone()),
        ("--allowed-prefect-host", local),
        ("--log-filter", "info".to_owned()),
    ];
    if let Some(webhook) = &options.webhook {
        flags.push(("--webhook-address", webhook.address.clone()));
        flags.push(("--webhook-secrets", webhook.secrets.display().to_string()));
    }
    let words = flags
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value]);
    words.collect()
}

struct Process(Operator);

impl RunningSubject for Process {
    fn pid(&self) -> Option<u32> {
        Some(self.0.process().pid())
    }

    fn ensure_running(&self) -> Result<()> {
        self.0.process().ensure_running()
    }

    fn wait_until_ready(&self, limit: Duration) -> LocalBoxFuture<'_, Result<()>> {
        async move {
            let ready = wait::until_every(
                limit,
                PROBE_INTERVAL,
                "the operator to be ready",
                async || {
                    // An exit ends the wait at once, with its error.
                    match self.0.process().ensure_running() {
                        Err(exited) => Ok(Err(exited)),
                        Ok(()) => self.0.is_ready().await.map(Ok),
                    }
                },
            );
            ready.await?
        }
        .boxed_local()
    }

    fn stop(self: Box<Self>) -> LocalBoxFuture<'static, Result<()>> {
        async move {
            let code = self.0.terminate(STOP_LIMIT).await?;
            ensure!(
                code == 0,
                "the operator exited with code {code}; the end of its log: {}",
                self.0.process().log_tail()
            );
            Ok(())
        }
        .boxed_local()
    }
}

//! The servers of the demo: a control plane, Doppler's stand-in, a Prefect server, and a network
//! that resolves the host names that users write.
//!
//! Input: none. Output: `Environment`, to which the node and the worker are added later.
//! Invariants: all servers stop with the value; printed logs do not have Doppler's token.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};

use super::names::{CHOSEN_CONFIG, DOPPLER_CONFIG, NAMESPACE, OPERATOR_NAMESPACE};
use super::output::Output;
use crate::control_plane::{ControlPlane, Options};
use crate::doppler::Doppler;
use crate::folder::ScratchDir;
use crate::grant::ensure_namespace;
use crate::kubernetes;
use crate::network::Network;
use crate::node::ProcessNode;
use crate::prefect::{PrefectOptions, PrefectServer, PrefectWorker};
use crate::wait;

/// The host name of the server in the cluster, as the smallest binding has it.
const PREFECT_HOST: &str = "prefect-server.prefect.svc:4200";
/// The Service of that name, as Prefect's chart creates it. The network routes its traffic.
const PREFECT_SERVICE: &str = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "prefect-server"}, "spec": {"ports": [{"port": 4200}]}}"#;
const DOPPLER_HOST: &str = "api.doppler.com:443";
const ACCOUNT_TIMEOUT: Duration = Duration::from_mins(1);
/// The number of printed lines of each log.
const LOG_TAIL_LINES: usize = 40;

/// All servers.
pub(super) struct Environment {
    // The servers stop in the order of the fields.
    pub(super) worker: Option<PrefectWorker>,
    pub(super) node: Option<ProcessNode>,
    pub(super) prefect: PrefectServer,
    pub(super) network: Network,
    pub(super) doppler: Doppler,
    pub(super) plane: ControlPlane,
    pub(super) client: Client,
    /// Doppler's service token, which is redacted.
    pub(super) token: String,
    /// The token of the config that a deployment chooses, which is redacted.
    pub(super) chosen_token: String,
    /// The file with the authority of Doppler's certificate, in PEM.
    pub(super) authority: PathBuf,
    _folder: ScratchDir,
}

impl Environment {
    pub(super) async fn start(output: &Output) -> Result<Self> {
        output.step("starts a Kubernetes control plane and a Prefect server (the first run builds them, which takes about ten minutes)");
        let (plane, prefect) = tokio::try_join!(
            ControlPlane::start(Options::default()),
            PrefectServer::start(PrefectOptions::default()),
        )?;
        let client = plane.admin_client()?;
        ensure_namespace(&client, NAMESPACE).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
        wait::until(ACCOUNT_TIMEOUT, "the default service account", async || {
            accounts.get_opt("default").await.ok().flatten()
        })
        .await?;

        ensure_namespace(&client, "prefect").await?;
        kubernetes::apply(&client, "prefect", PREFECT_SERVICE).await?;

        let doppler = Doppler::start()?;
        let network = Network::start()?;
        network.route(PREFECT_HOST, ([127, 0, 0, 1], prefect.port()).into());
        network.route(DOPPLER_HOST, doppler.tls_addr());
        let folder = ScratchDir::new("demo")?;
        let authority = folder.path().join("doppler-ca.crt");
        std::fs::write(&authority, doppler.ca_pem())?;
        output.step(&format!(
            "up: Kubernetes at {}, Prefect at {}, Doppler's stand-in as https://api.doppler.com",
            plane.url(),
            prefect.api_url()
        ));
        Ok(Self {
            worker: None,
            node: None,
            token: doppler.service_token(DOPPLER_CONFIG.0, DOPPLER_CONFIG.1),
            chosen_token: doppler.service_token(DOPPLER_CONFIG.0, CHOSEN_CONFIG),
            prefect,
            network,
            doppler,
            plane,
            client,
            authority,
            _folder: folder,
        })
    }

    /// The environment of processes in the cluster: its proxy, and its certificate authority.
    pub(super) fn cluster_env(&self) -> Vec<(String, String)> {
        let mut env = self.network.env();
        // Rust, Go and httpx read the first one, Python's requests the second one.
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"] {
            env.push((name.to_owned(), self.authority.display().to_string()));
        }
        env
    }

    /// The ends of the logs, without the token.
    pub(super) fn logs(&self) -> String {
        let mut text = log_section("Prefect's server", &self.prefect.log());
        if let Some(worker) = &self.worker {
            text += &log_section("Prefect's worker", &worker.log());
        }
        for pod in self.node.iter().flat_map(ProcessNode::pods) {
            // The error of a failed flow run has the log of that run.
            if pod.namespace == OPERATOR_NAMESPACE {
                text += &log_section(&format!("pod {}/{}", pod.namespace, pod.name), &pod.log());
            }
        }
        self.redact_token(&text)
    }

    pub(super) fn redact_token(&self, text: &str) -> String {
        let text = text.replace(&self.token, "********");
        text.replace(&self.chosen_token, "********")
    }
}

/// The last lines of a log, below its name.
fn log_section(name: &str, log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    format!("--- the end of the log of {name}\n{}\n", last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_section_has_only_the_last_lines() {
        assert_eq!(
            log_section("x", "a\nb"),
            "--- the end of the log of x\na\nb\n"
        );
        let long: String = "line\n".repeat(99) + "last\n";
        let short = log_section("x", &long);
        assert_eq!(short.matches("line\n").count(), LOG_TAIL_LINES - 1);
        assert!(short.ends_with("line\nlast\n"));
    }
}

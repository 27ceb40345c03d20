//! What the story is played on: control plane, Doppler's stand-in, Prefect's server, and the network in which both have the
//! names that users write.
//!
//! In: nothing. Out: the running servers, later the node and the worker too. All end with the value.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};

use super::install;
use super::tell::Output;
use crate::control_plane::{ControlPlane, Options};
use crate::doppler::Doppler;
use crate::folder::ScratchDir;
use crate::grant::ensure_namespace;
use crate::network::Network;
use crate::node::ProcessNode;
use crate::prefect::{PrefectOptions, PrefectServer, PrefectWorker};
use crate::wait;

/// Where the job pods run, as in the smallest binding.
pub(super) const NAMESPACE: &str = "flows";
/// Doppler's project and config.
pub(super) const DOPPLER_CONFIG: (&str, &str) = ("my-project", "dev");
/// The server's name in the cluster, as the smallest binding means it.
const PREFECT_HOST: &str = "prefect-server.prefect.svc:4200";
const DOPPLER_HOST: &str = "api.doppler.com:443";
const ACCOUNT_TIMEOUT: Duration = Duration::from_mins(1);
/// How many lines of a log are worth reading.
const LOG_TAIL_LINES: usize = 40;

/// All that runs.
pub(super) struct Environment {
    // The order of the fields is the order in which they end.
    pub(super) worker: Option<PrefectWorker>,
    pub(super) node: Option<ProcessNode>,
    pub(super) prefect: PrefectServer,
    pub(super) network: Network,
    pub(super) doppler: Doppler,
    pub(super) plane: ControlPlane,
    pub(super) client: Client,
    /// Doppler's service token, which is never to be seen.
    pub(super) token: String,
    /// The authority of Doppler's certificate, in PEM.
    pub(super) authority: PathBuf,
    _folder: ScratchDir,
}

impl Environment {
    pub(super) async fn start(tell: &Output) -> Result<Self> {
        tell.step("starts a Kubernetes control plane and a Prefect server (first time: builds them, some ten minutes)");
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

        let doppler = Doppler::start()?;
        let network = Network::start()?;
        network.route(PREFECT_HOST, ([127, 0, 0, 1], prefect.port()).into());
        network.route(DOPPLER_HOST, doppler.tls_addr());
        let folder = ScratchDir::new("demo")?;
        let authority = folder.path().join("doppler-ca.crt");
        std::fs::write(&authority, doppler.ca_pem())?;
        tell.step(&format!(
            "up: Kubernetes at {}, Prefect at {}, Doppler's stand-in as https://api.doppler.com",
            plane.url(),
            prefect.api_url()
        ));
        Ok(Self {
            worker: None,
            node: None,
            token: doppler.service_token(DOPPLER_CONFIG.0, DOPPLER_CONFIG.1),
            prefect,
            network,
            doppler,
            plane,
            client,
            authority,
            _folder: folder,
        })
    }

    /// What processes of the cluster are started with: its network, and whom they trust in it.
    pub(super) fn cluster_env(&self) -> Vec<(String, String)> {
        let mut env = self.network.env();
        // The first is read by Rust, Go and httpx, the second by Python's requests.
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
            // Each run's own failure quotes its own log.
            if pod.namespace == install::NAMESPACE {
                text += &log_section(&format!("pod {}/{}", pod.namespace, pod.name), &pod.log());
            }
        }
        self.redact_token(&text)
    }

    pub(super) fn redact_token(&self, text: &str) -> String {
        text.replace(&self.token, "********")
    }
}

/// The last lines of a log, under its name.
fn log_section(name: &str, log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    format!("--- the end of the log of {name}\n{}\n", last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_section_has_the_last_lines_only() {
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

//! The quick start of the README, as a new user runs it.
//!
//! Input: the commands of the README, and a cluster with Prefect: a server, a block, a work pool and
//! a worker.
//! Output: a flow run that prints its secret.
//! Invariants: the commands run in a shell as they stand in the README, but for the name of the
//! registry. No container engine runs here, so that the node runs the binary in place of the image
//! that the first two commands build and push.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::control_plane::{ControlPlane, Options};
use testkit::doppler::Doppler;
use testkit::folder::ScratchDir;
use testkit::grant::{ensure_namespace, grant};
use testkit::helm::Helm;
use testkit::network::Network;
use testkit::node::{Image, NodeOptions, ProcessNode};
use testkit::prefect::{
    Block, Deployment, PrefectApi, PrefectOptions, PrefectServer, PrefectWorker, WorkerOptions,
    flows, kubernetes_template,
};
use testkit::{kubectl, kubernetes};
use tokio::process::Command;

use crate::world::secret;

const README: &str = include_str!("../../README.md");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The release and its namespace, as the README names them.
const OPERATOR: &str = "doppler-prefect-operator";
const NAMESPACE: &str = "flows";
const POOL: &str = "k8s";
/// The Service of Prefect's chart. The network routes its traffic.
const SERVICE: &str = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "prefect-server"}, "spec": {"ports": [{"port": 4200}]}}"#;
const COMMAND_TIMEOUT: Duration = Duration::from_mins(2);
const RUN_TIMEOUT: Duration = Duration::from_mins(4);

/// The commands of the quick start.
fn commands() -> Vec<String> {
    let section = README.split("\n## Quick start\n").nth(1).unwrap();
    let block = section.split("```sh\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    let joined = block.replace("\\\n", " ");
    joined.lines().map(ToOwned::to_owned).collect()
}

/// What a user has before the quick start.
struct Cluster {
    // The servers stop in the order of the fields.
    _worker: PrefectWorker,
    api: PrefectApi,
    deployment: String,
    _prefect: PrefectServer,
    network: Network,
    _doppler: Doppler,
    plane: ControlPlane,
    folder: ScratchDir,
}

impl Cluster {
    async fn start(value: &str) -> Result<Self> {
        let (plane, prefect) = tokio::try_join!(
            ControlPlane::start(Options::default()),
            PrefectServer::start(PrefectOptions::default()),
        )?;
        let client = plane.admin_client()?;
        for namespace in [NAMESPACE, "prefect"] {
            ensure_namespace(&client, namespace).await?;
        }
        kubernetes::apply(&client, "prefect", SERVICE).await?;
        let doppler = Doppler::start()?;
        doppler.set("my-project", "dev", "SECRET_API_KEY", value);
        let token = doppler.service_token("my-project", "dev");
        let network = Network::start()?;
        let address = ([127, 0, 0, 1], prefect.port()).into();
        network.route("prefect-server.prefect.svc:4200", address);
        network.route("api.doppler.com:443", doppler.tls_addr());
        let folder = ScratchDir::new("quick-start")?;
        std::fs::write(folder.path().join("doppler-ca.crt"), doppler.ca_pem())?;

        let api = prefect.api()?;
        let block = Block::object("my-project", "dev", &token);
        api.put_block("doppler-config", &block).await?;
        let mut template = kubernetes_template()?;
        template["variables"]["properties"]["namespace"]["default"] = json!(NAMESPACE);
        api.create_pool(POOL, "kubernetes", Some(template)).await?;
        let path = flows();
        let deployment = Deployment {
            name: "my-flow",
            pool: POOL,
            path: &path,
            entrypoint: "flow.py:main",
            job_variables: json!({}),
        };
        let deployment = api.create_deployment(&deployment).await?;
        let options = WorkerOptions {
            pool: POOL.to_owned(),
            name: "quick-start".to_owned(),
            kubeconfig: plane.admin_kubeconfig_path(),
            env: Vec::new(),
        };
        Ok(Self {
            _worker: PrefectWorker::start(&prefect, &options).await?,
            api,
            deployment,
            _prefect: prefect,
            network,
            _doppler: doppler,
            plane,
            folder,
        })
    }

    /// Starts the node that runs the operator's pod and those of flow runs. The chart must be installed.
    async fn node(&self) -> Result<ProcessNode> {
        let authority = self.folder.path().join("doppler-ca.crt");
        let account = grant(&self.plane, OPERATOR, OPERATOR).await?;
        let mut options = NodeOptions::new("quick-start", self.plane.admin_kubeconfig_path());
        options.extra_env = self.network.env();
        let authority = authority.display().to_string();
        options
            .extra_env
            .push(("SSL_CERT_FILE".to_owned(), authority));
        let account = account.kubeconfig.display().to_string();
        options.images = vec![Image {
            repository: format!("registry.example.com/{OPERATOR}"),
            entrypoint: vec![env!("CARGO_BIN_EXE_doppler-prefect-operator").to_owned()],
            env: vec![("KUBECONFIG".to_owned(), account)],
        }];
        ProcessNode::start(options).await
    }

    /// Runs a command of the README.
    async fn run(&self, command: &str) -> Result<()> {
        let command = command.replace("REGISTRY", "registry.example.com");
        let programs =
            tokio::task::spawn_blocking(|| anyhow::Ok([Helm::V3.program()?, kubectl::program()?]))
                .await??;
        let folders = programs
            .iter()
            .filter_map(|program| program.parent())
            .map(Path::to_owned);
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(folders.chain(std::env::split_paths(&inherited)))?;
        let child = Command::new("bash")
            .args(["-euc", &command])
            .current_dir(ROOT)
            .env("PATH", path)
            .env("HOME", self.folder.path())
            .env("KUBECONFIG", self.plane.admin_kubeconfig_path())
            .env("NO_PROXY", "127.0.0.1,localhost")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output());
        let output = output.await.context(command.clone())??;
        ensure!(
            output.status.success(),
            "{command}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_commands_lead_to_a_flow_that_prints_its_secret() -> Result<()> {
    let commands = commands();
    let [build, push, install, apply, wait] = commands.as_slice() else {
        anyhow::bail!("{} commands: {commands:?}", commands.len());
    };
    ensure!(build.starts_with("docker build ") && push.starts_with("docker push "));
    let value = secret("1234567890");
    let cluster = Cluster::start(&value).await?;
    cluster.run(install).await?;
    let node = cluster.node().await?;
    let ready = async {
        cluster.run(apply).await?;
        cluster.run(wait).await
    };
    if let Err(error) = ready.await {
        let pods = node.pods();
        let logs = pods
            .iter()
            .map(testkit::node::PodRecord::log)
            .collect::<Vec<_>>();
        return Err(error.context(logs.join("\n")));
    }
    // The node has no DNS, so that the network knows the Service of the metrics.
    let metrics = format!("{OPERATOR}-metrics.{OPERATOR}.svc:8080");
    cluster
        .network
        .route(&metrics, ([127, 0, 0, 1], 8080).into());
    let test = format!("helm test {OPERATOR} --namespace {OPERATOR}");
    cluster.run(&test).await?;
    let run = cluster.api.create_flow_run(&cluster.deployment).await?;
    let ended = cluster.api.wait_for_run(&run, RUN_TIMEOUT).await;
    let log = node.logs_of_run(&run);
    ensure!(ended?.kind == "COMPLETED", "{log}");
    ensure!(log.contains(&format!("secret_api_key = {value}")), "{log}");
    Ok(())
}

//! Starts and stops the control plane.
//!
//! Input: `Options`. Output: a `ControlPlane` that is ready: the API server responds, and the
//! default service account exists.
//! Invariants: all servers listen on 127.0.0.1, use one temporary folder, and stop with the value
//! or with this process. Clients are not shared, because a client belongs to the runtime of one
//! test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use axum::http::Request;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client, Config};
use parking_lot::Mutex;

use super::authority::Authority;
use super::binaries::Binaries;
use super::version::Version;
use crate::folder::ScratchDir;
use crate::guard::{GuardedChild, GuardedCommand};
use crate::{kubernetes, ports, progress, wait};

/// The start takes seven seconds on an idle machine.
const START_TIMEOUT: Duration = Duration::from_mins(2);

/// The controllers that tests and the demo need. None of them writes when idle: no leases, no node
/// life cycle.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
    serviceaccount-token-controller,root-ca-certificate-publisher-controller,clusterrole-aggregation-controller,\
    job-controller,ttl-after-finished-controller,deployment-controller,replicaset-controller,\
    resourcequota-controller";

/// The options of a control plane.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// YAML documents that are applied before the controllers start, such as CRDs. The garbage
    /// collector discovers new kinds only every 30 s.
    pub manifests: Vec<String>,
    /// Additional arguments of kube-apiserver.
    pub apiserver_arguments: Vec<String>,
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    // The servers stop in the order of the fields.
    controllers: Mutex<Option<GuardedChild>>,
    apiserver: Mutex<Option<GuardedChild>>,
    etcd: GuardedChild,
    ca_pem: String,
    ca_der: Vec<u8>,
    admin_token: String,
    port: u16,
    etcd_port: u16,
    binaries: Binaries,
    options: Options,
    folder: ScratchDir,
}

impl ControlPlane {
    /// The control plane that all tests of this process share. The first call starts it.
    ///
    /// It blocks during the start, and can be called inside and outside a runtime.
    ///
    /// # Errors
    /// When the start failed. Later calls return the same error, because a second start
    /// would fail too.
    pub fn shared() -> Result<&'static Self> {
        Self::shared_with_options(Options::default)
    }

    /// As `shared`, with the options of the first call in this process.
    ///
    /// # Errors
    /// As `shared`.
    pub fn shared_with_options(options: impl FnOnce() -> Options) -> Result<&'static Self> {
        static SHARED: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                Self::start_on_a_thread(options()).map_err(|error| format!("{error:#}"))
            })
            .as_ref()
            .map_err(|error| anyhow!("the shared control plane: {error}"))
    }

    /// A runtime cannot start inside the thread of another runtime, so that this one has its own
    /// thread.
    fn start_on_a_thread(options: Options) -> Result<Self> {
        let start = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(Self::start(options))
        };
        std::thread::spawn(start)
            .join()
            .map_err(|_| anyhow!("starting the control plane panicked"))?
    }

    /// Starts a control plane.
    ///
    /// # Errors
    /// When a binary is missing or a server does not become ready. The error has the end
    /// of its log.
    pub async fn start(options: Options) -> Result<Self> {
        let binaries = tokio::task::spawn_blocking(Binaries::find).await??;
        let step =
            progress::Step::start("starting etcd, kube-apiserver and kube-controller-manager");
        let mut tries = 3;
        let plane = loop {
            tries -= 1;
            match Self::start_once(binaries.clone(), options.clone()).await {
                // Another process took a port between its choice and its use.
                Err(error)
                    if tries > 0 && format!("{error:#}").contains("address already in use") => {}
                result => break result?,
            }
        };
        step.finish();
        Ok(plane)
    }

    async fn start_once(binaries: Binaries, options: Options) -> Result<Self> {
        let folder = ScratchDir::new("control-plane")?;
        let authority = Authority::new()?;
        write_files(folder.path(), &authority)?;
        let [port, etcd_port, etcd_peer_port] = ports::free()?;
        let etcd = start_etcd(&binaries.etcd, folder.path(), etcd_port, etcd_peer_port)?;
        let plane = Self {
            controllers: Mutex::default(),
            apiserver: Mutex::default(),
            etcd,
            ca_pem: authority.ca_pem,
            ca_der: authority.ca_der,
            admin_token: authority.admin_token,
            port,
            etcd_port,
            binaries,
            options,
            folder,
        };
        plane.kubeconfig_for_token("admin", &plane.admin_token)?;
        plane.start_apiserver().await?;
        let client = plane.admin_client()?;
        for manifest in &plane.options.manifests {
            kubernetes::apply(&client, "default", manifest).await?;
        }
        plane.start_controllers().await?;
        Ok(plane)
    }

    /// Starts the API server, also after `stop_apiserver`, and waits until it is ready.
    ///
    /// # Errors
    /// When it exits or is not ready in time.
    pub async fn start_apiserver(&self) -> Result<()> {
        let folder = self.folder.path();
        let file = |name: &str| folder.join(name).display().to_string();
        let mut command = Command::new(&self.binaries.kube_apiserver);
        command.args([
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            // The default reconciler rejects a loopback address.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", file("apiserver")),
            format!("--tls-cert-file={}", file("serving.crt")),
            format!("--tls-private-key-file={}", file("serving.key")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--service-account-key-file={}", file("service-account.pub")),
            format!(
                "--service-account-signing-key-file={}",
                file("service-account.key")
            ),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--shutdown-delay-duration=0s".to_owned(),
        ]);
        command.args(self.binaries.version.admission_arguments());
        command.args(&self.options.apiserver_arguments);
        let child =
            GuardedCommand::new("kube-apiserver", command, folder.join("kube-apiserver.log"))
                .grace(Duration::ZERO)
                .start()?;
        let client = self.admin_client()?;
        wait_until_ready(
            &[&child, &self.etcd],
            "kube-apiserver to be ready",
            async || {
                client
                    .request_text(Request::get("/readyz").body(Vec::new())?)
                    .await?;
                Ok(())
            },
        )
        .await?;
        write_if_absent(&self.apiserver, Some(child));
        Ok(())
    }

    /// Kills the API server. Its objects stay in etcd, and the controllers retry.
    pub fn stop_apiserver(&self) {
        write_if_absent(&self.apiserver, None);
    }

    async fn start_controllers(&self) -> Result<()> {
        let folder = self.folder.path();
        let file = |name: &str| folder.join(name).display().to_string();
        let mut command = Command::new(&self.binaries.kube_controller_manager);
        command.args([
            format!("--kubeconfig={}", self.admin_kubeconfig_path().display()),
            // The port serves only metrics and probes, which are not used here.
            "--secure-port=0".to_owned(),
            format!(
                "--service-account-private-key-file={}",
                file("service-account.key")
            ),
            format!("--root-ca-file={}", file("ca.crt")),
            "--use-service-account-credentials=true".to_owned(),
            "--leader-elect=false".to_owned(),
            format!("--controllers={CONTROLLERS}"),
            // The default client-side rate limit slows a busy test down.
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ]);
        let child = GuardedCommand::new(
            "kube-controller-manager",
            command,
            folder.join("kube-controller-manager.log"),
        )
        .grace(Duration::ZERO)
        .start()?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin_client()?, "default");
        wait_until_ready(
            &[&child, &self.etcd],
            "the default service account",
            async || {
                accounts.get("default").await?;
                Ok(())
            },
        )
        .await?;
        write_if_absent(&self.controllers, Some(child));
        Ok(())
    }

    /// The version of the API server.
    pub fn version(&self) -> Version {
        self.binaries.version
    }

    /// The URL of the API server.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The certificate authority of the API server, in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The folder with the logs of the servers and the kubeconfigs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig_path(&self) -> PathBuf {
        self.kubeconfig_path("admin")
    }

    /// A new client for the administrator (group `system:masters`).
    ///
    /// # Errors
    /// When the client cannot be created. It does not depend on the server.
    pub fn admin_client(&self) -> Result<Client> {
        self.client_for_token(&self.admin_token)
    }

    /// A new client with that token. It ignores the proxy variables of the environment.
    ///
    /// # Errors
    /// As `admin_client`.
    pub fn client_for_token(&self, token: &str) -> Result<Client> {
        let mut config = Config::new(self.url().parse()?);
        config.root_cert = Some(vec![self.ca_der.clone()]);
        config.auth_info.token = Some(token.to_owned().into());
        config.read_timeout = Some(Duration::from_mins(1));
        Ok(Client::try_from(config)?)
    }

    /// Writes a kubeconfig with that token. `name` is the name of the file and of the user.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig_for_token(&self, name: &str, token: &str) -> Result<PathBuf> {
        let text = kubeconfig(&self.url(), &self.folder.path().join("ca.crt"), name, token);
        let path = self.kubeconfig_path(name);
        write_private(&path, &text)?;
        Ok(path)
    }

    /// The metrics of the API server, as Prometheus text.
    ///
    /// # Errors
    /// When it does not respond.
    pub async fn apiserver_metrics(&self) -> Result<String> {
        let request = Request::get("/metrics").body(Vec::new())?;
        let client = self.admin_client()?;
        Ok(client.request_text(request).await?)
    }

    /// The issuer of service account tokens and its keys (a JWK set), as an OIDC client discovers them.
    ///
    /// # Errors
    /// When the API server does not respond.
    pub async fn issuer(&self) -> Result<(String, String)> {
        let client = self.admin_client()?;
        let get = |path: &str| Request::get(path).body(Vec::new());
        let configuration = get("/.well-known/openid-configuration")?;
        let configuration: serde_json::Value = client.request(configuration).await?;
        let issuer = configuration["issuer"].as_str().context("no issuer")?;
        let keys = client.request_text(get("/openid/v1/jwks")?).await?;
        Ok((issuer.to_owned(), keys))
    }

    /// The running servers, with their process IDs.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let held = |place: &Mutex<Option<GuardedChild>>| {
            let child = place.lock();
            child
                .as_ref()
                .map(|child| (child.name().to_owned(), child.pid()))
        };
        let mut all = vec![(self.etcd.name().to_owned(), self.etcd.pid())];
        all.extend(held(&self.apiserver));
        all.extend(held(&self.controllers));
        all
    }

    fn kubeconfig_path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.kubeconfig"))
    }
}

fn start_etcd(program: &Path, folder: &Path, port: u16, peer_port: u16) -> Result<GuardedChild> {
    let (client, peer) = (
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{peer_port}"),
    );
    let mut command = Command::new(program);
    command
        .arg("--unsafe-no-fsync")
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"));
    GuardedCommand::new("etcd", command, folder.join("etcd.log"))
        .grace(Duration::ZERO)
        .start()
}

fn write_files(folder: &Path, authority: &Authority) -> Result<()> {
    let tokens = format!("{},admin,admin,\"system:masters\"\n", authority.admin_token);
    for (name, text) in [
        ("ca.crt", authority.ca_pem.as_str()),
        ("serving.crt", &authority.serving_certificate_pem),
        ("serving.key", &authority.serving_key_pem),
        ("service-account.key", &authority.service_account_key_pem),
        (
            "service-account.pub",
            &authority.service_account_public_key_pem,
        ),
        ("tokens.csv", &tokens),
    ] {
        write_private(&folder.join(name), text)?;
    }
    Ok(())
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// A kubeconfig as JSON, which kubectl, helm and kube read as YAML.
fn kubeconfig(url: &str, ca: &Path, name: &str, token: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testkit", "cluster": {"server": url, "certificate-authority": ca}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": "testkit", "context": {"cluster": "testkit", "user": name}}],
        "current-context": "testkit",
    })
    .to_string()
}

/// Waits for a condition, and fails at once when a server exits.
async fn wait_until_ready(
    servers: &[&GuardedChild],
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let settled = wait::until(START_TIMEOUT, what, async || {
        for server in servers {
            if let Err(ended) = server.ensure_running() {
                return Ok(Err(ended));
            }
        }
        condition().await.map(Ok)
    });
    match settled.await {
        Ok(settled) => settled,
        Err(error) => {
            let logs: Vec<_> = servers.iter().map(|server| server.log_tail()).collect();
            bail!("{error}\n{}", logs.join("\n"))
        }
    }
}

fn write_if_absent(place: &Mutex<Option<GuardedChild>>, child: Option<GuardedChild>) {
    *place.lock() = child;
}

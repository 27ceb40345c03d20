//! The environment of one test: a namespace of the shared control plane, a project of the shared
//! Doppler stand-in, a block of the shared Prefect server, and its own operator.
//!
//! Input: a unique name, and the [`Setup`] of the operator.
//! Output: a [`World`] in which everything has that name.
//! Invariants: the operator has exactly the permissions of the chart. A test that does not reach
//! [`World::finish`] prints the end of the operator's log; one that does has all output of the
//! operator searched for the canary.

pub mod canary;
pub mod chart;
pub mod observe;

use std::iter;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use serde_json::{Value, json};
use testkit::control_plane::{ControlPlane, Options};
use testkit::doppler::{Doppler, RateLimit};
use testkit::grant::{Grant, grant_from_chart};
use testkit::kubernetes;
use testkit::operator::{Operator, OperatorOptions};
use testkit::prefect::{Block, PrefectApi, PrefectServer};

use self::chart::Optional;

pub use canary::secret;
pub use observe::pairs;

/// Time limit for what happens at once or at the next poll, on machines with few cores.
pub const TIMEOUT: Duration = Duration::from_secs(40);

/// The CRD in the repository.
pub const CRD: &str = include_str!("../../../crds/dopplerprefectbindings.yaml");

/// The CRD of servers that many namespaces share.
pub const SERVER_CRD: &str = include_str!("../../../crds/clusterprefectservers.yaml");

/// How a test starts its operator.
pub struct Setup {
    /// `--refresh-interval`.
    pub refresh_interval: &'static str,
    /// `--release-wait`.
    pub release_wait: &'static str,
    /// Additional arguments of `run`.
    pub args: Vec<String>,
    /// Additional environment variables.
    pub env: Vec<(String, String)>,
    /// A control plane for this test alone. It runs as long as the process.
    pub plane: Option<&'static ControlPlane>,
    /// Renders the chart for several replicas, and enables leader election.
    pub replicated: bool,
    /// The optional permission with which the chart is rendered.
    pub optional: Optional,
    /// The binary to start instead of [`operator_binary`].
    pub binary: Option<PathBuf>,
    /// A further namespace to watch, of another tenant. It is the name of another world, which has no
    /// operator of its own.
    pub neighbour: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            refresh_interval: "1s",
            release_wait: "1s",
            args: Vec::new(),
            env: Vec::new(),
            plane: None,
            replicated: false,
            optional: Optional::Nothing,
            binary: None,
            neighbour: None,
        }
    }
}

/// The operator's binary: the one that was built with the tests, unless `OPERATOR_BINARY` names
/// another one, such as the one that is released.
pub fn operator_binary() -> PathBuf {
    std::env::var_os("OPERATOR_BINARY").map_or_else(
        || env!("CARGO_BIN_EXE_doppler-prefect-operator").into(),
        PathBuf::from,
    )
}

impl Setup {
    /// An operator that does not poll during the test, so that an event causes each change.
    pub fn without_polls() -> Self {
        Self {
            refresh_interval: "1h",
            ..Self::default()
        }
    }

    /// Adds leader election.
    pub fn replicated(mut self) -> Self {
        self.replicated = true;
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args
            .extend(args.iter().map(|&argument| argument.to_owned()));
        self
    }
}

/// The control plane that all tests share.
pub fn plane() -> Result<&'static ControlPlane> {
    ControlPlane::shared_with_options(|| Options {
        manifests: vec![CRD.to_owned(), SERVER_CRD.to_owned()],
        ..Options::default()
    })
}

/// The Doppler that all tests share, without an effective rate limit.
pub fn doppler() -> Result<&'static Doppler> {
    static SHARED: OnceLock<Result<Doppler, String>> = OnceLock::new();
    let started = SHARED.get_or_init(|| {
        let doppler = Doppler::start().map_err(|error| format!("{error:#}"))?;
        doppler.set_rate_limit(RateLimit {
            secret_reads: 1_000_000,
            reads: 1_000_000,
            window: Duration::from_mins(1),
        });
        Ok(doppler)
    });
    started
        .as_ref()
        .map_err(|error| anyhow::anyhow!("the shared Doppler: {error}"))
}

/// The environment of one test.
pub struct World {
    /// Name of the namespace, the Doppler project, the Prefect block, and the work pool if the test
    /// creates one.
    pub name: String,
    /// A client with admin permissions.
    pub client: Client,
    /// The shared control plane.
    pub plane: &'static ControlPlane,
    /// The shared Doppler.
    pub doppler: &'static Doppler,
    /// The token of config `dev`.
    pub token: String,
    /// The shared Prefect server.
    pub prefect: &'static PrefectServer,
    /// A client of the Prefect server.
    pub api: PrefectApi,
    /// The operator's account.
    pub grant: Grant,
    /// The running operator.
    pub operator: Option<Operator>,
    setup: Setup,
    log: PathBuf,
    finished: bool,
}

/// Start and stop of the operator.
impl World {
    /// Starts a world whose operator polls each second. Its token reads config `dev`, and its block
    /// names both.
    pub async fn start(name: &str) -> Result<Self> {
        Self::with(name, Setup::default()).await
    }

    /// Like [`World::start`], with this setup.
    pub async fn with(name: &str, setup: Setup) -> Result<Self> {
        let mut world = Self::without_operator(name, setup).await?;
        world.start_operator().await?;
        Ok(world)
    }

    /// Like [`World::with`], without starting the operator.
    pub async fn without_operator(name: &str, setup: Setup) -> Result<Self> {
        let prefect = PrefectServer::shared().await?;
        let plane = match setup.plane {
            Some(plane) => plane,
            None => tokio::task::spawn_blocking(plane).await??,
        };
        let doppler = doppler()?;
        let client = plane.admin_client()?;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        kubernetes::apply(&client, name, &namespace.to_string()).await?;
        let home = format!("{name}-operator");
        let neighbour = setup.neighbour.as_deref();
        let (several, optional) = (setup.replicated, setup.optional);
        let rendered = chart::render(&home, name, neighbour, several, optional).await?;
        let grant = grant_from_chart(plane, &rendered, &home).await?;
        let token = format!("dp.st.dev.{}", secret(name));
        doppler.add_service_token(&token, name, "dev");
        let api = prefect.api()?;
        // Text, because a server of 2.20 takes nothing else.
        api.put_block(name, &Block::json_string(name, "dev", &token))
            .await?;
        let log = plane.folder().join(format!("{name}.operator.log"));
        let name = name.to_owned();
        Ok(Self {
            name,
            client,
            plane,
            doppler,
            token,
            prefect,
            api,
            grant,
            operator: None,
            setup,
            log,
            finished: false,
        })
    }

    /// Starts the operator and waits until it is ready.
    pub async fn start_operator(&mut self) -> Result<()> {
        self.operator = Some(Operator::start(self.options()).await?);
        Ok(())
    }

    /// Starts another replica of the operator and waits until it is ready, as leader or standby.
    pub async fn start_replica(&self) -> Result<Operator> {
        Operator::start(self.options()).await
    }

    /// Terminates the operator as Kubernetes does. Its exit code must be 0.
    pub async fn stop_operator(&mut self) -> Result<()> {
        let operator = self.operator.take().context("no operator is running")?;
        let code = operator.terminate(Duration::from_secs(25)).await?;
        ensure!(
            code == 0,
            "the operator exited with {code}\n{}",
            self.log_tail()
        );
        Ok(())
    }

    /// Adds environment variables to later starts of the operator.
    pub fn add_operator_env(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        self.setup.env.extend(env);
    }

    /// Drops the additional arguments for later starts of the operator.
    pub fn clear_operator_args(&mut self) {
        self.setup.args.clear();
    }

    /// Sets the binary for later starts of the operator.
    pub fn set_operator_binary(&mut self, binary: PathBuf) {
        self.setup.binary = Some(binary);
    }

    /// Sets the poll interval for later starts of the operator.
    pub fn set_refresh_interval(&mut self, interval: &'static str) {
        self.setup.refresh_interval = interval;
    }

    /// Stops and starts the operator.
    pub async fn restart_operator(&mut self) -> Result<()> {
        self.stop_operator().await?;
        self.start_operator().await
    }

    /// Kills the operator.
    pub fn kill_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.kill_now();
        }
    }

    /// The running operator.
    pub fn operator(&self) -> Result<&Operator> {
        self.operator.as_ref().context("no operator is running")
    }

    fn options(&self) -> OperatorOptions {
        let doppler = "http://127.0.0.1:*";
        let neighbour = self.setup.neighbour.iter().map(String::as_str);
        let watched: Vec<&str> = iter::once(self.name.as_str()).chain(neighbour).collect();
        let watched = watched.join(",");
        let fixed = [
            ("--watch-namespace", watched.as_str()),
            ("--operator-namespace", &self.grant.namespace),
            ("--refresh-interval", self.setup.refresh_interval),
            // Tests of polls must not wait for the longer interval of subscribed sources.
            ("--pushed-refresh-interval", self.setup.refresh_interval),
            ("--release-wait", self.setup.release_wait),
            ("--allowed-doppler-host", doppler),
            ("--allowed-prefect-host", doppler),
        ];
        // An argument of the test replaces the default.
        let given = |flag: &str| self.setup.args.iter().any(|argument| argument == flag);
        let fixed = fixed.into_iter().filter(|(flag, _)| !given(flag));
        let args = fixed.flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]);
        // The same as in the chart's Deployment.
        let election = [
            ("LEADER_ELECTION", "true"),
            ("LEASE_NAME", &self.grant.service_account),
            ("POD_NAME", "replica"),
            ("POD_IP", "127.0.0.1"),
        ];
        let election = election.into_iter().filter(|_| self.setup.replicated);
        let env = election.map(|(name, value)| (name.to_owned(), value.to_owned()));
        OperatorOptions {
            binary: match &self.setup.binary {
                Some(binary) => binary.clone(),
                None => operator_binary(),
            },
            kubeconfig: self.grant.kubeconfig.clone(),
            args: args.chain(self.setup.args.iter().cloned()).collect(),
            env: env.chain(self.setup.env.iter().cloned()).collect(),
            log: Some(self.log.clone()),
        }
    }
}

/// What a test sets up.
impl World {
    /// Sets a value of config `dev` in the world's Doppler project. The value must contain the
    /// canary, unless it is too short for that.
    pub fn set_doppler_secret(&self, key: &str, value: &str) {
        self.doppler.set(&self.name, "dev", key, value);
    }

    /// A spec with the world's block and the shared servers.
    pub fn spec(&self) -> Value {
        json!({
            "prefect": {"server": {"remoteApiUrl": self.prefect.api_url()}, "block": {"name": self.name}},
            "doppler": {"host": self.doppler.url()},
        })
    }

    /// A spec without Prefect. The token is in key `token` of Secret `token`, which this creates.
    pub async fn direct_spec(&self) -> Result<Value> {
        self.put_token("token", &self.token).await?;
        let token = json!({"valueFrom": {"secretKeyRef": {"name": "token", "key": "token"}}});
        Ok(json!({"doppler": {
            "host": self.doppler.url(), "project": self.name, "config": "dev", "accessToken": token,
        }}))
    }

    /// Writes `value` to key `token` of a Secret.
    pub async fn put_token(&self, name: &str, value: &str) -> Result<()> {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"token": value}});
        self.apply(&secret.to_string()).await
    }

    /// Applies a binding.
    pub async fn apply_binding(&self, name: &str, spec: &Value) -> Result<()> {
        let binding = json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding", "metadata": {"name": name}, "spec": spec,
        });
        self.apply(&binding.to_string()).await
    }

    /// Creates a Service of the world's namespace, so that a binding may name it.
    pub async fn create_service(&self, name: &str) -> Result<()> {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"ports": [{"port": 4200}]},
        });
        self.apply(&service.to_string()).await
    }

    /// Server-side applies YAML as the admin, in the world's namespace.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        kubernetes::apply(&self.client, &self.name, yaml)
            .await
            .map(drop)
    }
}

/// The end of a test.
impl World {
    /// Searches everything that the operator wrote for the canary, and stops the operator.
    pub async fn finish(mut self) -> Result<()> {
        let tokens = self.doppler.seen_identity_tokens();
        if let Some(operator) = &self.operator {
            let metrics = operator.metrics().await?;
            canary::ensure_absent("/metrics", &metrics)?;
            canary::ensure_no_token("/metrics", &metrics, &tokens)?;
        }
        for (place, text) in self.public_texts().await? {
            canary::ensure_absent(&place, &text)?;
            canary::ensure_no_token(&place, &text, &tokens)?;
        }
        if self.operator.is_some() {
            self.stop_operator().await?;
        }
        self.search_log()?;
        // Frees the API server from an unused namespace, without waiting.
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces
            .delete(&self.grant.namespace, &kube::api::DeleteParams::default())
            .await;
        self.finished = true;
        Ok(())
    }

    /// The complete log, at trace level.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn search_log(&self) -> Result<()> {
        let log = self.log();
        canary::ensure_absent("the operator's log", &log)?;
        let tokens = self.doppler.seen_identity_tokens();
        canary::ensure_no_token("the operator's log", &log, &tokens)?;
        ensure!(
            !log.contains("panicked at"),
            "the operator panicked\n{}",
            self.log_tail()
        );
        Ok(())
    }

    /// The last log lines from the operator's own code.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let own = log.lines().filter(|line| {
            let noise = line.contains(r#""level":"TRACE""#);
            !line.starts_with('{')
                || (!noise && line.contains(r#""target":"doppler_prefect_operator"#))
        });
        let own: Vec<_> = own.collect();
        own[own.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        eprintln!(
            "the last log lines of the operator of {}:\n{}",
            self.name,
            self.log_tail()
        );
        if let Err(error) = self.search_log() {
            eprintln!("{error:#}");
        }
    }
}

//! What a test stands in: a namespace of the shared control plane, a project of the shared Doppler stand-in, a block of the shared Prefect server,
//! and an operator of its own.
//!
//! In: a name, which no other test has, and how the operator is to be started. Out: a [`World`] with everything under that name. The operator has
//! the rights of the chart and nothing else. Never ends quietly: a test that is not [`World::end`]ed prints the operator's last words, and one that
//! is ended has had every text that the operator wrote searched for the canary.

pub mod canary;
mod look;
pub mod rights;

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

pub use canary::secret;
pub use look::pairs;

/// How long a test waits for what should happen at once or at the next poll; these cores are seldom idle.
pub const TIMEOUT: Duration = Duration::from_secs(40);

/// The only copy of the CRD.
pub const CRD: &str = include_str!("../../../crds/dopplerprefectbindings.yaml");

/// How the operator of a test is started.
pub struct Setup {
    /// `--refresh-interval`.
    pub refresh_interval: &'static str,
    /// `--release-wait`.
    pub release_wait: &'static str,
    /// More arguments of `run`.
    pub args: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// A control plane of the test's own, which lives as long as the process.
    pub plane: Option<&'static ControlPlane>,
    /// The chart is rendered for several replicas, and each operator stands for election.
    pub replicated: bool,
    /// What is started instead of the binary that was built with the tests.
    pub binary: Option<PathBuf>,
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
            binary: None,
        }
    }
}

impl Setup {
    /// An operator that does not poll while the test lasts: what happens was caused by an event.
    pub fn without_polls() -> Self {
        Self {
            refresh_interval: "1h",
            ..Self::default()
        }
    }

    /// One of several replicas.
    pub fn replicated(mut self) -> Self {
        self.replicated = true;
        self
    }

    /// With more arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args
            .extend(args.iter().map(|&argument| argument.to_owned()));
        self
    }
}

/// The control plane that all tests share.
pub fn plane() -> Result<&'static ControlPlane> {
    ControlPlane::shared_with_options(|| Options {
        manifests: vec![CRD.to_owned()],
        ..Options::default()
    })
}

/// The Doppler that all tests share; its limit is out of the way.
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

/// One test's world.
pub struct World {
    /// Namespace of bindings and Secrets; Doppler project; Prefect block; Prefect work pool, where a test makes one.
    pub name: String,
    /// The administrator.
    pub client: Client,
    /// The shared control plane.
    pub plane: &'static ControlPlane,
    /// The shared Doppler.
    pub doppler: &'static Doppler,
    /// The token of config `dev`.
    pub token: String,
    /// The shared Prefect server.
    pub prefect: &'static PrefectServer,
    /// A client of it.
    pub api: PrefectApi,
    /// Who the operator is.
    pub grant: Grant,
    /// The operator, while one runs.
    pub operator: Option<Operator>,
    setup: Setup,
    log: PathBuf,
    finished: bool,
}

/// The start.
impl World {
    /// A world with an operator that polls each second, a token for config `dev`, and a block that names both.
    pub async fn start(name: &str) -> Result<Self> {
        Self::with(name, Setup::default()).await
    }

    /// As [`World::start`], with an operator as the test wants it.
    pub async fn with(name: &str, setup: Setup) -> Result<Self> {
        let mut world = Self::without_operator(name, setup).await?;
        world.start_operator().await?;
        Ok(world)
    }

    /// As [`World::with`], before the operator runs.
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
        let rendered = rights::rendered(&home, name, setup.replicated).await?;
        let grant = grant_from_chart(plane, &rendered, &home).await?;
        let token = format!("dp.st.dev.{}", secret(name));
        doppler.add_service_token(&token, name, "dev");
        let api = prefect.api()?;
        api.put_block(name, &Block::object(name, "dev", &token))
            .await?;
        let log = plane.folder().join(format!("{name}.operator.log"));
        let name = name.to_owned();
        let (operator, ended) = (None, false);
        Ok(Self {
            name,
            client,
            plane,
            doppler,
            token,
            prefect,
            api,
            grant,
            operator,
            setup,
            log,
            finished: ended,
        })
    }

    /// Starts the operator (again) and waits until it is ready.
    pub async fn start_operator(&mut self) -> Result<()> {
        self.operator = Some(Operator::start(self.options()).await?);
        Ok(())
    }

    /// Starts another replica of the operator and waits until it is ready, if only to stand by.
    pub async fn start_replica(&self) -> Result<Operator> {
        Operator::start(self.options()).await
    }

    /// Ends the operator as Kubernetes would; its exit code must be 0.
    pub async fn stop_operator(&mut self) -> Result<()> {
        let operator = self.operator.take().context("no operator runs")?;
        let code = operator.terminate(Duration::from_secs(25)).await?;
        ensure!(
            code == 0,
            "the operator ended with {code}\n{}",
            self.log_tail()
        );
        Ok(())
    }

    /// Operators that are started from now on have this in their environment as well.
    pub fn add_operator_env(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        self.setup.env.extend(env);
    }

    /// Operators that are started from now on are started by this file.
    pub fn set_operator_binary(&mut self, binary: PathBuf) {
        self.setup.binary = Some(binary);
    }

    /// Operators that are started from now on poll that often.
    pub fn set_refresh_interval(&mut self, interval: &'static str) {
        self.setup.refresh_interval = interval;
    }

    /// Ends the operator and starts another.
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

    /// The operator that runs.
    pub fn operator(&self) -> Result<&Operator> {
        self.operator.as_ref().context("no operator runs")
    }

    fn options(&self) -> OperatorOptions {
        let doppler = "http://127.0.0.1:*";
        let fixed = [
            ("--watch-namespace", self.name.as_str()),
            ("--operator-namespace", &self.grant.namespace),
            ("--refresh-interval", self.setup.refresh_interval),
            // A test that is about polls is not to wait for those that a socket makes rare.
            ("--pushed-refresh-interval", self.setup.refresh_interval),
            ("--release-wait", self.setup.release_wait),
            ("--allowed-doppler-host", doppler),
            ("--allowed-prefect-host", doppler),
        ];
        // A flag that the test gives replaces ours.
        let given = |flag: &str| self.setup.args.iter().any(|argument| argument == flag);
        let fixed = fixed.into_iter().filter(|(flag, _)| !given(flag));
        let args = fixed.flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]);
        // As the chart's Deployment has it.
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
                None => env!("CARGO_BIN_EXE_doppler-prefect-operator").into(),
            },
            kubeconfig: self.grant.kubeconfig.clone(),
            args: args.chain(self.setup.args.iter().cloned()).collect(),
            env: env.chain(self.setup.env.iter().cloned()).collect(),
            log: Some(self.log.clone()),
        }
    }
}

/// What a test does.
impl World {
    /// Sets a value in Doppler: the world's project, config `dev`. The value must carry the canary, unless it is too short for that.
    pub fn set_doppler_secret(&self, key: &str, value: &str) {
        self.doppler.set(&self.name, "dev", key, value);
    }

    /// The spec of a binding that names the world's block and the shared servers.
    pub fn spec(&self) -> Value {
        json!({
            "prefect": {"server": {"remoteApiUrl": self.prefect.api_url()}, "block": {"name": self.name}},
            "doppler": {"host": self.doppler.url()},
        })
    }

    /// The spec of a binding that needs no Prefect: the token is in Secret `token`, key `token`, which is made here.
    pub async fn direct_spec(&self) -> Result<Value> {
        self.put_token("token", &self.token).await?;
        let token = json!({"valueFrom": {"secretKeyRef": {"name": "token", "key": "token"}}});
        Ok(json!({"doppler": {
            "host": self.doppler.url(), "project": self.name, "config": "dev", "accessToken": token,
        }}))
    }

    /// Writes `value` into key `token` of a Secret.
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

    /// Server-side applies YAML as the administrator, in the world's namespace.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        kubernetes::apply(&self.client, &self.name, yaml)
            .await
            .map(drop)
    }
}

/// The end.
impl World {
    /// Searches everything that the operator wrote for the canary, and ends it.
    pub async fn finish(mut self) -> Result<()> {
        if let Some(operator) = &self.operator {
            canary::ensure_absent("/metrics", &operator.metrics().await?)?;
        }
        for (place, text) in self.public_texts().await? {
            canary::ensure_absent(&place, &text)?;
        }
        if self.operator.is_some() {
            self.stop_operator().await?;
        }
        self.search_log()?;
        // Nobody needs it any more, and nobody waits for it.
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces
            .delete(&self.grant.namespace, &kube::api::DeleteParams::default())
            .await;
        self.finished = true;
        Ok(())
    }

    /// The whole log so far, at trace level.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn search_log(&self) -> Result<()> {
        let log = self.log();
        canary::ensure_absent("the operator's log", &log)?;
        ensure!(
            !log.contains("panicked at"),
            "the operator panicked\n{}",
            self.log_tail()
        );
        Ok(())
    }

    /// The last lines of the log that the operator's own code wrote.
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
            "the operator of {} said last:\n{}",
            self.name,
            self.log_tail()
        );
        if let Err(error) = self.search_log() {
            eprintln!("{error:#}");
        }
    }
}

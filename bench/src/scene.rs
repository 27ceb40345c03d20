//! What one measurement happens in: a namespace of its own, an account with the chart's rights and a count of its requests, a Doppler and a
//! Prefect of its own, and the resources, which are there before the subject starts.
//!
//! In: a control plane, a subject and a plan. Out: the scene. Its servers end with it; the namespace stays, since taking ten thousand objects away
//! would be seen in the next measurement.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Client};

use super::observe::ledger::Ledger;
use super::subject::Subject;
use testkit::binary::workspace;
use testkit::control_plane::ControlPlane;
use testkit::doppler::{Doppler, Fault, RateLimit};
use testkit::grant::{Grant, ensure_namespace, grant_from_chart};
use testkit::helm::helm_async;
use testkit::prefect::{
    Block, PrefectApi, PrefectOptions, PrefectServer, StandIn, kubernetes_template,
};

/// The Doppler project of all configs.
pub const PROJECT: &str = "bench";
/// The work pool.
const POOL: &str = "bench";
/// Requests in flight while resources are made.
const MAKING: usize = 16;
const MAKING_LIMIT: Duration = Duration::from_mins(10);

/// What a scene holds.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many resources.
    pub bindings: usize,
    /// How many configs they are spread over, each with a block and a service token of its own.
    pub configs: usize,
    /// One block and one token of a service account for all configs, which the resources then name themselves.
    pub one_token: bool,
    /// Whether the resources name a work pool.
    pub pool: bool,
    /// Whether Prefect is the real server.
    pub real_prefect: bool,
    /// Secrets of a config.
    pub keys: usize,
    /// The stand-ins' wait before each answer.
    pub delay: Duration,
}

/// Where blocks and pools are.
pub enum Prefect {
    /// The stand-in, which counts.
    StandIn(StandIn),
    /// The real server and a client of it.
    Real(Box<(PrefectServer, PrefectApi)>),
}

impl Prefect {
    /// The API's address.
    #[must_use]
    pub fn api_url(&self) -> String {
        match self {
            Self::StandIn(stand_in) => stand_in.api_url(),
            Self::Real(real) => real.0.api_url(),
        }
    }

    /// The stand-in.
    ///
    /// # Errors
    /// When it is the real server, which counts nothing.
    pub fn stand_in(&self) -> Result<&StandIn> {
        match self {
            Self::StandIn(stand_in) => Ok(stand_in),
            Self::Real(_) => anyhow::bail!("the real server counts nothing"),
        }
    }
}

/// A scene.
pub struct Scene<'a> {
    /// The control plane.
    pub plane: &'a ControlPlane,
    /// The namespace.
    pub namespace: String,
    /// The administrator's client.
    pub client: Client,
    /// The account that the subject acts as.
    pub grant: Grant,
    /// What that account asks of the API server.
    pub ledger: Ledger,
    /// Its Doppler.
    pub doppler: Doppler,
    /// Its Prefect.
    pub prefect: Prefect,
    /// What it holds.
    pub plan: Plan,
    /// The UIDs of the resources.
    pub uids: Vec<String>,
}

impl<'a> Scene<'a> {
    /// Sets the scene, up to the resources.
    ///
    /// # Errors
    /// When a server does not start or refuses something.
    pub async fn set(
        plane: &'a ControlPlane,
        subject: &dyn Subject,
        name: &str,
        plan: Plan,
    ) -> Result<Self> {
        let client = plane.admin_client()?;
        ensure_namespace(&client, name).await?;
        let home = format!("{name}-operator");
        let grant = grant_from_chart(plane, &rights(&home, name).await?, &home).await?;
        let ledger = Ledger::open(plane, &grant, name, &subject.kind()).await?;
        let doppler = doppler(&plan)?;
        let prefect = prefect(&plan, &doppler, name).await?;
        let mut scene = Self {
            plane,
            namespace: name.to_owned(),
            client,
            grant,
            ledger,
            doppler,
            prefect,
            plan,
            uids: Vec::new(),
        };
        scene.uids = scene.make(subject).await?;
        // Only what the subject asks is to be counted.
        scene.doppler.reset_requests();
        if let Prefect::StandIn(stand_in) = &scene.prefect {
            stand_in.reset_counts();
        }
        Ok(scene)
    }

    /// The block that resource `index` names.
    #[must_use]
    pub fn block(&self, index: usize) -> String {
        block(if self.plan.one_token {
            0
        } else {
            self.config_number(index)
        })
    }

    /// The config of resource `index`.
    #[must_use]
    pub fn config(&self, index: usize) -> String {
        config(self.config_number(index))
    }

    /// The config that resource `index` has to name itself, since its block is shared.
    #[must_use]
    pub fn config_override(&self, index: usize) -> Option<String> {
        self.plan.one_token.then(|| self.config(index))
    }

    /// The work pool that resources name.
    #[must_use]
    pub fn pool(&self) -> Option<&'static str> {
        self.plan.pool.then_some(POOL)
    }

    /// Requests for blocks so far.
    #[must_use]
    pub fn block_reads(&self) -> Option<u64> {
        let stand_in = self.prefect.stand_in().ok()?;
        Some(stand_in.counts().blocks)
    }

    fn config_number(&self, index: usize) -> usize {
        index % self.plan.configs.max(1)
    }

    async fn make(&self, subject: &dyn Subject) -> Result<Vec<String>> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &subject.kind());
        let made = stream::iter(0..self.plan.bindings).map(|index| {
            let api = api.clone();
            let resource = subject.resource(self, index);
            async move {
                let object = serde_json::from_value(resource)?;
                let made = api.create(&PostParams::default(), &object).await?;
                made.metadata.uid.context("a resource without a UID")
            }
        });
        let made = made.buffered(MAKING).try_collect::<Vec<_>>();
        tokio::time::timeout(MAKING_LIMIT, made)
            .await
            .context("the API server takes too long to make the resources")?
    }
}

/// What the chart grants an operator of that namespace.
async fn rights(home: &str, watched: &str) -> Result<String> {
    let chart = workspace().join("charts/doppler-prefect-operator");
    let chart = chart.to_str().context("the chart's path is not UTF-8")?;
    let watch = format!("watchNamespaces={{{watched}}}");
    let arguments = [
        "template",
        "bench",
        chart,
        "--namespace",
        home,
        "--set",
        &watch,
        "--set",
        "crds.enabled=false,image.repository=doppler-prefect-operator",
    ];
    helm_async(&arguments, None).await?.success()
}

fn doppler(plan: &Plan) -> Result<Doppler> {
    let doppler = Doppler::start()?;
    doppler.set_rate_limit(RateLimit {
        secret_reads: u32::MAX,
        reads: u32::MAX,
        window: Duration::from_mins(1),
    });
    for number in 0..plan.configs {
        doppler.replace(PROJECT, &config(number), secrets(plan.keys, "first"));
    }
    if !plan.delay.is_zero() {
        doppler.fault(|_| true, Fault::Delay(plan.delay));
    }
    Ok(doppler)
}

async fn prefect(plan: &Plan, doppler: &Doppler, namespace: &str) -> Result<Prefect> {
    let blocks = if plan.one_token { 1 } else { plan.configs };
    let token = |number| {
        if plan.one_token {
            doppler.account_token()
        } else {
            doppler.service_token(PROJECT, &config(number))
        }
    };
    if !plan.real_prefect {
        let stand_in = StandIn::start()?;
        for number in 0..blocks {
            stand_in.put_block(&block(number), PROJECT, &config(number), &token(number));
        }
        if plan.pool {
            let mut template = kubernetes_template()?;
            let jobs = template.pointer_mut("/variables/properties/namespace/default");
            *jobs.context("the template has no namespace")? = namespace.into();
            stand_in.put_pool(POOL, template);
        }
        stand_in.set_delay(plan.delay);
        return Ok(Prefect::StandIn(stand_in));
    }
    ensure!(!plan.pool, "no figure has a pool on the real server");
    let server = PrefectServer::start(PrefectOptions::default()).await?;
    let api = server.api()?;
    for number in 0..blocks {
        let fields = Block::object(PROJECT, &config(number), &token(number));
        api.put_block(&block(number), &fields).await?;
    }
    Ok(Prefect::Real(Box::new((server, api))))
}

/// The secrets of a config; `generation` tells one content from the next.
#[must_use]
pub fn secrets(keys: usize, generation: &str) -> BTreeMap<String, String> {
    let pair = |number| {
        (
            format!("KEY_{number:02}"),
            format!("value-{number:02}-{generation:->24}"),
        )
    };
    (0..keys).map(pair).collect()
}

/// The name of config `number`.
#[must_use]
pub fn config(number: usize) -> String {
    format!("c{number:05}")
}

/// The name of block `number`.
#[must_use]
pub fn block(number: usize) -> String {
    format!("doppler-config-{number:05}")
}

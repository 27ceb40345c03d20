//! The upstreams of one run: a Doppler stand-in, and Prefect's stand-in or a real Prefect server.
//!
//! Input: a workload. Output: running servers with all configs, blocks and the work pool.
//! Invariants: each run has its own servers, and they stop with their values.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::doppler::{Doppler, Fault, RateLimit};
use testkit::prefect::{
    Block, PrefectApi, PrefectOptions, PrefectServer, StandIn, kubernetes_template,
};

use crate::workload::{PROJECT, Workload, block, config, secrets};

/// Where blocks and work pools are.
pub enum Prefect {
    /// The stand-in, which counts requests.
    StandIn(StandIn),
    /// The real server, and a client of it.
    Real(Box<(PrefectServer, PrefectApi)>),
}

impl Prefect {
    /// The URL of the API.
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
    /// When Prefect is the real server, which counts no requests.
    pub fn stand_in(&self) -> Result<&StandIn> {
        match self {
            Self::StandIn(stand_in) => Ok(stand_in),
            Self::Real(_) => anyhow::bail!("the real Prefect server counts no requests"),
        }
    }
}

/// Starts Doppler's stand-in with the configs of the workload.
///
/// # Errors
/// When the stand-in does not start.
pub fn start_doppler(workload: &Workload) -> Result<Doppler> {
    let doppler = Doppler::start()?;
    doppler.set_rate_limit(RateLimit {
        secret_reads: u32::MAX,
        reads: u32::MAX,
        window: Duration::from_mins(1),
    });
    for number in 0..workload.configs {
        doppler.replace(PROJECT, &config(number), secrets(workload.keys, "first"));
    }
    if !workload.delay.is_zero() {
        doppler.fault(|_| true, Fault::Delay(workload.delay));
    }
    Ok(doppler)
}

/// Starts Prefect with the blocks of the workload, and the work pool if it has one.
///
/// # Errors
/// When the server does not start or rejects an object.
pub async fn start_prefect(
    workload: &Workload,
    doppler: &Doppler,
    namespace: &str,
) -> Result<Prefect> {
    let token = |number| {
        if workload.one_token {
            doppler.account_token()
        } else {
            doppler.service_token(PROJECT, &config(number))
        }
    };
    if workload.real_prefect {
        let server = PrefectServer::start(PrefectOptions::default()).await?;
        let api = server.api()?;
        for number in 0..workload.blocks() {
            let fields = Block::object(PROJECT, &config(number), &token(number));
            api.put_block(&block(number), &fields).await?;
        }
        if let Some(pool) = workload.pool() {
            api.create_kubernetes_pool(pool).await?;
            api.set_template(pool, &template(namespace)?).await?;
        }
        return Ok(Prefect::Real(Box::new((server, api))));
    }
    let stand_in = StandIn::start()?;
    for number in 0..workload.blocks() {
        stand_in.put_block(&block(number), PROJECT, &config(number), &token(number));
    }
    if let Some(pool) = workload.pool() {
        stand_in.put_pool(pool, template(namespace)?);
    }
    stand_in.set_delay(workload.delay);
    Ok(Prefect::StandIn(stand_in))
}

/// The template of a work pool whose jobs run in this namespace.
fn template(namespace: &str) -> Result<Value> {
    let mut template = kubernetes_template()?;
    let jobs = template.pointer_mut("/variables/properties/namespace/default");
    *jobs.context("the template has no namespace")? = namespace.into();
    Ok(template)
}

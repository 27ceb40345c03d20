//! TLS failures of a server, with certificates of an authority that the binding trusts.
//!
//! Input: none. Output: the cases.
//! Invariants: the relay speaks TLS in front of the shared real server.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use super::{Place, shared};
use crate::case::{Case, Group, Seen};
use crate::relay::Mode;
use crate::stage::{after, before, ensure_kept, recovered, reported};

const NAMED: &str = "The Secret keeps its last good values, the condition says what is wrong with the certificate, and a changed block is followed after the end.";

/// The cases.
pub fn cases() -> Vec<Case> {
    [
        (
            "certificate of another name",
            "tls-name",
            Wrong::Name,
            "name",
        ),
        ("expired certificate", "tls-date", Wrong::Date, "expired"),
        (
            "certificate of an unknown issuer",
            "tls-issuer",
            Wrong::Issuer,
            "issuer",
        ),
        (
            "plain HTTP where TLS is expected",
            "tls-plain",
            Wrong::Plain,
            "TLS",
        ),
    ]
    .into_iter()
    .map(|(fault, binding, wrong, word)| {
        Case::new(Group::Prefect, fault, NAMED, move || {
            names_the_problem(binding, wrong, word)
        })
    })
    .collect()
}

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    Name,
    Date,
    Issuer,
    Plain,
}

/// An authority, and the certificates that it issues.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self { pem, issuer })
    }

    fn server(&self, wrong: Wrong) -> Result<Arc<ServerConfig>> {
        let name = if wrong == Wrong::Name {
            "other.example.com"
        } else {
            "127.0.0.1"
        };
        let mut leaf = CertificateParams::new([name.to_owned()])?;
        if wrong == Wrong::Date {
            leaf.not_before = date_time_ymd(2020, 1, 1);
            leaf.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &self.issuer)?.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(Arc::new(config))
    }
}

async fn names_the_problem(binding: &str, wrong: Wrong, expected: &str) -> Result<Seen> {
    let authority = Authority::new()?;
    let place = Place::start(binding.to_owned(), shared().await?).await?;
    let world = place.world;
    let good = Mode::Tls(authority.server(Wrong::Nothing)?);
    place.relay.set(good.clone());
    world.api.put_block(binding, &place.block("dev")).await?;
    let bundle = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": binding}, "data": {"ca.crt": authority.pem},
    });
    world.apply(&bundle.to_string()).await?;
    let mut spec = place.spec(&json!([]));
    spec["prefect"]["server"] = json!({
        "remoteApiUrl": format!("https://127.0.0.1:{}/api", place.relay.port()),
        "caBundle": {"valueFrom": {"configMapKeyRef": {"name": binding, "key": "ca.crt"}}},
    });
    world.apply_binding(binding, &spec).await?;
    world.until_ready(binding).await?;
    world.until_values(binding, &before()).await?;

    let (start, connections) = (Instant::now(), place.relay.connections());
    place.relay.set(match wrong {
        Wrong::Plain => Mode::Forward,
        Wrong::Issuer => Mode::Tls(Authority::new()?.server(Wrong::Nothing)?),
        other => Mode::Tls(authority.server(other)?),
    });
    world.api.put_block(binding, &place.block("stg")).await?;
    let reason = reported(world, binding, &["PrefectUnreachable"]).await?;
    let condition = world.condition(binding, "Ready").await?;
    ensure!(
        condition.message.contains(expected),
        "{}",
        condition.message
    );
    ensure_kept(world, binding).await?;
    let lasted = start.elapsed();
    let requests = place.relay.connections() - connections;
    let mended = Instant::now();
    place.relay.set(good);
    let recovery = recovered(world, binding, &after(), mended).await?;
    Ok(Seen {
        what: format!("{reason}: {}", condition.message),
        requests: Some(requests),
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}

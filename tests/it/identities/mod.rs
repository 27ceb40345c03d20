//! Doppler identities in place of tokens, with tokens of real service accounts that the stand-in
//! verifies by the keys of the API server.
//!
//! Input: a world, and a stand-in of its own whose requests a test counts.
//! Output: a binding that reads with an identity.
//! Invariants: at its end each test searches all output of the operator for the tokens of service
//! accounts and of Doppler.

mod canary;
mod check;
mod failures;
mod life;
mod tenants;

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::doppler::{Doppler, IdentityRules};

use crate::world::{World, canary as search, chart::ACCOUNT, secret};

/// The id of the identity.
const ID: &str = "6c6e6f1a-0000-4000-8000-000000000001";
/// The life of a token that a test renews.
const SHORT: Duration = Duration::from_secs(5);
/// The life of a token that no test renews.
const LONG: Duration = Duration::from_hours(1);

/// A world, and a stand-in with one identity.
struct Fixture {
    w: World,
    doppler: Doppler,
    issuer: String,
    jwks: String,
}

impl Fixture {
    /// The identity accepts [`ACCOUNT`] of the world, which exists.
    async fn new(w: World, life: Duration) -> Result<Self> {
        let (issuer, jwks) = w.plane.issuer().await?;
        let doppler = Doppler::start()?;
        doppler.set(&w.name, "dev", "A", &secret("1"));
        let fixture = Self {
            w,
            doppler,
            issuer,
            jwks,
        };
        fixture.create_account(ACCOUNT).await?;
        let rules = fixture.rules(life);
        fixture.doppler.put_identity(ID, rules);
        Ok(fixture)
    }

    /// The rules that [`ACCOUNT`] of the world fulfils.
    fn rules(&self, life: Duration) -> IdentityRules {
        IdentityRules {
            issuer: self.issuer.clone(),
            jwks: self.jwks.clone(),
            audiences: vec!["https://api.doppler.com".to_owned()],
            subject: format!("system:serviceaccount:{}:{ACCOUNT}", self.w.name),
            config: None,
            life,
        }
    }

    async fn create_account(&self, name: &str) -> Result<()> {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.w.apply(&account.to_string()).await
    }

    /// A spec without Prefect.
    fn spec(&self) -> Value {
        json!({"doppler": {
            "host": self.doppler.url(), "project": self.w.name, "config": "dev",
            "identity": {"id": ID, "serviceAccountRef": {"name": ACCOUNT}},
        }})
    }

    /// How many tokens were requested.
    fn exchanges(&self) -> usize {
        self.doppler
            .requests()
            .iter()
            .filter(|request| request.is_exchange())
            .count()
    }

    /// Ends the world, after a search for tokens in everything that the operator wrote.
    async fn finish(self) -> Result<()> {
        let tokens = self.doppler.seen_identity_tokens();
        if let Some(operator) = &self.w.operator {
            search::ensure_no_token("/metrics", &operator.metrics().await?, &tokens)?;
        }
        for (place, text) in self.w.public_texts().await? {
            search::ensure_no_token(&place, &text, &tokens)?;
        }
        search::ensure_no_token("the operator's log", &self.w.log(), &tokens)?;
        self.w.finish().await
    }
}

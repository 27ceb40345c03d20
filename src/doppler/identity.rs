//! The tokens of Doppler identities, which the operator requests as a service account.
//!
//! Input: an [`IdentityKey`], a function that requests a token of its service account, and Doppler's
//! answers.
//! Output: [`Identity`], which gives a valid token for each request to Doppler.
//! Invariants: tokens are in memory only. One request for a token of an identity is in flight at a
//! time. Nothing is sent unless a request needs a token. With the last credential that uses an
//! identity its token is dropped and revoked.

mod claims;
pub(super) mod error;
mod exchange;
mod key;
mod revoker;
mod token_state;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::mpsc, time::Instant};
use tracing::{debug, warn};

use super::error::DopplerError;
use crate::{metrics::Metrics, outbound::ClientError, upstream::limiter::RateLimiter};
use claims::Claims;
pub use error::IdentityError;
use exchange::ExchangeClient;
pub use key::IdentityKey;
pub use revoker::Revoker;
use revoker::{MAX_QUEUED, Revocation};
use token_state::{Issued, Next, TokenState};

/// Requests a token (a JWT) of the service account of an identity, with its audiences.
pub type RequestJwt = Box<
    dyn Fn(IdentityKey) -> BoxFuture<'static, Result<SecretString, IdentityError>> + Send + Sync,
>;

/// What all identities share.
struct Shared {
    exchange: ExchangeClient,
    request_jwt: RequestJwt,
    metrics: Arc<Metrics>,
    /// The identities that credentials use.
    known: Mutex<HashMap<IdentityKey, Weak<Identity>>>,
    revocations: mpsc::Sender<Revocation>,
}

/// All identities that credentials use.
#[derive(Clone)]
pub struct Identities(Arc<Shared>);

/// One identity, and its current token.
pub struct Identity {
    key: IdentityKey,
    shared: Arc<Shared>,
    state: Mutex<TokenState>,
    /// Held by the one caller that requests a token.
    requesting: tokio::sync::Mutex<()>,
}

impl Identities {
    /// No identities yet. Requests to Doppler take at most `timeout` each, and wait for permits of
    /// `limiter`. The task of the revoker has to run for tokens to be revoked.
    ///
    /// # Errors
    /// If the system has no certificate authorities.
    pub fn new(
        timeout: Duration,
        limiter: RateLimiter<DopplerError>,
        request_jwt: RequestJwt,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Revoker), ClientError> {
        let (revocations, queue) = mpsc::channel(MAX_QUEUED);
        let identities = Self(Arc::new(Shared {
            exchange: ExchangeClient::new(timeout, limiter)?,
            request_jwt,
            metrics,
            known: Mutex::default(),
            revocations,
        }));
        let revoker = Revoker::new(identities.clone(), queue);
        Ok((identities, revoker))
    }

    /// The identity of this key, which all its credentials share.
    #[must_use]
    pub fn intern(&self, key: IdentityKey) -> Arc<Identity> {
        let mut known = self.0.known.lock();
        if let Some(identity) = known.get(&key).and_then(Weak::upgrade) {
            return identity;
        }
        let identity = Arc::new(Identity {
            key: key.clone(),
            shared: Arc::clone(&self.0),
            state: Mutex::default(),
            requesting: tokio::sync::Mutex::default(),
        });
        known.insert(key, Arc::downgrade(&identity));
        identity
    }

    /// How many identities credentials use.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.known.lock().len()
    }

    /// Takes all tokens, for their revocation.
    fn take_tokens(&self) -> Vec<Revocation> {
        let known: Vec<_> = self
            .0
            .known
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        let revocations = known.iter().filter_map(|identity| identity.take_token());
        revocations.collect()
    }

    /// Revokes a token. A token that cannot be revoked expires by itself.
    async fn revoke(&self, revocation: &Revocation) -> Result<(), DopplerError> {
        let Revocation { key, token } = revocation;
        self.0.exchange.revoke(key, token).await?;
        self.0.metrics.count_identity_token("revoked");
        Ok(())
    }
}

impl Identity {
    /// Which identity this is.
    #[must_use]
    pub fn key(&self) -> &IdentityKey {
        &self.key
    }

    /// A token that is valid now. Concurrent callers share one request.
    ///
    /// # Errors
    /// If the API server gives no token of the service account, or Doppler none for it.
    pub(super) async fn token(&self) -> Result<SecretString, DopplerError> {
        match self.next() {
            Next::Use(token) => return Ok(token),
            Next::Wait(error) => return Err(error),
            // Others go on with the token that is being renewed.
            Next::Renew(token) => match self.requesting.try_lock() {
                Ok(_requesting) => {
                    if let Err(error) = self.request().await {
                        let id = &self.key.id;
                        warn!(id, "the token of the identity is not renewed yet: {error}");
                        return Ok(token);
                    }
                }
                Err(_) => return Ok(token),
            },
            Next::Request => {
                let _requesting = self.requesting.lock().await;
                // Another caller may have requested it meanwhile.
                if matches!(self.next(), Next::Request) {
                    self.request().await?;
                }
            }
        }
        match self.next() {
            Next::Use(token) | Next::Renew(token) => Ok(token),
            Next::Wait(error) => Err(error),
            Next::Request => Err(self.expired_at_once()),
        }
    }

    /// Drops a token that Doppler rejects, unless it was renewed meanwhile.
    pub(super) fn discard(&self, rejected: &SecretString) {
        self.state.lock().discard(rejected);
    }

    /// The error of a download with a token of this identity, in terms of the identity.
    pub(super) fn explain(&self, error: DopplerError) -> DopplerError {
        let id = self.key.id.clone();
        match error {
            DopplerError::Unauthorized { quote } => {
                IdentityError::TokenRejected { id, quote }.into()
            }
            DopplerError::Forbidden {
                project,
                config,
                quote,
            } => IdentityError::NoAccess {
                id,
                project,
                config,
                quote,
            }
            .into(),
            DopplerError::ConfigMissing {
                project,
                config,
                quote,
            } => IdentityError::ConfigMissing {
                id,
                project,
                config,
                quote,
            }
            .into(),
            error => error,
        }
    }

    fn next(&self) -> Next {
        self.state.lock().next(Instant::now())
    }

    /// Requests a token, and records what came of it.
    async fn request(&self) -> Result<(), DopplerError> {
        let issued = self.issue().await;
        let result = issued.as_ref().map(|_| ()).map_err(Clone::clone);
        let outcome = match &result {
            Ok(()) => "issued",
            Err(error) => error.reason().as_str(),
        };
        self.shared.metrics.count_identity_token(outcome);
        self.state.lock().record(issued, Instant::now());
        let key = &self.key;
        debug!(
            id = key.id,
            namespace = key.namespace,
            service_account = key.service_account,
            outcome,
            "requested a token of Doppler",
        );
        result
    }

    async fn issue(&self) -> Result<Issued, DopplerError> {
        let jwt = (self.shared.request_jwt)(self.key.clone()).await?;
        let claims = Claims::of(jwt.expose_secret()).unwrap_or_else(|| Claims {
            issuer: "unknown".to_owned(),
            audiences: self.key.audiences.clone(),
            subject: self.key.subject(),
        });
        if claims.audiences.contains(&claims.issuer) {
            let audience = claims.issuer;
            return Err(IdentityError::ApiServerAudience { audience }.into());
        }
        self.shared
            .exchange
            .exchange(&self.key, &jwt, &claims)
            .await
    }

    /// A token that lives no longer than its request takes.
    fn expired_at_once(&self) -> DopplerError {
        DopplerError::InvalidBody {
            host: super::request::host_and_port(&self.key.host),
            problem: "has a token that expired while it was requested".to_owned(),
        }
    }

    fn take_token(&self) -> Option<Revocation> {
        let token = self.state.lock().take(Instant::now())?;
        Some(Revocation {
            key: self.key.clone(),
            token,
        })
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let mut known = self.shared.known.lock();
        // It may have been interned again meanwhile.
        if known
            .get(&self.key)
            .is_some_and(|it| it.strong_count() == 0)
        {
            known.remove(&self.key);
        }
        drop(known);
        if let Some(revocation) = self.take_token()
            && self.shared.revocations.try_send(revocation).is_err()
        {
            debug!(
                id = self.key.id,
                "a token is not revoked, and expires by itself"
            );
        }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

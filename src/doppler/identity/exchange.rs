//! Doppler's requests for the tokens of identities: exchange and revocation.
//!
//! Input: an [`IdentityKey`], and the token of its service account or of Doppler.
//! Output: a token of Doppler with its life, or a [`DopplerError`].
//! Invariants: each request holds a permit of the rate limiter, counted by identity. Time and body
//! size are bounded, redirects are not followed, and no body is quoted or kept.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::{RequestBuilder, Response, StatusCode, header::ACCEPT};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{claims::Claims, error::IdentityError, key::IdentityKey, token_state::Issued};
use crate::{
    doppler::{
        error::DopplerError,
        error_messages::{self, ErrorMessages},
        request::{api_url, bearer, host_and_port},
        send::{Sent, send},
    },
    outbound::{self, BodyError, ClientError, read_bounded},
    upstream::{
        limiter::{LimitKey, Permit, Priority, RateLimiter, ReadRequest, RequestOutcome, SourceId},
        rate_headers::server_time,
    },
};

/// Doppler's answer has less than 1 KiB.
const MAX_BODY_BYTES: usize = 16 << 10;
/// The longest life of a token that the operator believes.
const MAX_LIFE: Duration = Duration::from_hours(24);

/// A date in a header is cut to whole seconds.
const CLOCK_PRECISION: SignedDuration = SignedDuration::from_secs(1);

/// Requests tokens of Doppler.
pub(super) struct ExchangeClient {
    http: reqwest::Client,
    timeout: Duration,
    limiter: RateLimiter<DopplerError>,
}

/// The answer of an exchange.
#[derive(Deserialize)]
struct Granted {
    token: SecretString,
    expires_at: Timestamp,
}

impl ExchangeClient {
    /// A client whose requests take at most `timeout` each, not counting the wait for a permit of
    /// `limiter`, which is that of the downloads.
    ///
    /// # Errors
    /// If the system has no certificate authorities.
    pub(super) fn new(
        timeout: Duration,
        limiter: RateLimiter<DopplerError>,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            http: outbound::client(timeout, None)?,
            timeout,
            limiter,
        })
    }

    /// Exchanges a service account's token for one of Doppler.
    ///
    /// # Errors
    /// If Doppler refuses, does not answer, or answers with something else.
    pub(super) async fn exchange(
        &self,
        key: &IdentityKey,
        jwt: &SecretString,
        claims: &Claims,
    ) -> Result<Issued, DopplerError> {
        let body = json!({"identity": key.id, "token": jwt.expose_secret()});
        let request = self
            .http
            .post(api_url(&key.host, "v3/auth/oidc"))
            .json(&body);
        let mut permit = self.permit(key, Priority::Interactive).await?;
        // Not before the permit, which may take longer than a token lives.
        let sent_at = Instant::now();
        let host = host_and_port(&key.host);
        let Sent { response, rate } = self.send(request, &host, &mut permit).await?;
        let status = response.status().as_u16();
        if status != 200 {
            let messages = self.messages(response, jwt).await;
            return Err(error_for_status(status, key, claims, messages));
        }
        let now = server_time(response.headers(), Timestamp::now());
        let body = read_bounded(response, MAX_BODY_BYTES, self.timeout).await;
        let body = body.map_err(|error| match error {
            BodyError::TooLarge { limit } => DopplerError::TooLarge {
                host: host.clone(),
                limit,
            },
            BodyError::Transport(cause) => DopplerError::Unreachable {
                host: host.clone(),
                cause,
            },
        })?;
        let granted = granted(body.expose_secret(), now);
        let (token, life) =
            granted.map_err(|problem| DopplerError::InvalidBody { host, problem })?;
        permit.record(RequestOutcome::Answered(rate));
        Ok(Issued {
            token,
            sent_at,
            life,
        })
    }

    /// Revokes a token of Doppler. A token that is not valid any more counts as revoked.
    ///
    /// # Errors
    /// If Doppler does not answer, or not with a success.
    pub(super) async fn revoke(
        &self,
        key: &IdentityKey,
        token: &SecretString,
    ) -> Result<(), DopplerError> {
        let body = json!({"token": token.expose_secret()});
        let request = self
            .http
            .post(api_url(&key.host, "v3/auth/revoke"))
            .json(&body);
        let mut permit = self.permit(key, Priority::Background).await?;
        let host = host_and_port(&key.host);
        let Sent { response, rate } = self.send(request, &host, &mut permit).await?;
        match response.status().as_u16() {
            200..=204 | 400 | 401 | 404 => {
                permit.record(RequestOutcome::Answered(rate));
                Ok(())
            }
            status @ (408 | 500..=599) => Err(DopplerError::ServerError { host, status }),
            status => Err(DopplerError::UnexpectedStatus { host, status }),
        }
    }

    async fn permit(
        &self,
        key: &IdentityKey,
        priority: Priority,
    ) -> Result<Permit<DopplerError>, DopplerError> {
        let read = ReadRequest::with_priority(priority);
        let permit = self.limiter.acquire(&limit_key(key), &read).await;
        permit.map_err(|open| DopplerError::CircuitOpen(Box::new(open)))
    }

    async fn send(
        &self,
        request: RequestBuilder,
        host: &str,
        permit: &mut Permit<DopplerError>,
    ) -> Result<Sent, DopplerError> {
        let request = request.header(ACCEPT, "application/json");
        let sent = send(request, host, self.timeout, permit).await?;
        let status = sent.response.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            return Err(DopplerError::Redirected {
                host: host.to_owned(),
                status: status.as_u16(),
            });
        }
        Ok(sent)
    }

    /// Doppler's messages. The status is enough without them.
    async fn messages(&self, response: Response, jwt: &SecretString) -> ErrorMessages {
        let max_bytes = error_messages::MAX_BODY_BYTES;
        let body = read_bounded(response, max_bytes, self.timeout).await;
        body.map(|body| ErrorMessages::parse(body.expose_secret(), jwt))
            .unwrap_or_default()
    }
}

/// The requests of an identity are counted by identity, apart from its downloads.
fn limit_key(key: &IdentityKey) -> LimitKey {
    let digest: [u8; 32] = key
        .digest(Sha256::new().chain_update("exchange"))
        .finalize()
        .into();
    let mut source = SourceId::default();
    source.copy_from_slice(&digest[..16]);
    LimitKey {
        upstream: key.host.origin().ascii_serialization().into(),
        account: Some(digest),
        credentials: None,
        source,
    }
}

/// The token in an answer that arrived at `now` by Doppler's clock, and how long it lives.
///
/// # Errors
/// What is wrong with the answer, which continues a sentence.
fn granted(body: &[u8], now: Timestamp) -> Result<(SecretString, Duration), String> {
    let Ok(Granted { token, expires_at }) = serde_json::from_slice(body) else {
        return Err("has no token with the time at which it expires".to_owned());
    };
    if bearer(&token).is_none() {
        return Err("has a token with a character that no token has".to_owned());
    }
    let life = expires_at.duration_since(now) - CLOCK_PRECISION;
    let life = life.max(SignedDuration::ZERO);
    match Duration::try_from(life) {
        Ok(life) if !life.is_zero() => Ok((token, life.min(MAX_LIFE))),
        _ => Err("has a token that has already expired".to_owned()),
    }
}

/// The error of a status other than 200, 3xx and 429.
fn error_for_status(
    status: u16,
    key: &IdentityKey,
    claims: &Claims,
    messages: ErrorMessages,
) -> DopplerError {
    let host = host_and_port(&key.host);
    let names_plan = messages.names_plan();
    let quote = messages.into_quote();
    match status {
        402 => IdentityError::NotInPlan { status, quote }.into(),
        400 | 401 | 403 | 404 if names_plan => IdentityError::NotInPlan { status, quote }.into(),
        400 | 401 | 403 | 404 | 422 => IdentityError::Refused {
            id: key.id.clone(),
            claims: claims.clone(),
            quote,
        }
        .into(),
        408 | 500..=599 => DopplerError::ServerError { host, status },
        _ => DopplerError::UnexpectedStatus { host, status },
    }
}

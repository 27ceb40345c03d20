//! Sends one request to Doppler's API, and reports to the rate limiter what its head says.
//!
//! Input: a request, and its permit.
//! Output: the response, unless it is a 429 or there is none.
//! Invariants: the permit has an outcome whenever the request was sent. A caller that finds what it
//! requested records that afterwards.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{RequestBuilder, Response, StatusCode};

use super::error::DopplerError;
use crate::{
    outbound::TransportError,
    upstream::{
        limiter::{Permit, Rate, RequestOutcome},
        rate_headers::{parse_rate, retry_after_limit},
    },
};

/// The wait after a 429 that does not say how long to wait.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

/// A response whose body has not been read.
pub(super) struct Sent {
    pub(super) response: Response,
    /// What the response states about the rate limit.
    pub(super) rate: Option<Rate>,
}

/// Sends a request to `host`, whose client has the time limit `timeout`.
///
/// # Errors
/// If there is no response, or a 429.
pub(super) async fn send(
    request: RequestBuilder,
    host: &str,
    timeout: Duration,
    permit: &mut Permit<DopplerError>,
) -> Result<Sent, DopplerError> {
    let response = request.send().await.map_err(|error| {
        let cause = TransportError::new(&error, timeout);
        let concerns_host = cause.concerns_host();
        let host = host.to_owned();
        let error = DopplerError::Unreachable { cause, host };
        permit.record(if concerns_host {
            RequestOutcome::Failed(error.clone())
        } else {
            RequestOutcome::Refused(None)
        });
        error
    })?;
    let (status, headers, now) = (response.status(), response.headers(), Timestamp::now());
    if status == StatusCode::TOO_MANY_REQUESTS {
        let retry_after = retry_after_limit(headers, now);
        let wait = retry_after.unwrap_or(DEFAULT_RETRY_AFTER);
        permit.record(RequestOutcome::RateLimited(wait));
        return Err(DopplerError::RateLimited { retry_after });
    }
    let rate = parse_rate(headers, now);
    permit.record(match status.as_u16() {
        // A proxy reaches no server.
        status @ (502..=504) => RequestOutcome::Failed(DopplerError::ServerError {
            host: host.to_owned(),
            status,
        }),
        // Also if the body does not arrive: Doppler has answered.
        _ => RequestOutcome::Refused(rate),
    });
    Ok(Sent { response, rate })
}

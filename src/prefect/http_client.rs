//! Sends requests to one Prefect server.
//!
//! Input: a [`Connection`], and what to request.
//! Output: the parsed body of a success, or a [`PrefectError`].
//! Invariants: each request has a time limit, bounds on the body and on the values in it, and a
//! permit of the rate limiter.
//! No redirect is followed. A busy database (503) is retried a few times. Requests with a body are
//! in `json_request.rs`.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::{RequestBuilder, StatusCode, header::HeaderMap};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::Mutex, time::sleep};
use url::Url;

use super::{
    connection::Connection,
    csrf::{CsrfAction, CsrfState, TokenResponse},
    error::{PrefectError, Subject, error_for_status, is_json},
    request_headers::request_headers,
};
use crate::{
    bounded_json,
    outbound::{self, Body, BodyError, TransportError, read_bounded},
    upstream::{
        backoff::{Backoff, jittered},
        limiter::{LimitKey, Permit, RateLimiter, ReadRequest, RequestOutcome},
        rate_headers::retry_after,
    },
};

/// How often a request is sent while the server's database is busy (503).
pub(super) const MAX_ATTEMPTS: u32 = 3;
/// Delays between these attempts.
const BUSY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(200));
/// Random part of these delays.
const BUSY_JITTER: f64 = 0.5;
/// The bound on a body without data, in bytes.
const SMALL_LIMIT: usize = 64 << 10;
/// The bound on the JSON values in the answer with a CSRF token.
const MAX_TOKEN_VALUES: usize = 100;
/// Wait after a 429 without a usable `Retry-After`.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);
/// The longest `Retry-After` that is respected.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// What a request is about.
pub(super) struct Endpoint<'a> {
    /// The object, for errors.
    pub(super) subject: Subject<'a>,
    /// The URL.
    pub(super) url: Url,
    /// What the body of a success contains, for errors.
    pub(super) content: &'static str,
    /// The bound on the body, in bytes.
    pub(super) max_bytes: usize,
    /// The bound on the JSON values in it. None: nothing of it is kept as text to be decoded later.
    pub(super) max_values: Option<usize>,
}

/// The answer to a request.
pub(super) struct ApiResponse {
    pub(super) status: StatusCode,
    body: Body,
    retry_after: Option<Duration>,
    /// When the request was sent: what it returns is no older.
    pub(super) sent_at: Instant,
}

impl ApiResponse {
    /// The body, of a rejection up to a bound.
    pub(super) fn body(&self) -> &[u8] {
        self.body.expose_secret()
    }
}

/// Sends requests to one server. It keeps TCP connections and the CSRF token.
pub(super) struct HttpClient {
    pub(super) http: reqwest::Client,
    api_url: Url,
    host: String,
    pub(super) headers: HeaderMap,
    timeout: Duration,
    limiter: RateLimiter<PrefectError>,
    connection: Connection,
    pub(super) csrf: Mutex<CsrfState>,
    pub(super) csrf_client_id: String,
}

impl HttpClient {
    /// A client whose requests take at most `timeout` each, once `limiter` permits them.
    ///
    /// # Errors
    /// If the certificate authorities cannot be used.
    pub(super) fn new(
        connection: &Connection,
        timeout: Duration,
        limiter: RateLimiter<PrefectError>,
    ) -> Result<Self, PrefectError> {
        let ca = connection.ca.as_ref().map(String::as_bytes);
        Ok(Self {
            http: outbound::client(timeout, ca)?,
            host: connection.host(),
            headers: request_headers(connection),
            api_url: connection.api_url.clone(),
            timeout,
            limiter,
            connection: connection.clone(),
            csrf: Mutex::default(),
            csrf_client_id: format!("doppler-prefect-operator-{:016x}", rand::random::<u64>()),
        })
    }

    /// The host, as errors name it.
    pub(super) fn host(&self) -> String {
        self.host.clone()
    }

    /// The URL of a path below the API.
    pub(super) fn url(&self, segments: &[&str]) -> Result<Url, PrefectError> {
        let mut url = self.api_url.clone();
        url.path_segments_mut()
            .map_err(|()| self.transport(TransportError::Request))?
            .pop_if_empty()
            .extend(segments);
        Ok(url)
    }

    /// Sends a GET.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint<'_>,
        read_request: &ReadRequest,
    ) -> Result<T, PrefectError> {
        let response = self.fetch(endpoint, read_request).await?;
        self.parse(endpoint, &response)
    }

    /// Sends a GET, and leaves its answer to the caller.
    pub(super) async fn fetch(
        &self,
        endpoint: &Endpoint<'_>,
        read_request: &ReadRequest,
    ) -> Result<ApiResponse, PrefectError> {
        let mut attempt = 1;
        loop {
            let mut permit = self.permit(endpoint, read_request).await?;
            let request = self.http.get(endpoint.url.clone());
            let response = self.send(request, endpoint, &mut permit).await?;
            drop(permit);
            if !wait_while_busy(&response, &mut attempt).await {
                return Ok(response);
            }
        }
    }

    /// Waits for the permit to send one request.
    pub(super) async fn permit(
        &self,
        endpoint: &Endpoint<'_>,
        read_request: &ReadRequest,
    ) -> Result<Permit<PrefectError>, PrefectError> {
        let limit_key = LimitKey {
            source: self.connection.source(endpoint.url.path()),
            ..self.connection.limit_key()
        };
        let permit = self.limiter.acquire(&limit_key, read_request).await;
        permit.map_err(|circuit_open| PrefectError::CircuitOpen(Box::new(circuit_open)))
    }

    /// Sends a GET under the permit of a request that is about to be sent.
    pub(super) async fn fetch_under(
        &self,
        permit: &mut Permit<PrefectError>,
        endpoint: &Endpoint<'_>,
    ) -> Result<ApiResponse, PrefectError> {
        permit.extend();
        let request = self.http.get(endpoint.url.clone());
        self.send(request, endpoint, permit).await
    }

    /// The error of a response, unless it is a success.
    pub(super) fn check(
        &self,
        subject: Subject<'_>,
        response: &ApiResponse,
    ) -> Result<(), PrefectError> {
        if response.status.is_success() {
            Ok(())
        } else {
            Err(self.error_for(subject, response))
        }
    }

    /// The content of a success. JSON of another shape and a body that is not JSON give different
    /// errors, because the latter is a page of another server.
    pub(super) fn parse<'r, T: Deserialize<'r>>(
        &self,
        endpoint: &Endpoint<'_>,
        response: &'r ApiResponse,
    ) -> Result<T, PrefectError> {
        self.check(endpoint.subject, response)?;
        let body = response.body.expose_secret();
        // Before it is decoded: parts that are kept as text may be decoded later.
        if let Some(limit) = endpoint.max_values
            && !bounded_json::is_within(body, limit)
            && is_json(body)
        {
            return Err(PrefectError::TooManyValues {
                host: self.host(),
                content: endpoint.content,
                limit,
            });
        }
        serde_json::from_slice(body).map_err(|_| {
            if is_json(body) {
                PrefectError::UnexpectedBody {
                    host: self.host(),
                    missing: endpoint.content,
                }
            } else {
                PrefectError::NotPrefect {
                    host: self.host(),
                    status: response.status.as_u16(),
                }
            }
        })
    }

    /// Sends one request, reads its answer, and records what came of it.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        endpoint: &Endpoint<'_>,
        permit: &mut Permit<PrefectError>,
    ) -> Result<ApiResponse, PrefectError> {
        let sent_at = Instant::now();
        let sent = request.headers(self.headers.clone()).send().await;
        let response = sent.map_err(|error| {
            let cause = TransportError::new(&error, self.timeout);
            let concerns_host = cause.concerns_host();
            let error = self.transport(cause);
            permit.record(if concerns_host {
                RequestOutcome::Failed(error.clone())
            } else {
                RequestOutcome::Refused(None)
            });
            error
        })?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), Timestamp::now());
        let retry_after = retry_after.map(|wait| wait.min(MAX_RETRY_AFTER));
        // A body that does not arrive concerns the source alone: the server has answered.
        permit.record(self.outcome(status, retry_after));
        // The status alone identifies a rejection: a body that is too large or broken must not hide it.
        // The refusal of a template echoes it behind the sentence that explains it.
        let error_limit = match endpoint.subject {
            Subject::PoolEdit(_) => endpoint.max_bytes,
            _ => SMALL_LIMIT,
        };
        let body = if status.is_success() {
            let body = read_bounded(response, endpoint.max_bytes, self.timeout).await;
            let body = body.map_err(|error| match error {
                BodyError::TooLarge { limit } => PrefectError::TooLarge {
                    host: self.host(),
                    limit,
                },
                BodyError::Transport(error) => self.transport(error),
            })?;
            // A server may answer these to anyone: this does not show that the credentials are
            // accepted.
            if !matches!(endpoint.subject, Subject::CsrfToken | Subject::Version) {
                permit.record(RequestOutcome::Answered(None));
            }
            body
        } else {
            let body = read_bounded(response, error_limit, self.timeout).await;
            body.unwrap_or_else(|_| Body::empty())
        };
        Ok(ApiResponse {
            status,
            body,
            retry_after,
            sent_at,
        })
    }

    /// What the head of an answer means for the rate limiter.
    fn outcome(
        &self,
        status: StatusCode,
        retry_after: Option<Duration>,
    ) -> RequestOutcome<PrefectError> {
        match status.as_u16() {
            429 => RequestOutcome::RateLimited(retry_after.unwrap_or(DEFAULT_RETRY_AFTER)),
            // A proxy reaches no server. Not 503: the server's database is only busy for a moment. Not
            // 500: the server answers, and this request is what it cannot serve.
            status @ (502 | 504) => RequestOutcome::Failed(PrefectError::ServerFault {
                host: self.host(),
                status,
            }),
            401 => RequestOutcome::Unauthorized,
            _ => RequestOutcome::Refused(None),
        }
    }

    /// The CSRF token, if the server requires one. One request at a time fetches it, because a new
    /// token invalidates the last one.
    pub(super) async fn csrf_token(
        &self,
        read_request: &ReadRequest,
    ) -> Result<Option<SecretString>, PrefectError> {
        let mut csrf = self.csrf.lock().await;
        match csrf.action(Instant::now()) {
            CsrfAction::Omit => return Ok(None),
            CsrfAction::Send(token) => return Ok(Some(token)),
            CsrfAction::Fetch => {}
        }
        let mut endpoint = Endpoint {
            subject: Subject::CsrfToken,
            url: self.url(&["csrf-token"])?,
            content: "a CSRF token",
            max_bytes: SMALL_LIMIT,
            max_values: Some(MAX_TOKEN_VALUES),
        };
        endpoint
            .url
            .query_pairs_mut()
            .append_pair("client", &self.csrf_client_id);
        let response = self.fetch(&endpoint, read_request).await?;
        let now = Instant::now();
        *csrf = match response.status.as_u16() {
            401 | 429 => return Err(self.error_for(endpoint.subject, &response)),
            // 422: CSRF protection is off. 404: a server that is older than it. The request itself
            // reports any other rejection.
            400..=499 => CsrfState::disabled(now),
            _ => {
                let response: TokenResponse = self.parse(&endpoint, &response)?;
                CsrfState::issued(response, now, Timestamp::now())
            }
        };
        Ok(csrf.action(now).token())
    }

    /// Drops the CSRF state, unless another request has replaced it since.
    pub(super) async fn invalidate_csrf_token(&self, rejected: Option<&SecretString>) {
        let mut csrf = self.csrf.lock().await;
        let current = csrf.action(Instant::now()).token();
        if current.as_ref().map(ExposeSecret::expose_secret)
            == rejected.map(ExposeSecret::expose_secret)
        {
            *csrf = CsrfState::Unknown;
        }
    }

    fn error_for(&self, subject: Subject<'_>, response: &ApiResponse) -> PrefectError {
        let body = response.body.expose_secret();
        error_for_status(
            &self.host,
            subject,
            response.status,
            body,
            response.retry_after,
        )
    }

    fn transport(&self, error: TransportError) -> PrefectError {
        PrefectError::Transport {
            host: self.host(),
            error,
        }
    }
}

/// Whether the server's database was busy, so that the request is sent again. Waits before that.
pub(super) async fn wait_while_busy(response: &ApiResponse, attempt: &mut u32) -> bool {
    if response.status != StatusCode::SERVICE_UNAVAILABLE || *attempt >= MAX_ATTEMPTS {
        return false;
    }
    sleep(jittered(BUSY.delay(*attempt), BUSY_JITTER)).await;
    *attempt += 1;
    true
}

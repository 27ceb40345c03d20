//! The client of one Prefect server.
//!
//! In: a [`Connection`]. Out: a block's data, a work pool with its template's text untouched, the namespaces that deployments send their jobs to.
//! Each request has a time limit and a bound on what is read, follows no redirect, and ends in an answer or in a [`PrefectError`]. It caches no
//! answer, and puts nothing into a pool's template by itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Mutex;
use url::Url;

use super::{
    block::{BlockError, BlockFields, fields},
    connection::{Auth, Connection},
    csrf::{CsrfAction, CsrfState, TokenResponse, is_csrf_refusal},
    error::{PrefectError, Subject, detail, error_for_status, is_json},
};
use crate::{
    outbound::{self, BodyError, TransportError, read_bounded},
    upstream::limiter::{LimitKey, Priority, RateLimiter, ReadRequest, RequestOutcome},
};

/// The API version whose shapes are read here.
const API_VERSION: &str = "0.8.4";
/// How often a request is sent that a busy database (503) keeps from being answered.
const MAX_ATTEMPTS: u32 = 3;
/// The first wait between two attempts; each further one is twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Bounds on answers, in bytes.
const BLOCK_LIMIT: usize = 1 << 20;
const POOL_LIMIT: usize = 4 << 20;
const DEPLOYMENTS_LIMIT: usize = 16 << 20;
const SMALL_LIMIT: usize = 64 << 10;
/// Deployments asked for at once: the most that Prefect gives.
const PAGE_SIZE: usize = 200;
/// Pages of deployments that are read.
const MAX_PAGES: usize = 25;
/// Deployments named for each namespace.
const MAX_NAMES: usize = 20;
/// Wait after a 429 that does not say for how long.
const DEFAULT_PAUSE: Duration = Duration::from_secs(5);
/// Namespaces that are counted separately: more than the status lists.
const MAX_NAMESPACES: usize = 64;
/// The longest that a server may ask to be left alone.
const MAX_PAUSE: Duration = Duration::from_hours(1);

const CSRF_CLIENT: HeaderName = HeaderName::from_static("prefect-csrf-client");
const CSRF_TOKEN: HeaderName = HeaderName::from_static("prefect-csrf-token");

/// A block document's data, which holds secrets: it has no `Debug`.
#[derive(Clone, PartialEq)]
pub struct BlockDocument {
    data: Value,
    ids: Vec<String>,
}

impl BlockDocument {
    /// Whether the data comes from the document of this id: the block itself, or one that it refers to.
    #[must_use]
    pub fn includes_document(&self, id: &str) -> bool {
        self.ids.iter().any(|own| own == id)
    }

    /// Project, config and token in the data.
    ///
    /// # Errors
    /// If the data has them in no shape that is known.
    pub fn fields(&self, pointer: Option<&str>) -> Result<BlockFields, BlockError> {
        fields(&self.data, pointer)
    }
}

/// Where deployments of a work pool send their jobs instead of to the pool's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentNamespaces {
    /// Each such namespace, with the names of some of these deployments.
    pub namespaces: BTreeMap<String, Vec<String>>,
    /// The pool has more deployments than are read: only so many, the first by name, were looked at.
    pub truncated_at: Option<usize>,
}

/// A work pool. Its template may hold secrets: it has no `Debug`.
#[derive(Clone, Deserialize)]
pub struct WorkPool {
    /// Its type, such as `kubernetes`.
    #[serde(rename = "type")]
    pub pool_type: String,
    /// Its template, as the server wrote it.
    pub base_job_template: Box<RawValue>,
}

/// The client of one server.
pub struct Client {
    http: reqwest::Client,
    api_url: Url,
    host: String,
    headers: HeaderMap,
    timeout: Duration,
    limiter: RateLimiter<PrefectError>,
    limit_key: LimitKey,
    csrf: Mutex<CsrfState>,
    csrf_client_id: String,
}

/// What came back.
struct ApiResponse {
    status: StatusCode,
    body: SecretSlice<u8>,
    retry_after: Option<Duration>,
}

impl Client {
    /// A client whose every request takes at most `timeout`, once `gate` lets it through. To be kept: it holds the connections and the CSRF token.
    ///
    /// # Errors
    /// If the certificate authorities cannot be used.
    pub fn new(
        connection: &Connection,
        timeout: Duration,
        limiter: RateLimiter<PrefectError>,
    ) -> Result<Self, PrefectError> {
        let ca = connection.ca.as_ref().map(String::as_bytes);
        let http = outbound::client(timeout, ca)?;
        Ok(Self {
            http,
            host: connection.host(),
            headers: request_headers(connection),
            api_url: connection.api_url.clone(),
            timeout,
            limiter,
            limit_key: connection.limit_key(),
            csrf: Mutex::default(),
            csrf_client_id: format!("doppler-prefect-operator-{:016x}", rand::random::<u64>()),
        })
    }

    /// The data of a block document, with its secrets.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn block(
        &self,
        slug: &str,
        name: &str,
        read_request: &ReadRequest,
    ) -> Result<BlockDocument, PrefectError> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            id: Value,
            data: Value,
            #[serde(default)]
            block_document_references: Value,
        }
        let subject = Subject::Block { slug, name };
        if !is_segment(slug) || !is_segment(name) {
            return Err(PrefectError::BlockMissing {
                host: self.host.clone(),
                slug: slug.to_owned(),
                name: name.to_owned(),
            });
        }
        let mut url = self.url(&["block_types", "slug", slug, "block_documents", "name", name])?;
        url.set_query(Some("include_secrets=true"));
        let response = self
            .request(|| self.http.get(url.clone()), BLOCK_LIMIT, read_request)
            .await?;
        let document: Document = self.parse(subject, &response, "a block's data")?;
        Ok(BlockDocument {
            data: document.data,
            ids: document_ids(&document.id, &document.block_document_references),
        })
    }

    /// A work pool.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn work_pool(
        &self,
        name: &str,
        priority: Priority,
    ) -> Result<WorkPool, PrefectError> {
        let url = self.pool_url(name)?;
        let response = self
            .request(
                || self.http.get(url.clone()),
                POOL_LIMIT,
                &ReadRequest::with_priority(priority),
            )
            .await?;
        self.parse(Subject::Pool(name), &response, "a work pool's template")
    }

    /// Replaces a work pool's template whole, by exactly this text.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn patch_work_pool(
        &self,
        name: &str,
        template: &RawValue,
    ) -> Result<(), PrefectError> {
        #[derive(Serialize)]
        struct Edit<'a> {
            base_job_template: &'a RawValue,
        }
        let url = self.pool_url(name)?;
        let edit = Edit {
            base_job_template: template,
        };
        let response = self
            .request_with_csrf(
                Method::PATCH,
                &url,
                &edit,
                POOL_LIMIT,
                Priority::Interactive,
            )
            .await?;
        self.check(Subject::PoolEdit(name), &response)
    }

    /// Where deployments of a work pool send their jobs instead of to the pool's own namespace. Of very many deployments only the first are read,
    /// and the answer says so.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn deployment_namespaces(
        &self,
        pool: &str,
        priority: Priority,
    ) -> Result<DeploymentNamespaces, PrefectError> {
        #[derive(Deserialize)]
        struct Deployment {
            #[serde(default)]
            name: String,
            #[serde(default)]
            job_variables: Option<JobVariables>,
        }
        #[derive(Deserialize)]
        struct JobVariables {
            #[serde(default)]
            namespace: Value,
        }
        let url = self.url(&["deployments", "filter"])?;
        let mut found = DeploymentNamespaces::default();
        for page in 0..MAX_PAGES {
            let filter = json!({
                "limit": PAGE_SIZE,
                "offset": page * PAGE_SIZE,
                "sort": "NAME_ASC",
                "work_pools": {"name": {"any_": [pool]}},
            });
            let response = self
                .request_with_csrf(Method::POST, &url, &filter, DEPLOYMENTS_LIMIT, priority)
                .await?;
            let deployments: Vec<Deployment> = self.parse(
                Subject::Deployments(pool),
                &response,
                "a list of deployments",
            )?;
            let last = deployments.len() < PAGE_SIZE;
            for deployment in deployments {
                let Some(Value::String(namespace)) =
                    deployment.job_variables.map(|own| own.namespace)
                else {
                    continue;
                };
                let namespaces = &mut found.namespaces;
                if namespace.is_empty()
                    || (namespaces.len() >= MAX_NAMESPACES && !namespaces.contains_key(&namespace))
                {
                    continue;
                }
                let names = namespaces.entry(namespace).or_default();
                if names.len() < MAX_NAMES {
                    names.push(deployment.name);
                }
            }
            if last {
                return Ok(found);
            }
        }
        found.truncated_at = Some(MAX_PAGES * PAGE_SIZE);
        Ok(found)
    }

    fn url(&self, segments: &[&str]) -> Result<Url, PrefectError> {
        let mut url = self.api_url.clone();
        url.path_segments_mut()
            .map_err(|()| self.transport(TransportError::Request))?
            .pop_if_empty()
            .extend(segments);
        Ok(url)
    }

    fn pool_url(&self, name: &str) -> Result<Url, PrefectError> {
        if is_segment(name) {
            self.url(&["work_pools", name])
        } else {
            Err(PrefectError::PoolMissing {
                host: self.host.clone(),
                pool: name.to_owned(),
            })
        }
    }

    fn transport(&self, error: TransportError) -> PrefectError {
        PrefectError::Transport {
            host: self.host.clone(),
            error,
        }
    }

    /// One request and its answer.
    async fn send(
        &self,
        request: RequestBuilder,
        limit: usize,
    ) -> Result<ApiResponse, PrefectError> {
        let response = request
            .headers(self.headers.clone())
            .send()
            .await
            .map_err(|error| self.transport(TransportError::new(&error, self.timeout)))?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), Timestamp::now());
        // The status alone identifies a rejection: a body that is too large or broken must not hide it.
        let body = if status.is_success() {
            let body = read_bounded(response, limit, self.timeout).await;
            body.map_err(|error| match error {
                BodyError::TooLarge { limit } => PrefectError::TooLarge {
                    host: self.host.clone(),
                    limit,
                },
                BodyError::Transport(error) => self.transport(error),
            })?
        } else {
            let body = read_bounded(response, SMALL_LIMIT, self.timeout).await;
            body.unwrap_or_default()
        };
        Ok(ApiResponse {
            status,
            body,
            retry_after,
        })
    }

    /// A request that may be sent more than once, and is while the server's database is busy (503). Each waits for its turn.
    async fn request(
        &self,
        request: impl Fn() -> RequestBuilder,
        limit: usize,
        read_request: &ReadRequest,
    ) -> Result<ApiResponse, PrefectError> {
        let mut delay = FIRST_DELAY;
        let mut attempt = 1;
        loop {
            let permit = self.limiter.acquire(&self.limit_key, read_request).await;
            let mut permit =
                permit.map_err(|circuit_open| PrefectError::CircuitOpen(Box::new(circuit_open)))?;
            let response = self.send(request(), limit).await;
            permit.record(match &response {
                Err(error) if error.is_host_failure() => RequestOutcome::Failed(error.clone()),
                Ok(response) => match response.status.as_u16() {
                    429 => {
                        RequestOutcome::RateLimited(response.retry_after.unwrap_or(DEFAULT_PAUSE))
                    }
                    // 503 is a database that is busy for a moment.
                    status @ (500..=502 | 504..) => {
                        RequestOutcome::Failed(PrefectError::ServerFault {
                            host: self.host.clone(),
                            status,
                        })
                    }
                    _ => RequestOutcome::Answered(None),
                },
                Err(_) => RequestOutcome::Answered(None),
            });
            drop(permit);
            let response = response?;
            if response.status != StatusCode::SERVICE_UNAVAILABLE || attempt == MAX_ATTEMPTS {
                return Ok(response);
            }
            attempt += 1;
            tokio::time::sleep(delay.mul_f64(rand::random_range(0.5..1.5))).await;
            delay *= 2;
        }
    }

    /// A request that is not a GET: with the CSRF token that the server may want, renewed once if it is refused.
    async fn request_with_csrf(
        &self,
        method: Method,
        url: &Url,
        body: &impl Serialize,
        limit: usize,
        priority: Priority,
    ) -> Result<ApiResponse, PrefectError> {
        let read_request = ReadRequest::with_priority(priority);
        for _ in 0..2 {
            let token = self.csrf_token(&read_request).await?;
            let response = self
                .request(
                    || {
                        let request = self.http.request(method.clone(), url.clone()).json(body);
                        match &token {
                            Some(token) => request
                                .header(CSRF_CLIENT, &self.csrf_client_id)
                                .header(CSRF_TOKEN, sensitive(token.expose_secret())),
                            None => request,
                        }
                    },
                    limit,
                    &read_request,
                )
                .await?;
            let rejected = response.status == StatusCode::FORBIDDEN
                && detail(response.body.expose_secret())
                    .is_some_and(|detail| is_csrf_refusal(&detail));
            if !rejected {
                return Ok(response);
            }
            self.invalidate_csrf_token(token.as_ref()).await;
        }
        Err(PrefectError::CsrfRejected {
            host: self.host.clone(),
        })
    }

    /// The token to send along, if the server wants one. Asked for by one request at a time: a new token ends the one before.
    async fn csrf_token(
        &self,
        read_request: &ReadRequest,
    ) -> Result<Option<SecretString>, PrefectError> {
        let mut csrf = self.csrf.lock().await;
        match csrf.action(Instant::now()) {
            CsrfAction::Omit => return Ok(None),
            CsrfAction::Send(token) => return Ok(Some(token)),
            CsrfAction::Fetch => {}
        }
        let mut url = self.url(&["csrf-token"])?;
        url.query_pairs_mut()
            .append_pair("client", &self.csrf_client_id);
        let response = self
            .request(|| self.http.get(url.clone()), SMALL_LIMIT, read_request)
            .await?;
        let now = Instant::now();
        *csrf = match response.status.as_u16() {
            401 | 429 => return Err(self.error_for(Subject::CsrfToken, &response)),
            // 422: CSRF protection is off. 404: a server that is older than it. The request itself reports any other rejection.
            400..=499 => CsrfState::disabled(now),
            _ => {
                let response: TokenResponse =
                    self.parse(Subject::CsrfToken, &response, "a CSRF token")?;
                CsrfState::issued(response, now, Timestamp::now())
            }
        };
        Ok(match csrf.action(now) {
            CsrfAction::Send(token) => Some(token),
            CsrfAction::Fetch | CsrfAction::Omit => None,
        })
    }

    /// Drops the CSRF state, unless another request has replaced it since.
    async fn invalidate_csrf_token(&self, rejected: Option<&SecretString>) {
        let mut csrf = self.csrf.lock().await;
        let current = match csrf.action(Instant::now()) {
            CsrfAction::Send(token) => Some(token),
            CsrfAction::Fetch | CsrfAction::Omit => None,
        };
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

    fn check(&self, subject: Subject<'_>, response: &ApiResponse) -> Result<(), PrefectError> {
        if response.status.is_success() {
            Ok(())
        } else {
            Err(self.error_for(subject, response))
        }
    }

    /// What a success holds. JSON of another shape and a body that is no JSON give different errors: the latter is a page of another server.
    fn parse<T: DeserializeOwned>(
        &self,
        subject: Subject<'_>,
        response: &ApiResponse,
        missing: &'static str,
    ) -> Result<T, PrefectError> {
        self.check(subject, response)?;
        let body = response.body.expose_secret();
        serde_json::from_slice(body).map_err(|_| {
            let host = self.host.clone();
            if is_json(body) {
                PrefectError::UnexpectedBody { host, missing }
            } else {
                let status = response.status.as_u16();
                PrefectError::NotPrefect { host, status }
            }
        })
    }
}

/// The ids of a document and of those that it refers to, however deep.
fn document_ids(own: &Value, references: &Value) -> Vec<String> {
    let (mut ids, mut open) = (Vec::new(), Vec::new());
    ids.extend(own.as_str().map(str::to_owned));
    open.extend(references.as_object());
    while let Some(references) = open.pop() {
        for document in references.values().map(|found| &found["block_document"]) {
            ids.extend(document["id"].as_str().map(str::to_owned));
            open.extend(document["block_document_references"].as_object());
        }
    }
    ids
}

/// Whether a name can be one segment of a path. Prefect decodes `%2F` before it looks for the path, so that such a name finds nothing.
fn is_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('/')
}

/// What each request carries.
pub(super) fn request_headers(connection: &Connection) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &connection.headers {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            headers.append(name, sensitive(value.expose_secret()));
        }
    }
    let authorization = match &connection.auth {
        Auth::None => None,
        Auth::Bearer(key) => Some(format!("Bearer {}", key.expose_secret())),
        Auth::Basic(pair) => Some(format!(
            "Basic {}",
            BASE64_STANDARD.encode(pair.expose_secret())
        )),
    };
    if let Some(authorization) = authorization {
        headers.insert(header::AUTHORIZATION, sensitive(&authorization));
    }
    headers.insert(
        HeaderName::from_static("x-prefect-api-version"),
        HeaderValue::from_static(API_VERSION),
    );
    headers
}

/// A header value that no log prints. Text that cannot be one has been refused with the stanza, and is sent as nothing.
fn sensitive(text: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// `Retry-After`, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = if let Ok(seconds) = text.parse::<f64>() {
        Duration::try_from_secs_f64(seconds).ok()?
    } else {
        let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Duration::try_from(until.duration_since(now)).unwrap_or_default()
    };
    Some(pause.min(MAX_PAUSE))
}

#[cfg(test)]
mod tests;

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
    csrf::{Csrf, Step, TokenAnswer, is_csrf_refusal},
    error::{PrefectError, Subject, detail, is_json, refusal},
};
use crate::{
    outbound::{self, BodyError, TransportError, read_bounded},
    upstream::limiter::{Gate, Lane, Rank, Said, Wish},
};

/// The API version whose shapes are read here.
const API_VERSION: &str = "0.8.4";
/// How often a request is sent that a busy database (503) keeps from being answered.
const ATTEMPTS: u32 = 3;
/// The first wait between two attempts; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Bounds on answers, in bytes.
const BLOCK_LIMIT: usize = 1 << 20;
const POOL_LIMIT: usize = 4 << 20;
const DEPLOYMENTS_LIMIT: usize = 16 << 20;
const SMALL_LIMIT: usize = 64 << 10;
/// Deployments asked for at once: the most that Prefect gives.
const PAGE: usize = 200;
/// Pages of deployments that are read.
const PAGES: usize = 25;
/// Deployments named for each namespace.
const NAMED: usize = 20;
/// Wait after a 429 that does not say for how long.
const REST: Duration = Duration::from_secs(5);
/// Namespaces that are told apart: more than the status lists.
const NAMESPACES: usize = 64;
/// The longest that a server may ask to be left alone.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

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
    pub fn is_of(&self, id: &str) -> bool {
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
pub struct Elsewhere {
    /// Each such namespace, with the names of some of these deployments.
    pub namespaces: BTreeMap<String, Vec<String>>,
    /// The pool has more deployments than are read: only so many, the first by name, were looked at.
    pub only_first: Option<usize>,
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
    gate: Gate<PrefectError>,
    lane: Lane,
    csrf: Mutex<Csrf>,
    csrf_name: String,
}

/// What came back.
struct Answer {
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
        gate: Gate<PrefectError>,
    ) -> Result<Self, PrefectError> {
        let ca = connection.ca.as_ref().map(String::as_bytes);
        let http = outbound::client(timeout, ca)?;
        Ok(Self {
            http,
            host: connection.host(),
            headers: headers(connection),
            api_url: connection.api_url.clone(),
            timeout,
            gate,
            lane: connection.lane(),
            csrf: Mutex::default(),
            csrf_name: format!("doppler-prefect-operator-{:016x}", rand::random::<u64>()),
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
        wish: &Wish,
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
        let answer = self
            .ask(|| self.http.get(url.clone()), BLOCK_LIMIT, wish)
            .await?;
        let document: Document = self.read(subject, &answer, "a block's data")?;
        Ok(BlockDocument {
            data: document.data,
            ids: ids(&document.id, &document.block_document_references),
        })
    }

    /// A work pool.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn work_pool(&self, name: &str, rank: Rank) -> Result<WorkPool, PrefectError> {
        let url = self.pool_url(name)?;
        let answer = self
            .ask(|| self.http.get(url.clone()), POOL_LIMIT, &Wish::of(rank))
            .await?;
        self.read(Subject::Pool(name), &answer, "a work pool's template")
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
        let answer = self
            .ask_guarded(Method::PATCH, &url, &edit, POOL_LIMIT, Rank::Urgent)
            .await?;
        self.check(Subject::PoolEdit(name), &answer)
    }

    /// Where deployments of a work pool send their jobs instead of to the pool's own namespace. Of very many deployments only the first are read,
    /// and the answer says so.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn deployment_namespaces(
        &self,
        pool: &str,
        rank: Rank,
    ) -> Result<Elsewhere, PrefectError> {
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
        let mut elsewhere = Elsewhere::default();
        for page in 0..PAGES {
            let filter = json!({
                "limit": PAGE,
                "offset": page * PAGE,
                "sort": "NAME_ASC",
                "work_pools": {"name": {"any_": [pool]}},
            });
            let answer = self
                .ask_guarded(Method::POST, &url, &filter, DEPLOYMENTS_LIMIT, rank)
                .await?;
            let deployments: Vec<Deployment> =
                self.read(Subject::Deployments(pool), &answer, "a list of deployments")?;
            let last = deployments.len() < PAGE;
            for deployment in deployments {
                let Some(Value::String(namespace)) =
                    deployment.job_variables.map(|own| own.namespace)
                else {
                    continue;
                };
                let known = &mut elsewhere.namespaces;
                if namespace.is_empty()
                    || (known.len() >= NAMESPACES && !known.contains_key(&namespace))
                {
                    continue;
                }
                let names = known.entry(namespace).or_default();
                if names.len() < NAMED {
                    names.push(deployment.name);
                }
            }
            if last {
                return Ok(elsewhere);
            }
        }
        elsewhere.only_first = Some(PAGES * PAGE);
        Ok(elsewhere)
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
    async fn send(&self, request: RequestBuilder, limit: usize) -> Result<Answer, PrefectError> {
        let response = request
            .headers(self.headers.clone())
            .send()
            .await
            .map_err(|error| self.transport(TransportError::new(&error, self.timeout)))?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), Timestamp::now());
        // A refusal is told by its status: what is too large or broken in it must not hide that.
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
        Ok(Answer {
            status,
            body,
            retry_after,
        })
    }

    /// A request that may be sent more than once, and is while the server's database is busy (503). Each waits for its turn.
    async fn ask(
        &self,
        request: impl Fn() -> RequestBuilder,
        limit: usize,
        wish: &Wish,
    ) -> Result<Answer, PrefectError> {
        let mut wait = FIRST_WAIT;
        let mut attempt = 1;
        loop {
            let turn = self.gate.turn(&self.lane, wish).await;
            let mut turn = turn.map_err(|shut| PrefectError::Shut(Box::new(shut)))?;
            let answer = self.send(request(), limit).await;
            turn.said(match &answer {
                Err(error) if error.is_of_the_host() => Said::Failed(error.clone()),
                Ok(answer) => match answer.status.as_u16() {
                    429 => Said::Limited(answer.retry_after.unwrap_or(REST)),
                    // 503 is a database that is busy for a moment.
                    status @ (500..=502 | 504..) => Said::Failed(PrefectError::Fault {
                        host: self.host.clone(),
                        status,
                    }),
                    _ => Said::Answered(None),
                },
                Err(_) => Said::Answered(None),
            });
            drop(turn);
            let answer = answer?;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE || attempt == ATTEMPTS {
                return Ok(answer);
            }
            attempt += 1;
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.5))).await;
            wait *= 2;
        }
    }

    /// A request that is not a GET: with the CSRF token that the server may want, renewed once if it is refused.
    async fn ask_guarded(
        &self,
        method: Method,
        url: &Url,
        body: &impl Serialize,
        limit: usize,
        rank: Rank,
    ) -> Result<Answer, PrefectError> {
        let wish = Wish::of(rank);
        for _ in 0..2 {
            let token = self.csrf_token(&wish).await?;
            let answer = self
                .ask(
                    || {
                        let request = self.http.request(method.clone(), url.clone()).json(body);
                        match &token {
                            Some(token) => request
                                .header(CSRF_CLIENT, &self.csrf_name)
                                .header(CSRF_TOKEN, sensitive(token.expose_secret())),
                            None => request,
                        }
                    },
                    limit,
                    &wish,
                )
                .await?;
            let refused = answer.status == StatusCode::FORBIDDEN
                && detail(answer.body.expose_secret())
                    .is_some_and(|detail| is_csrf_refusal(&detail));
            if !refused {
                return Ok(answer);
            }
            self.forget_csrf_token(token.as_ref()).await;
        }
        Err(PrefectError::Csrf {
            host: self.host.clone(),
        })
    }

    /// The token to send along, if the server wants one. Asked for by one request at a time: a new token ends the one before.
    async fn csrf_token(&self, wish: &Wish) -> Result<Option<SecretString>, PrefectError> {
        let mut csrf = self.csrf.lock().await;
        match csrf.step(Instant::now()) {
            Step::Without => return Ok(None),
            Step::With(token) => return Ok(Some(token)),
            Step::Ask => {}
        }
        let mut url = self.url(&["csrf-token"])?;
        url.query_pairs_mut().append_pair("client", &self.csrf_name);
        let answer = self
            .ask(|| self.http.get(url.clone()), SMALL_LIMIT, wish)
            .await?;
        let now = Instant::now();
        *csrf = match answer.status.as_u16() {
            401 | 429 => return Err(self.refused(Subject::CsrfToken, &answer)),
            // 422: CSRF protection is off. 404: a server that is older than it. What else is refused there is told by the request itself.
            400..=499 => Csrf::off(now),
            _ => {
                let answer: TokenAnswer = self.read(Subject::CsrfToken, &answer, "a CSRF token")?;
                Csrf::given(answer, now, Timestamp::now())
            }
        };
        Ok(match csrf.step(now) {
            Step::With(token) => Some(token),
            Step::Ask | Step::Without => None,
        })
    }

    /// Forgets what was known of CSRF, unless somebody has learned better since.
    async fn forget_csrf_token(&self, refused: Option<&SecretString>) {
        let mut csrf = self.csrf.lock().await;
        let known = match csrf.step(Instant::now()) {
            Step::With(token) => Some(token),
            Step::Ask | Step::Without => None,
        };
        if known.as_ref().map(ExposeSecret::expose_secret)
            == refused.map(ExposeSecret::expose_secret)
        {
            *csrf = Csrf::Unknown;
        }
    }

    fn refused(&self, subject: Subject<'_>, answer: &Answer) -> PrefectError {
        let body = answer.body.expose_secret();
        refusal(&self.host, subject, answer.status, body, answer.retry_after)
    }

    fn check(&self, subject: Subject<'_>, answer: &Answer) -> Result<(), PrefectError> {
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(self.refused(subject, answer))
        }
    }

    /// What a success holds. JSON of another shape and no JSON at all are told apart: the latter is a page of somebody else's.
    fn read<T: DeserializeOwned>(
        &self,
        subject: Subject<'_>,
        answer: &Answer,
        lacks: &'static str,
    ) -> Result<T, PrefectError> {
        self.check(subject, answer)?;
        let body = answer.body.expose_secret();
        serde_json::from_slice(body).map_err(|_| {
            let host = self.host.clone();
            if is_json(body) {
                PrefectError::Unexpected { host, lacks }
            } else {
                let status = answer.status.as_u16();
                PrefectError::NotPrefect { host, status }
            }
        })
    }
}

/// The ids of a document and of those that it refers to, however deep.
fn ids(own: &Value, references: &Value) -> Vec<String> {
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
pub(super) fn headers(connection: &Connection) -> HeaderMap {
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
    Some(pause.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests;

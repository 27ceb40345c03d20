//! A client of Prefect's API for tests.
//!
//! Input: a server's API address and credentials.
//! Output: JSON responses, after retries while `SQLite` is busy.
//! Invariants: errors contain method, path and status, never a body: a 422 repeats the request.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::Mutex;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// `SQLite` answers 503 while another write holds its lock: 40 attempts take about 20 s.
const MAX_ATTEMPTS: u32 = 40;
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
const CSRF_CLIENT: &str = "testkit";

/// A client of one Prefect server. It belongs to one runtime: create one for each test.
pub struct PrefectApi {
    url: String,
    http: reqwest::Client,
    auth: Option<(String, String)>,
    csrf: Option<Mutex<Option<String>>>,
}

impl PrefectApi {
    /// Creates a client of the API at `url` (it ends in `/api`). `auth` is `user:password`.
    ///
    /// # Errors
    /// If the HTTP client cannot be built, or `auth` has no colon.
    pub fn new(url: &str, auth: Option<&str>, csrf: bool) -> Result<Self> {
        // A second call fails because the provider is already installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let auth = match auth {
            None => None,
            Some(pair) => {
                let (user, password) = pair.split_once(':').context("auth is user:password")?;
                Some((user.to_owned(), password.to_owned()))
            }
        };
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            // The server closes idle connections, and a request that it does not see fails then.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            http,
            auth,
            csrf: csrf.then(Mutex::default),
        })
    }

    /// GET `path`, which starts with a slash.
    ///
    /// # Errors
    /// If the status is not a success.
    pub async fn get(&self, path: &str) -> Result<Value> {
        json(&self.send(Method::GET, path, None).await?)
    }

    /// GET `path`, as text: with the server's key order and number formats.
    ///
    /// # Errors
    /// If the status is not a success.
    pub async fn get_text(&self, path: &str) -> Result<String> {
        self.send(Method::GET, path, None).await
    }

    /// GET `path`, or `None` after a 404.
    ///
    /// # Errors
    /// If the status is neither a success nor 404.
    pub async fn find(&self, path: &str) -> Result<Option<Value>> {
        let (status, body) = self.send_with_retries(Method::GET, path, None).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        json(&success(&Method::GET, path, status, body)?).map(Some)
    }

    /// POST `body` to `path`.
    ///
    /// # Errors
    /// If the status is not a success.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        json(&self.send(Method::POST, path, Some(body)).await?)
    }

    /// PATCH `path` with `body`.
    ///
    /// # Errors
    /// If the status is not a success.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        json(&self.send(Method::PATCH, path, Some(body)).await?)
    }

    /// DELETE `path`.
    ///
    /// # Errors
    /// If the status is not a success.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.send(Method::DELETE, path, None).await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String> {
        let (status, text) = self.send_with_retries(method.clone(), path, body).await?;
        success(&method, path, status, text)
    }

    /// Retries while the server is busy, and once with a new CSRF token after a 403.
    async fn send_with_retries(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, String)> {
        let mut renewed = false;
        for _ in 0..MAX_ATTEMPTS {
            let (status, text) = self.send_once(&method, path, body).await?;
            match status {
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                StatusCode::FORBIDDEN if self.csrf.is_some() && !renewed => {
                    renewed = true;
                    if let Some(token) = &self.csrf {
                        *token.lock().await = None;
                    }
                }
                _ => return Ok((status, text)),
            }
        }
        bail!("{method} {path}: still busy after {MAX_ATTEMPTS} attempts")
    }

    async fn send_once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, String)> {
        let mut request = self.request(method.clone(), path);
        if *method != Method::GET
            && let Some(token) = self.csrf_token().await?
        {
            request = request
                .header("Prefect-Csrf-Client", CSRF_CLIENT)
                .header("Prefect-Csrf-Token", token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let failed = || format!("{method} {path}");
        let answer = request.send().await.with_context(failed)?;
        let status = answer.status();
        Ok((status, answer.text().await.with_context(failed)?))
    }

    async fn csrf_token(&self) -> Result<Option<String>> {
        let Some(known) = &self.csrf else {
            return Ok(None);
        };
        let mut known = known.lock().await;
        if known.is_none() {
            let path = format!("/csrf-token?client={CSRF_CLIENT}");
            let answer = self.request(Method::GET, &path).send().await?;
            let answer = answer.error_for_status().context("fetching a CSRF token")?;
            let answer: Value = answer.json().await?;
            *known = Some(text(&answer, "token")?);
        }
        Ok(known.clone())
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.auth {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }
}

/// The string at `key` of a response.
pub(super) fn text(answer: &Value, key: &str) -> Result<String> {
    let value = answer[key].as_str().map(ToOwned::to_owned);
    value.ok_or_else(|| anyhow!("the response has no text {key:?}"))
}

fn success(method: &Method, path: &str, status: StatusCode, body: String) -> Result<String> {
    if status.is_success() {
        return Ok(body);
    }
    bail!("{method} {path}: {status}")
}

fn json(body: &str) -> Result<Value> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(body).map_err(|_| anyhow!("the response is not JSON"))
}

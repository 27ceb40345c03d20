//! Sends a request with a JSON body.
//!
//! Input: a method, an [`Endpoint`], and a body, which the caller makes once the request has its
//! permit.
//! Output: the answer, or that the request has to be sent once more.
//! Invariants: it carries the CSRF token that the server may require. A refused token is renewed
//! once, and a busy database is retried a few times; each attempt waits for a permit of its own.

use reqwest::{Method, StatusCode, header::HeaderName};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::csrf::is_csrf_refusal;
use super::error::{PrefectError, detail};
use super::http_client::{ApiResponse, Endpoint, HttpClient, wait_while_busy};
use super::request_headers::sensitive;
use crate::upstream::limiter::{Permit, Priority, ReadRequest};

const CSRF_CLIENT: HeaderName = HeaderName::from_static("prefect-csrf-client");
const CSRF_TOKEN: HeaderName = HeaderName::from_static("prefect-csrf-token");

/// A request with a JSON body, and how often it was sent.
pub(super) struct JsonRequest<'a> {
    method: Method,
    endpoint: &'a Endpoint<'a>,
    read_request: ReadRequest,
    token: Option<SecretString>,
    is_token_renewed: bool,
    attempt: u32,
}

impl<'a> JsonRequest<'a> {
    /// A request that was not sent yet.
    pub(super) fn new(method: Method, endpoint: &'a Endpoint<'a>, priority: Priority) -> Self {
        Self {
            method,
            endpoint,
            read_request: ReadRequest::with_priority(priority),
            token: None,
            is_token_renewed: false,
            attempt: 1,
        }
    }

    /// Waits for the permit to send it. The token is there before the permit, so that nothing
    /// delays a request that has its permit.
    pub(super) async fn permit(
        &mut self,
        http: &HttpClient,
    ) -> Result<Permit<PrefectError>, PrefectError> {
        self.token = http.csrf_token(&self.read_request).await?;
        http.permit(self.endpoint, &self.read_request).await
    }

    /// Sends it once. None: it has to be sent again.
    pub(super) async fn send(
        &mut self,
        http: &HttpClient,
        mut permit: Permit<PrefectError>,
        body: &impl Serialize,
    ) -> Result<Option<ApiResponse>, PrefectError> {
        let url = self.endpoint.url.clone();
        let mut request = http.http.request(self.method.clone(), url).json(body);
        if let Some(token) = &self.token {
            request = request
                .header(CSRF_CLIENT, &http.csrf_client_id)
                .header(CSRF_TOKEN, sensitive(token.expose_secret()));
        }
        let response = http.send(request, self.endpoint, &mut permit).await?;
        drop(permit);
        if wait_while_busy(&response, &mut self.attempt).await {
            return Ok(None);
        }
        let is_rejected = response.status == StatusCode::FORBIDDEN
            && detail(response.body()).is_some_and(|detail| is_csrf_refusal(&detail));
        if !is_rejected {
            return Ok(Some(response));
        }
        http.invalidate_csrf_token(self.token.as_ref()).await;
        if self.is_token_renewed {
            return Err(PrefectError::CsrfRejected { host: http.host() });
        }
        self.is_token_renewed = true;
        Ok(None)
    }
}

impl HttpClient {
    /// Sends a request whose body does not depend on when it is sent.
    pub(super) async fn send_json(
        &self,
        method: Method,
        endpoint: &Endpoint<'_>,
        body: &impl Serialize,
        priority: Priority,
    ) -> Result<ApiResponse, PrefectError> {
        let mut request = JsonRequest::new(method, endpoint, priority);
        loop {
            let permit = request.permit(self).await?;
            if let Some(response) = request.send(self, permit, body).await? {
                return Ok(response);
            }
        }
    }
}

//! Receives a webhook: reads it, verifies it, and passes it on.
//!
//! Input: a request.
//! Output: a [`WebhookOutcome`]. On the leader the handler is called, now or after the coalescing
//! interval. On a standby the webhook is forwarded.
//! Invariants: without a signature header the body is not read. A forwarded webhook is not
//! forwarded again.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    routing::post,
};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    coalesce::Coalescer,
    endpoint::{DOPPLER_PATH, Endpoint, REFRESH_ROUTE},
    forward::{FORWARDED_HEADER, Forwarder, LeaderAnswer},
    outcome::WebhookOutcome,
    secret_dir::SecretDir,
};
use crate::{
    crd::BindingRef,
    doppler::webhook::{SIGNATURE_HEADER, Webhook, WebhookScope, parse_signature},
    metrics::{Metrics, WebhookLabels},
};

/// Connections of the webhook address at the same time.
pub const MAX_CONNECTIONS: usize = 32;
/// The largest body that is accepted.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// The part of a larger body that is read and discarded, so that its sender receives the 413.
const MAX_DISCARDED_BYTES: usize = 1024 * 1024;
/// Time limit for the arrival of the body.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The handler of verified webhooks.
pub type OnWebhook = Arc<dyn Fn(&Webhook) + Send + Sync>;
/// The handler of verified requests to refresh a binding. Returns whether the operator reads a config
/// for it that the secret covers.
pub type OnRefresh = Arc<dyn Fn(&WebhookScope, &BindingRef) -> bool + Send + Sync>;

/// What the leader does with verified webhooks.
pub struct Handlers {
    /// Follows a webhook of Doppler.
    pub on_webhook: OnWebhook,
    /// Follows a request to refresh a binding.
    pub on_refresh: OnRefresh,
}

/// Receives webhooks.
pub struct WebhookReceiver {
    secrets: SecretDir,
    /// Set once this replica is the leader.
    handlers: OnceLock<Handlers>,
    forwarder: Option<Forwarder>,
    coalescer: Mutex<Coalescer>,
    deferred: Notify,
    metrics: Arc<Metrics>,
}

impl WebhookReceiver {
    /// Creates a receiver of webhooks that a secret of the directory signed. It forwards them with
    /// `forwarder` until [`Self::start_leading`].
    #[must_use]
    pub fn new(secrets: SecretDir, forwarder: Option<Forwarder>, metrics: Arc<Metrics>) -> Self {
        Self {
            secrets,
            handlers: OnceLock::new(),
            forwarder,
            coalescer: Mutex::default(),
            deferred: Notify::new(),
            metrics,
        }
    }

    /// Makes this replica the leader: from now on the handlers are called here.
    pub fn start_leading(&self, handlers: Handlers) {
        // A leader leads until its process ends, so the handlers are set once.
        let _ = self.handlers.set(handlers);
    }

    /// Calls the handler for deferred webhooks when their interval ends, until `shutdown`.
    pub async fn flush_coalesced(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let next_due = self.coalescer.lock().next_due();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.deferred.notified() => continue,
                () = sleep_until(next_due.unwrap_or_else(Instant::now)), if next_due.is_some() => {}
            }
            let due = self.coalescer.lock().take_due(Instant::now());
            if let Some(handlers) = self.handlers.get() {
                for webhook in &due {
                    (handlers.on_webhook)(webhook);
                }
            }
        }
    }

    pub(super) async fn receive(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        body: Body,
    ) -> WebhookOutcome {
        let Some(signature) = signature(headers) else {
            return WebhookOutcome::Rejected;
        };
        let body = match timeout(READ_TIMEOUT, read_body(body)).await {
            Ok(Ok(body)) => body,
            Ok(Err(outcome)) => return outcome,
            Err(_) => return WebhookOutcome::Incomplete,
        };
        let secrets = self.secrets.current().await;
        let verified = secrets.verify(signature.as_bytes(), &body);
        let Some(webhook) = verified.filter(|_| endpoint.accepts(&body)) else {
            return WebhookOutcome::Rejected;
        };
        if let Some(handlers) = self.handlers.get() {
            return self.dispatch(endpoint, webhook, handlers);
        }
        let was_forwarded = headers.contains_key(FORWARDED_HEADER);
        if let Some(forwarder) = self.forwarder.as_ref().filter(|_| !was_forwarded) {
            match forwarder.forward(&endpoint.path(), signature, &body).await {
                Some(LeaderAnswer::Accepted) => return WebhookOutcome::Forwarded,
                Some(LeaderAnswer::NotServed) => return WebhookOutcome::NotServed,
                None => {}
            }
        }
        // This replica may have become the leader in the meantime.
        match self.handlers.get() {
            Some(handlers) => self.dispatch(endpoint, webhook, handlers),
            None => WebhookOutcome::NotForwarded,
        }
    }

    fn dispatch(
        &self,
        endpoint: &Endpoint,
        webhook: Webhook,
        handlers: &Handlers,
    ) -> WebhookOutcome {
        if let Endpoint::Refresh(binding) = endpoint {
            // The pollers bound the reads.
            return if (handlers.on_refresh)(&webhook.scope, binding) {
                WebhookOutcome::Accepted
            } else {
                WebhookOutcome::NotServed
            };
        }
        let admitted = self.coalescer.lock().offer(webhook, Instant::now());
        if let Some(webhook) = admitted {
            (handlers.on_webhook)(&webhook);
            WebhookOutcome::Accepted
        } else {
            self.deferred.notify_one();
            WebhookOutcome::RateLimited
        }
    }
}

/// The signature header, if there is exactly one and it has the form of a signature.
fn signature(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut all = headers.get_all(SIGNATURE_HEADER).iter();
    let first = all.next()?;
    let valid = all.next().is_none() && parse_signature(first.as_bytes()).is_some();
    valid.then_some(first)
}

/// The whole body, unless it is too large.
async fn read_body(body: Body) -> Result<Bytes, WebhookOutcome> {
    let (mut chunks, mut whole, mut size) = (body.into_data_stream(), Vec::new(), 0_usize);
    while size <= MAX_DISCARDED_BYTES
        && let Some(chunk) = chunks.next().await
    {
        let chunk = chunk.map_err(|_| WebhookOutcome::Incomplete)?;
        size = size.saturating_add(chunk.len());
        if size <= MAX_BODY_BYTES {
            whole.extend_from_slice(&chunk);
        } else {
            whole = Vec::new();
        }
    }
    if size > MAX_BODY_BYTES {
        return Err(WebhookOutcome::TooLarge);
    }
    Ok(whole.into())
}

/// Routes `POST /webhooks/doppler` and `POST /webhooks/refresh/NAMESPACE/NAME`, and nothing else.
pub fn router(receiver: Arc<WebhookReceiver>) -> Router {
    Router::new()
        .route(DOPPLER_PATH, post(handle_webhook))
        .route(REFRESH_ROUTE, post(handle_refresh))
        .with_state(receiver)
}

async fn handle_webhook(
    State(receiver): State<Arc<WebhookReceiver>>,
    request: Request,
) -> StatusCode {
    handle_request(&receiver, Some(&Endpoint::Doppler), request).await
}

async fn handle_refresh(
    State(receiver): State<Arc<WebhookReceiver>>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> StatusCode {
    let endpoint = Endpoint::refresh(&namespace, &name);
    handle_request(&receiver, endpoint.as_ref(), request).await
}

async fn handle_request(
    receiver: &WebhookReceiver,
    endpoint: Option<&Endpoint>,
    request: Request,
) -> StatusCode {
    let (parts, body) = request.into_parts();
    let outcome = match endpoint {
        Some(endpoint) => receiver.receive(endpoint, &parts.headers, body).await,
        None => WebhookOutcome::Rejected,
    };
    debug!(outcome = outcome.label(), "webhook received");
    let labels = WebhookLabels {
        outcome: outcome.label(),
    };
    receiver
        .metrics
        .webhook_requests
        .get_or_create(&labels)
        .inc();
    outcome.status()
}

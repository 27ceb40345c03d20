//! The door for Doppler's webhooks: `POST /hooks/doppler`, on an address of its own.
//!
//! In: requests of anybody. Out: a wake for each hook that one of the secrets signed, at a bounded rate; a replica that does not lead sends it on to
//! the one that does. In reading order: `folder` (the secrets), [`crate::doppler::webhook`] (whether it is signed, and what it is about), `pace` (how
//! often), `forward`. Nothing a stranger sends changes anything or is written down but for a count. Connections, their time and their size are
//! bounded.

mod coalesce;
mod forward;
mod secret_dir;

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    routing::post,
};
use futures::StreamExt;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::{
    doppler::webhook::{SIGNATURE_HEADER, Webhook, parse_signature},
    metrics::{Metrics, WebhookLabels},
};
use coalesce::Coalescer;
pub use forward::{FORWARDED_HEADER, Forwarder};
pub use secret_dir::{SecretDir, SecretDirError};

/// Where hooks are taken.
pub const PATH: &str = "/hooks/doppler";
/// The largest body.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// Of a body that is too large, so much is read and dropped, so that its sender hears why it is refused.
const MAX_DISCARDED_BYTES: usize = 1024 * 1024;
/// How long the header, and then the body, may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last; below the grace of the process.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(18);
/// Connections at the same time; more wait.
const MAX_CONNECTIONS: usize = 32;
/// Wait after a connection that could not be taken.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Acts on a hook.
pub type OnWebhook = Arc<dyn Fn(&Webhook) + Send + Sync>;

/// What became of a request, for the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WebhookOutcome {
    Accepted,
    Limited,
    Forwarded,
    Unforwarded,
    Refused,
    TooLarge,
    Broken,
}

impl WebhookOutcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Limited => "limited",
            Self::Forwarded => "forwarded",
            Self::Unforwarded => "unforwarded",
            Self::Refused => "refused",
            Self::TooLarge => "too-large",
            Self::Broken => "broken",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Accepted | Self::Limited | Self::Forwarded => StatusCode::ACCEPTED,
            Self::Unforwarded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused => StatusCode::UNAUTHORIZED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Broken => StatusCode::REQUEST_TIMEOUT,
        }
    }
}

/// What hooks are taken with.
pub struct WebhookReceiver {
    secrets: SecretDir,
    handler: OnceLock<OnWebhook>,
    forwarder: Option<Forwarder>,
    coalescer: Mutex<Coalescer>,
    deferred: Notify,
    metrics: Arc<Metrics>,
}

impl WebhookReceiver {
    /// Takes hooks that a secret of the folder signed. Until [`WebhookReceiver::start_leading`], they go where `forward` says.
    #[must_use]
    pub fn new(secrets: SecretDir, forward: Option<Forwarder>, metrics: Arc<Metrics>) -> Self {
        Self {
            secrets,
            handler: OnceLock::new(),
            forwarder: forward,
            coalescer: Mutex::default(),
            deferred: Notify::new(),
            metrics,
        }
    }

    /// This replica leads: from now on hooks are acted upon here.
    pub fn start_leading(&self, wake: OnWebhook) {
        // It leads until it ends, so there is one wake.
        let _ = self.handler.set(wake);
    }

    /// Acts on the hooks that had to wait, until `shutdown`.
    pub async fn flush_coalesced(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let next = self.lock_coalescer().next_due();
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.deferred.notified() => continue,
                () = due => {}
            }
            let due = self.lock_coalescer().take_due(Instant::now());
            if let Some(wake) = self.handler.get() {
                for hook in &due {
                    wake(hook);
                }
            }
        }
    }

    fn lock_coalescer(&self) -> MutexGuard<'_, Coalescer> {
        self.coalescer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn receive(&self, headers: &HeaderMap, body: Body) -> WebhookOutcome {
        // Without a signature there is no reason to read any further.
        let Some(signature) = signature(headers) else {
            return WebhookOutcome::Refused;
        };
        let body = match timeout(READ_TIMEOUT, read_body(body)).await {
            Ok(Ok(body)) => body,
            Ok(Err(outcome)) => return outcome,
            Err(_) => return WebhookOutcome::Broken,
        };
        let secrets = self.secrets.current().await;
        let Some(hook) = secrets.verify(signature.as_bytes(), &body) else {
            return WebhookOutcome::Refused;
        };
        if let Some(wake) = self.handler.get() {
            return self.dispatch(hook, wake);
        }
        let was_forwarded = headers.contains_key(FORWARDED_HEADER);
        if let Some(forward) = self.forwarder.as_ref().filter(|_| !was_forwarded)
            && forward.forward(signature, &body).await
        {
            return WebhookOutcome::Forwarded;
        }
        // It may have come to lead meanwhile.
        match self.handler.get() {
            Some(wake) => self.dispatch(hook, wake),
            None => WebhookOutcome::Unforwarded,
        }
    }

    fn dispatch(&self, hook: Webhook, wake: &OnWebhook) -> WebhookOutcome {
        let now = self.lock_coalescer().offer(hook, Instant::now());
        if let Some(hook) = now {
            wake(&hook);
            WebhookOutcome::Accepted
        } else {
            self.deferred.notify_one();
            WebhookOutcome::Limited
        }
    }
}

/// The header, if there is exactly one and it has the form of a signature.
fn signature(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut all = headers.get_all(SIGNATURE_HEADER).iter();
    let first = all.next()?;
    let is_one = all.next().is_none() && parse_signature(first.as_bytes()).is_some();
    is_one.then_some(first)
}

/// The whole body, if it is not too large.
async fn read_body(body: Body) -> Result<Bytes, WebhookOutcome> {
    let (mut chunks, mut whole, mut size) = (body.into_data_stream(), Vec::new(), 0_usize);
    while size <= MAX_DISCARDED_BYTES
        && let Some(chunk) = chunks.next().await
    {
        let chunk = chunk.map_err(|_| WebhookOutcome::Broken)?;
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

/// `POST /hooks/doppler`, and nothing else.
pub fn router(hooks: Arc<WebhookReceiver>) -> Router {
    Router::new()
        .route(PATH, post(handle_request))
        .with_state(hooks)
}

async fn handle_request(State(hooks): State<Arc<WebhookReceiver>>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let outcome = hooks.receive(&parts.headers, body).await;
    debug!(outcome = outcome.label(), "a hook");
    hooks
        .metrics
        .webhook_requests
        .get_or_create(&WebhookLabels {
            outcome: outcome.label(),
        })
        .inc();
    outcome.status()
}

/// Serves until `shutdown`. One request a connection.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let next = async {
            // It is never closed.
            let place = Arc::clone(&free).acquire_owned().await.ok()?;
            Some((listener.accept().await.ok()?.0, place))
        };
        let next = tokio::select! {
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        match next {
            Some((stream, place)) => {
                connections.spawn(serve_one(stream, router.clone(), place));
            }
            // Such as too many open files.
            None => sleep(ACCEPT_RETRY_DELAY).await,
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_one(stream: TcpStream, router: Router, _place: OwnedSemaphorePermit) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Whatever fails on a stranger's connection is over with it.
    let _ = timeout(CONNECTION_TIMEOUT, connection).await;
}

#[cfg(test)]
mod tests;

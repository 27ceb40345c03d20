//! The door for Doppler's webhooks: `POST /hooks/doppler`, on an address of its own.
//!
//! In: requests of anybody. Out: a wake for each hook that one of the secrets signed, at a bounded rate; a replica that does not lead sends it on to
//! the one that does. In reading order: `folder` (the secrets), [`crate::doppler::hook`] (whether it is signed, and what it is about), `pace` (how
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
    doppler::webhook::{Hook, SIGNATURE_HEADER, parse_signature},
    metrics::{HookLabels, Metrics},
};
use coalesce::Pace;
pub use forward::{FORWARDED_HEADER, Forward};
pub use secret_dir::{FolderError, HookFolder};

/// Where hooks are taken.
pub const PATH: &str = "/hooks/doppler";
/// The largest body.
pub const LARGEST_BODY: usize = 64 * 1024;
/// Of a body that is too large, so much is read and dropped, so that its sender hears why it is refused.
const LARGEST_DROPPED: usize = 1024 * 1024;
/// How long the header, and then the body, may take to arrive.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may last; below the grace of the process.
const CONNECTION_LIMIT: Duration = Duration::from_secs(18);
/// Connections at the same time; more wait.
const CONNECTIONS: usize = 32;
/// Wait after a connection that could not be taken.
const AGAIN: Duration = Duration::from_millis(100);

/// Acts on a hook.
pub type Wake = Arc<dyn Fn(&Hook) + Send + Sync>;

/// What became of a request, for the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Limited,
    Forwarded,
    Unforwarded,
    Refused,
    TooLarge,
    Broken,
}

impl Outcome {
    const fn word(self) -> &'static str {
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
pub struct Hooks {
    secrets: HookFolder,
    wake: OnceLock<Wake>,
    forward: Option<Forward>,
    pace: Mutex<Pace>,
    later: Notify,
    metrics: Arc<Metrics>,
}

impl Hooks {
    /// Takes hooks that a secret of the folder signed. Until [`Hooks::lead`], they go where `forward` says.
    #[must_use]
    pub fn new(secrets: HookFolder, forward: Option<Forward>, metrics: Arc<Metrics>) -> Self {
        Self {
            secrets,
            wake: OnceLock::new(),
            forward,
            pace: Mutex::default(),
            later: Notify::new(),
            metrics,
        }
    }

    /// This replica leads: from now on hooks are acted upon here.
    pub fn lead(&self, wake: Wake) {
        // It leads until it ends, so there is one wake.
        let _ = self.wake.set(wake);
    }

    /// Acts on the hooks that had to wait, until `shutdown`.
    pub async fn keep_pace(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let next = self.pace().next();
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.later.notified() => continue,
                () = due => {}
            }
            let due = self.pace().due(Instant::now());
            if let Some(wake) = self.wake.get() {
                for hook in &due {
                    wake(hook);
                }
            }
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn receive(&self, headers: &HeaderMap, body: Body) -> Outcome {
        // Without a signature there is no reason to read any further.
        let Some(signature) = signature(headers) else {
            return Outcome::Refused;
        };
        let body = match timeout(READ_LIMIT, read(body)).await {
            Ok(Ok(body)) => body,
            Ok(Err(outcome)) => return outcome,
            Err(_) => return Outcome::Broken,
        };
        let secrets = self.secrets.current().await;
        let Some(hook) = secrets.receive(signature.as_bytes(), &body) else {
            return Outcome::Refused;
        };
        if let Some(wake) = self.wake.get() {
            return self.act(hook, wake);
        }
        let was_forwarded = headers.contains_key(FORWARDED_HEADER);
        if let Some(forward) = self.forward.as_ref().filter(|_| !was_forwarded)
            && forward.send(signature, &body).await
        {
            return Outcome::Forwarded;
        }
        // It may have come to lead meanwhile.
        match self.wake.get() {
            Some(wake) => self.act(hook, wake),
            None => Outcome::Unforwarded,
        }
    }

    fn act(&self, hook: Hook, wake: &Wake) -> Outcome {
        let now = self.pace().take(hook, Instant::now());
        if let Some(hook) = now {
            wake(&hook);
            Outcome::Accepted
        } else {
            self.later.notify_one();
            Outcome::Limited
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
async fn read(body: Body) -> Result<Bytes, Outcome> {
    let (mut chunks, mut whole, mut size) = (body.into_data_stream(), Vec::new(), 0_usize);
    while size <= LARGEST_DROPPED
        && let Some(chunk) = chunks.next().await
    {
        let chunk = chunk.map_err(|_| Outcome::Broken)?;
        size = size.saturating_add(chunk.len());
        if size <= LARGEST_BODY {
            whole.extend_from_slice(&chunk);
        } else {
            whole = Vec::new();
        }
    }
    if size > LARGEST_BODY {
        return Err(Outcome::TooLarge);
    }
    Ok(whole.into())
}

/// `POST /hooks/doppler`, and nothing else.
pub fn router(hooks: Arc<Hooks>) -> Router {
    Router::new().route(PATH, post(answer)).with_state(hooks)
}

async fn answer(State(hooks): State<Arc<Hooks>>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let outcome = hooks.receive(&parts.headers, body).await;
    debug!(outcome = outcome.word(), "a hook");
    hooks
        .metrics
        .hooks
        .get_or_create(&HookLabels {
            outcome: outcome.word(),
        })
        .inc();
    outcome.status()
}

/// Serves until `shutdown`. One request a connection.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
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
            None => sleep(AGAIN).await,
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_one(stream: TcpStream, router: Router, _place: OwnedSemaphorePermit) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Whatever fails on a stranger's connection is over with it.
    let _ = timeout(CONNECTION_LIMIT, connection).await;
}

#[cfg(test)]
mod tests;

//! A proxy in front of the real Prefect server, which requires an API key.
//!
//! Input: the URL of the server, and the key.
//! Output: the server's answers, and a record of the requests.
//! Invariants: it forwards only requests with the key. It offers no event socket, so that the
//! operator polls. No body is recorded.

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinHandle};

/// More than any body of the tests.
const MAX_BODY: usize = 4 * 1024 * 1024;

struct Shared {
    server: String,
    client: reqwest::Client,
    key: Mutex<String>,
    requests: Mutex<Vec<String>>,
}

/// The running proxy. Dropping it stops it.
pub struct Front {
    shared: Arc<Shared>,
    url: String,
    task: JoinHandle<()>,
}

impl Front {
    /// Starts the proxy on a free port.
    pub async fn start(server: &str, key: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/api", listener.local_addr()?);
        let shared = Arc::new(Shared {
            server: server.trim_end_matches("/api").to_owned(),
            client: reqwest::Client::new(),
            key: Mutex::new(key.to_owned()),
            requests: Mutex::default(),
        });
        let router = Router::new()
            .fallback(forward)
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { shared, url, task })
    }

    /// The URL of the API.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Requires another key from now on.
    pub fn set_key(&self, key: &str) {
        key.clone_into(&mut self.shared.key.lock());
    }

    /// Method and path of the requests that contain `part`, since the last call of [`Self::clear`].
    pub fn requests(&self, part: &str) -> Vec<String> {
        let requests = self.shared.requests.lock();
        let found = requests.iter().filter(|request| request.contains(part));
        found.cloned().collect()
    }

    /// Forgets the requests.
    pub fn clear(&self) {
        self.shared.requests.lock().clear();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let line = format!("{} {path}", parts.method);
    shared.requests.lock().push(line);
    let expected = format!("Bearer {}", shared.key.lock());
    let given = parts.headers.get(header::AUTHORIZATION);
    if given.is_none_or(|given| given.as_bytes() != expected.as_bytes()) {
        return (StatusCode::UNAUTHORIZED, "{\"detail\":\"Unauthorized\"}").into_response();
    }
    if parts.headers.contains_key(header::UPGRADE) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let mut headers = parts.headers.clone();
    for own in [
        header::HOST,
        header::CONTENT_LENGTH,
        header::ACCEPT_ENCODING,
    ] {
        headers.remove(own);
    }
    let forwarded = shared
        .client
        .request(parts.method, format!("{}{path}", shared.server))
        .headers(headers)
        .body(body)
        .send()
        .await;
    let Ok(answer) = forwarded else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let (status, kind) = (
        answer.status(),
        answer.headers().get(header::CONTENT_TYPE).cloned(),
    );
    let mut response = Response::new(Body::from(answer.bytes().await.unwrap_or_default()));
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

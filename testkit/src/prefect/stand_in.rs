//! A stand-in for Prefect's API, for benchmarks only: the real server takes 10 ms per request, so a
//! benchmark would measure Prefect. Other tests use the real server, and one compares the
//! responses.
//!
//! Input: blocks, pools, and a delay of each response.
//! Output: responses to reads of blocks and edits of pools, and counts of requests.
//! Invariants: no CSRF protection, no event socket, and only 404 as an error. No body and no value
//! of a block is recorded.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{Path, Request, State as Given};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};

use crate::background::BackgroundServer;

/// The real server's response, for the fields that are not set.
const BLOCK: &str = include_str!("../../fixtures/prefect-block-document.json");
const POOL: &str = include_str!("../../fixtures/prefect-work-pool.json");

/// Requests since the start or the last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandInCounts {
    /// GET requests for blocks.
    pub blocks: u64,
    /// GET requests for work pools.
    pub pool_reads: u64,
    /// PATCH requests for work pools.
    pub pool_writes: u64,
    /// Lists of deployments.
    pub deployments: u64,
    /// Other requests, such as for a CSRF token.
    pub others: u64,
}

#[derive(Default)]
struct State {
    blocks: BTreeMap<String, Value>,
    pools: BTreeMap<String, Value>,
    delay: Duration,
    counts: StandInCounts,
}

#[derive(Default)]
struct Shared(Mutex<State>);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

/// A running stand-in. Dropping it stops the server.
pub struct StandIn {
    shared: Arc<Shared>,
    address: SocketAddr,
    _background: BackgroundServer,
}

impl StandIn {
    /// Starts a stand-in without blocks and pools on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port")?;
        let address = listener.local_addr()?;
        let routes = routes(&shared);
        let background = BackgroundServer::start("prefect-stand-in", move || async move {
            if let Ok(server) = axum_server::from_tcp(listener) {
                // Serves until it is dropped.
                let _ = server.serve(routes.into_make_service()).await;
            }
        })?;
        Ok(Self {
            shared,
            address,
            _background: background,
        })
    }

    /// The API's address, such as `http://127.0.0.1:4200/api`.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}/api", self.address)
    }

    /// Sets a block of type `secret`, as `Secret(value={…}).save()` does.
    pub fn put_block(&self, name: &str, project: &str, config: &str, token: &str) {
        let value = json!({"project": project, "config": config, "access_token": token});
        let mut state = self.shared.state();
        state
            .blocks
            .insert(name.to_owned(), json!({"value": value}));
    }

    /// Sets a work pool of type kubernetes.
    pub fn put_pool(&self, name: &str, template: Value) {
        self.shared.state().pools.insert(name.to_owned(), template);
    }

    /// The template of a pool.
    #[must_use]
    pub fn template(&self, pool: &str) -> Option<Value> {
        self.shared.state().pools.get(pool).cloned()
    }

    /// Sets the delay of each response from now on. Default: none.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.state().delay = delay;
    }

    /// The counts of requests.
    #[must_use]
    pub fn counts(&self) -> StandInCounts {
        self.shared.state().counts
    }

    /// Resets the counts.
    pub fn reset_counts(&self) {
        self.shared.state().counts = StandInCounts::default();
    }
}

fn routes(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route(
            "/api/block_types/slug/{slug}/block_documents/name/{name}",
            get(block),
        )
        .route("/api/work_pools/{name}", get(pool).patch(edit_pool))
        .route("/api/deployments/filter", post(async || Json(json!([]))))
        .route(
            "/api/csrf-token",
            get(async || error_response(422, "CSRF protection is disabled.")),
        )
        .route("/api/health", get(async || Json(json!(true))))
        .fallback(async || error_response(404, "Not Found"))
        .layer(from_fn_with_state(Arc::clone(shared), handle))
        .with_state(Arc::clone(shared))
}

/// Counts the request and delays the response.
async fn handle(Given(shared): Given<Arc<Shared>>, request: Request, next: Next) -> Response {
    let delay = {
        let mut state = shared.state();
        let path = request.uri().path();
        let counts = &mut state.counts;
        let count = if path.starts_with("/api/block_types/") {
            &mut counts.blocks
        } else if path.starts_with("/api/work_pools/") {
            if request.method() == Method::GET {
                &mut counts.pool_reads
            } else {
                &mut counts.pool_writes
            }
        } else if path == "/api/deployments/filter" {
            &mut counts.deployments
        } else {
            &mut counts.others
        };
        *count += 1;
        state.delay
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    next.run(request).await
}

fn error_response(status: u16, detail: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(json!({"detail": detail}))).into_response()
}

async fn block(
    Given(shared): Given<Arc<Shared>>,
    Path((slug, name)): Path<(String, String)>,
) -> Response {
    let known = slug == "secret";
    let data = shared.state().blocks.get(&name).filter(|_| known).cloned();
    let Some(data) = data else {
        return error_response(404, "Block document not found");
    };
    merge_defaults(BLOCK, &[("name", name.into()), ("data", data)])
}

async fn pool(Given(shared): Given<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let template = shared.state().pools.get(&name).cloned();
    let Some(template) = template else {
        return pool_not_found(&name);
    };
    merge_defaults(
        POOL,
        &[("name", name.into()), ("base_job_template", template)],
    )
}

async fn edit_pool(
    Given(shared): Given<Arc<Shared>>,
    Path(name): Path<String>,
    Json(mut edit): Json<Value>,
) -> Response {
    match shared.state().pools.get_mut(&name) {
        Some(template) => *template = edit["base_job_template"].take(),
        None => return pool_not_found(&name),
    }
    StatusCode::NO_CONTENT.into_response()
}

fn pool_not_found(name: &str) -> Response {
    error_response(404, &format!("Work pool \"{name}\" not found."))
}

/// A fixture with these fields replaced.
fn merge_defaults(fixture: &str, fields: &[(&str, Value)]) -> Response {
    let Ok(mut whole) = serde_json::from_str::<Value>(fixture) else {
        return error_response(500, "the fixture is not JSON");
    };
    for (name, value) in fields {
        whole[*name] = value.clone();
    }
    Json(whole).into_response()
}

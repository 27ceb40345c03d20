//! Doppler's endpoints.
//!
//! Input: requests without a fault that replaces the response. Output: responses in Doppler's
//! format.
//! Invariants: a download is computed under the lock of the state, so that it has one version of
//! the config.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State as Given};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::api_error::ApiError;
use super::formats::Format;
use super::names::Transformer;
use super::requests::{DOWNLOAD_PATH, EXCHANGE_PATH, REVOKE_PATH, WATCH_PATH, hex, token_of};
use super::shared::Shared;
use super::state::Scope;
use super::streams::WatchMode;
use super::watch;

type QueryParams = Query<BTreeMap<String, String>>;

/// The endpoints, without faults, rate limits and the record.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route(DOWNLOAD_PATH, get(download))
        .route(WATCH_PATH, get(watch_stream))
        .route(EXCHANGE_PATH, post(exchange))
        .route(REVOKE_PATH, post(revoke))
        .route("/v3/me", get(me))
        .fallback(async || error_response(404, "Could not find requested route"))
}

/// An error in Doppler's format.
pub(super) fn error_response(status: u16, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (
        status,
        axum::Json(json!({"messages": [message], "success": false})),
    )
        .into_response()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        error_response(self.status, &self.message)
    }
}

async fn download(
    Given(shared): Given<Arc<Shared>>,
    Query(asked): QueryParams,
    parts: Parts,
) -> Response {
    let parameter = |name: &str| {
        asked
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    };
    let state = shared.state();
    let place = match state.resolve_config(
        token_of(&parts).as_deref(),
        parameter("project"),
        parameter("config"),
    ) {
        Ok(place) => place,
        Err(refusal) => return refusal.into_response(),
    };
    let Some(format) = Format::parse(parameter("format").unwrap_or("json")) else {
        return error_response(400, "Invalid format");
    };
    let transformer = match parameter("name_transformer").map(Transformer::parse) {
        None => None,
        Some(Some(transformer)) => Some(transformer),
        Some(None) => return error_response(400, "Invalid name transformer"),
    };
    let body = format.write(&state.secrets(&place, parameter("secrets")), transformer);
    let tag = if state.quirks.one_etag_per_config {
        etag_of(&Format::Json.write(&state.secrets(&place, None), None))
    } else {
        etag_of(&body)
    };
    let unchanged = parts
        .headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .any(|known| *known == *tag);
    if unchanged {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    let head = [
        (header::CONTENT_TYPE, format.media_type().to_owned()),
        (header::ETAG, tag),
    ];
    (head, body).into_response()
}

fn etag_of(body: &str) -> String {
    format!("W/\"{}\"", hex(&Sha256::digest(body.as_bytes())))
}

async fn watch_stream(
    Given(shared): Given<Arc<Shared>>,
    Query(asked): QueryParams,
    parts: Parts,
) -> Response {
    let (place, closes_at) = {
        let state = shared.state();
        let asked = |name: &str| asked.get(name).map(String::as_str);
        if let WatchMode::Refused(status, message) = &state.streams.mode {
            return error_response(*status, message);
        }
        let token = token_of(&parts);
        let token = token.as_deref();
        let closes_at = token
            .filter(|_| state.quirks.expiry_closes_streams)
            .and_then(|token| state.identities.expiry(token));
        match state.resolve_config(token, asked("project"), asked("config")) {
            Ok(place) => (place, closes_at),
            Err(refusal) => return refusal.into_response(),
        }
    };
    let head = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (head, watch::open(&shared, place, closes_at)).into_response()
}

#[derive(Deserialize)]
struct Exchange {
    identity: String,
    token: String,
}

async fn exchange(
    Given(shared): Given<Arc<Shared>>,
    axum::Json(asked): axum::Json<Exchange>,
) -> Response {
    let mut state = shared.state();
    let rules = match state.identities.verify(&asked.identity, &asked.token) {
        Ok(rules) => rules,
        Err(refusal) => return refusal.into_response(),
    };
    let number = state.identities.seen.len();
    let tail = hex(&Sha256::digest(format!("{number} {}", asked.token)));
    let token = format!("dp.said.{tail}");
    state.identities.issue(&token, rules.life);
    let scope = rules.config.map_or(Scope::Workplace, Scope::Config);
    state.tokens.insert(token.clone(), scope);
    let expires_at = Timestamp::now() + rules.life;
    let body = json!({"success": true, "token": token, "expires_at": expires_at.to_string()});
    axum::Json(body).into_response()
}

#[derive(Deserialize)]
struct Revocation {
    token: String,
}

async fn revoke(
    Given(shared): Given<Arc<Shared>>,
    axum::Json(asked): axum::Json<Revocation>,
) -> Response {
    let mut state = shared.state();
    state.identities.revoke(&asked.token);
    state.tokens.remove(&asked.token);
    empty_response(StatusCode::OK)
}

async fn me(Given(shared): Given<Arc<Shared>>, parts: Parts) -> Response {
    let token = token_of(&parts);
    let kind = match shared.state().scope(token.as_deref()) {
        Ok(Scope::Config(_)) => "service_token",
        Ok(Scope::Workplace) => "service_account_api_token",
        Err(refusal) => return refusal.into_response(),
    };
    let token = token.unwrap_or_default();
    let slug = super::fingerprint(&token);
    let prefix = token.rsplit_once('.').map_or("", |(prefix, _)| prefix);
    let body = json!({
        "slug": slug,
        "name": format!("token {slug}"),
        "type": kind,
        "token_preview": format!("{prefix}...{}", &slug[..4]),
        "workplace": {"slug": "workplace", "name": "Workplace"},
    });
    axum::Json(body).into_response()
}

/// An empty body.
pub(super) fn empty_response(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

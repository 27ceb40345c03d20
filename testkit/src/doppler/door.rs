//! The middleware of every request: the record, faults, rate limits and compression.
//!
//! Input: a request. Output: its response with Doppler's rate-limit headers, compressed if the
//! client accepts it, and changed by a fault if one applies.
//! Invariants: every request is recorded, also one that gets no response.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State as Given};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt as _, stream};

use super::answers::{empty_response, error_response};
use super::faults::Fault;
use super::limits::{Quota, RequestKind};
use super::requests::RecordedRequest;
use super::shared::Shared;

/// Marks a response that is not sent: the connection is closed instead.
#[derive(Clone, Copy)]
pub(super) struct CloseConnection;

/// The largest body that a fault changes. Only the body of `Fault::Huge` is larger; it is streamed.
const MAX_BODY: usize = 64 << 20;

/// Applies record, faults, rate limits, endpoint and compression, in this order.
pub(super) async fn handle(
    Given(shared): Given<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let mut call = RecordedRequest::from_parts(&parts);
    let takes_gzip = call
        .headers
        .get("accept-encoding")
        .is_some_and(|accepted| accepted.contains("gzip"));
    let (fault, grant) = {
        let mut state = shared.state();
        state.requests.record(&mut call);
        let fault = state.faults.next_for(&call);
        let kind = if call.is_download() {
            RequestKind::SecretRead
        } else {
            RequestKind::Read
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let grant = state
            .limits
            .acquire(call.token.as_deref().unwrap_or_default(), kind, now);
        (fault, grant)
    };
    if let Some(Fault::Delay(late)) = fault {
        tokio::time::sleep(late).await;
    }
    let instead = match &fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(fault) => instead(fault),
        None => None,
    };
    let mut answer = match (instead, grant.retry_after) {
        (Some(answer), _) => answer,
        (None, Some(seconds)) => rate_limited(&shared, &call, seconds),
        (None, None) => next.run(Request::from_parts(parts, body)).await,
    };
    if takes_gzip && call.is_download() && answer.status() == StatusCode::OK {
        answer = compress(answer).await;
    }
    if let Some(fault) = fault {
        answer = corrupt(answer, &fault).await;
    }
    add_rate_limit_headers(&mut answer, grant);
    if answer.extensions().get::<CloseConnection>().is_none() {
        shared
            .state()
            .requests
            .record_status(call.number, answer.status().as_u16());
    }
    answer
}

/// The response of a fault that replaces that of the endpoint.
fn instead(fault: &Fault) -> Option<Response> {
    Some(match fault {
        Fault::Error(status, message) => error_response(*status, message),
        Fault::Answer(status, media_type, body) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (
                status,
                [(header::CONTENT_TYPE, media_type.clone())],
                body.clone(),
            )
                .into_response()
        }
        Fault::Redirect(to) => {
            (StatusCode::FOUND, [(header::LOCATION, to.clone())]).into_response()
        }
        Fault::Close => {
            let mut answer = empty_response(StatusCode::OK);
            answer.extensions_mut().insert(CloseConnection);
            answer
        }
        Fault::Huge(size) => huge_response(*size),
        Fault::Hang | Fault::Delay(_) | Fault::Truncate(_) | Fault::MediaType(_) => return None,
    })
}

/// Applies a fault to the response of the endpoint.
async fn corrupt(mut answer: Response, fault: &Fault) -> Response {
    match fault {
        Fault::MediaType(wrong) => {
            if let Ok(wrong) = HeaderValue::from_str(wrong) {
                answer.headers_mut().insert(header::CONTENT_TYPE, wrong);
            }
            answer
        }
        Fault::Truncate(kept) => {
            let (mut head, body) = answer.into_parts();
            let whole = to_bytes(body, MAX_BODY).await.unwrap_or_default();
            head.headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
            let first = whole.slice(..whole.len().min(*kept));
            let pieces = stream::iter([Ok(first)]).chain(stream::once(async {
                // The client must get the first part before the connection is closed.
                tokio::time::sleep(std::time::Duration::from_millis(15)).await;
                Err(anyhow!("cut short on demand"))
            }));
            Response::from_parts(head, Body::from_stream(pieces))
        }
        _ => answer,
    }
}

fn huge_response(size: u64) -> Response {
    const PIECE: usize = 64 << 10;
    let piece = Bytes::from(vec![b'a'; PIECE]);
    let open = stream::once(async { Bytes::from_static(b"{\"HUGE\":\"") });
    let full =
        stream::repeat(piece).take(usize::try_from(size).unwrap_or(usize::MAX).div_ceil(PIECE));
    let shut = stream::once(async { Bytes::from_static(b"\"}") });
    let body = Body::from_stream(
        open.chain(full)
            .chain(shut)
            .map(Ok::<_, std::convert::Infallible>),
    );
    (
        [(header::CONTENT_TYPE, "application/json; charset=utf-8")],
        body,
    )
        .into_response()
}

fn rate_limited(shared: &Shared, call: &RecordedRequest, seconds: u64) -> Response {
    let rate = shared.state().limits.rate;
    let (limit, what) = if call.is_download() {
        (rate.secret_reads, "secret read")
    } else {
        (rate.reads, "read")
    };
    let window = rate.window.as_secs();
    error_response(
        429,
        &format!(
            "Exceeded rate limit of {limit} {what} requests within {window} seconds. Retry in {seconds} seconds."
        ),
    )
}

fn add_rate_limit_headers(answer: &mut Response, grant: Quota) {
    let limited = answer.status() == StatusCode::TOO_MANY_REQUESTS;
    let headers = answer.headers_mut();
    headers.insert("x-ratelimit-limit", HeaderValue::from(grant.limit));
    headers.insert("x-ratelimit-remaining", HeaderValue::from(grant.remaining));
    headers.insert("x-ratelimit-reset", HeaderValue::from(grant.reset));
    if let Some(seconds) = grant.retry_after.filter(|_| limited) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

async fn compress(answer: Response) -> Response {
    // A stream has no end to wait for.
    if !answer.headers().contains_key(header::ETAG) {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return error_response(500, "The answer is too large");
    };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let Ok(packed) = encoder.write_all(&body).and_then(|()| encoder.finish()) else {
        return error_response(500, "The answer could not be compressed");
    };
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers
        .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers
        .insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(head, Body::from(packed))
}

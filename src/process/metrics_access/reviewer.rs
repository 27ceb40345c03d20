//! Asks the API server who a client is and whether it may read `/metrics`.
//!
//! Input: a client of the API server, and requests.
//! Output: the request passes, or an answer that says why not.
//! Invariants: a review has a time limit. All reviews share one pace, so that a flood of invalid
//! tokens does not overload the API server, and they leave connections free for clients that are
//! known to be allowed. A failure is logged once until it changes, without the answer's text, which
//! could repeat the token.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, StatusCode, header::WWW_AUTHENTICATE},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use k8s_openapi::api::{authentication::v1::TokenReview, authorization::v1::SubjectAccessReview};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    answer_cache::{AnswerCache, TokenHash},
    decision::{Access, access, access_review, bearer_token, token_review, user},
};
use crate::{
    process::server::METRICS_CONNECTIONS,
    upstream::pace::{Pace, PaceLimit},
};

/// Time limit of the reviews of one request, with the wait for their turn.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of requests that wait for their review. The other connections are for clients
/// whose answer is known.
const MAX_WAITING: usize = METRICS_CONNECTIONS - 2;
/// How many tokens are reviewed.
const REVIEW_LIMIT: PaceLimit = PaceLimit {
    burst: 20,
    period: Duration::from_millis(20),
};

/// Why the API server gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum ReviewFailure {
    #[error(
        "the operator may not create TokenReviews and SubjectAccessReviews: grant it both, as the chart does"
    )]
    Forbidden,
    #[error("the API server answered with status {0}")]
    Status(u16),
    #[error("the API server did not answer in time, or cannot be reached")]
    NoAnswer,
    #[error("too many other tokens are being reviewed")]
    Busy,
}

impl From<kube::Error> for ReviewFailure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => Self::Forbidden,
            kube::Error::Api(status) => Self::Status(status.code),
            _ => Self::NoAnswer,
        }
    }
}

/// Asks the API server, and remembers its answers for a short time.
pub struct Reviewer {
    client: Client,
    answers: Mutex<AnswerCache>,
    waiting: Semaphore,
    pace: tokio::sync::Mutex<Pace>,
    failure: Mutex<Option<ReviewFailure>>,
}

impl Reviewer {
    /// A reviewer without any answer yet.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            answers: Mutex::default(),
            waiting: Semaphore::new(MAX_WAITING),
            pace: tokio::sync::Mutex::default(),
            failure: Mutex::default(),
        }
    }

    /// What the sender of this header may do.
    async fn decide(self: &Arc<Self>, headers: &HeaderMap) -> Result<Access, ReviewFailure> {
        let Some(token) = bearer_token(headers) else {
            return Ok(Access::Unauthenticated);
        };
        let hash = TokenHash::of(token);
        let known = self.answers.lock().get(&hash, Instant::now());
        if let Some(known) = known {
            if known.refresh {
                let (reviewer, token) = (Arc::clone(self), SecretString::from(token));
                tokio::spawn(async move { reviewer.ask(token.expose_secret()).await });
            }
            return Ok(known.access);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(ReviewFailure::Busy);
        };
        self.ask(token).await
    }

    /// Asks the API server, and keeps its answer.
    async fn ask(&self, token: &str) -> Result<Access, ReviewFailure> {
        let since = Instant::now();
        let reviewed = timeout(REVIEW_TIMEOUT, self.review(token))
            .await
            .unwrap_or(Err(ReviewFailure::NoAnswer));
        self.note(reviewed.err());
        if let Ok(access) = reviewed {
            let hash = TokenHash::of(token);
            self.answers.lock().insert(hash, access, since);
        }
        reviewed
    }

    async fn review(&self, token: &str) -> Result<Access, ReviewFailure> {
        self.turn().await;
        let post = PostParams::default();
        let tokens: Api<TokenReview> = Api::all(self.client.clone());
        let Some(user) = user(tokens.create(&post, &token_review(token)).await?) else {
            return Ok(Access::Unauthenticated);
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        Ok(access(&reviews.create(&post, &access_review(user)).await?))
    }

    /// Waits until the pace allows one more review. The lock is first in, first out.
    async fn turn(&self) {
        let mut pace = self.pace.lock().await;
        while let Err(wait) = pace.take(REVIEW_LIMIT, Instant::now()) {
            sleep(wait).await;
        }
    }

    /// Logs when reviews begin to fail, fail differently, and work again.
    fn note(&self, failure: Option<ReviewFailure>) {
        let before = std::mem::replace(&mut *self.failure.lock(), failure);
        match failure {
            Some(failure) if before != Some(failure) => {
                warn!(%failure, "cannot authorize a client of /metrics; it is answered 503");
            }
            None if before.is_some() => info!("clients of /metrics are authorized again"),
            _ => {}
        }
    }
}

/// Lets only authorized requests reach the router.
pub fn authorized(router: Router, reviewer: Reviewer) -> Router {
    let reviewer = Arc::new(reviewer);
    router.layer(from_fn(move |request: Request, next: Next| {
        let reviewer = Arc::clone(&reviewer);
        async move {
            match reviewer.decide(request.headers()).await {
                Ok(Access::Allowed) => next.run(request).await,
                refused => refusal(refused),
            }
        }
    }))
}

fn refusal(reviewed: Result<Access, ReviewFailure>) -> Response {
    match reviewed {
        Ok(Access::Unauthenticated) => (
            StatusCode::UNAUTHORIZED,
            [(WWW_AUTHENTICATE, "Bearer")],
            "send a bearer token that the API server accepts\n",
        )
            .into_response(),
        Ok(_) => (
            StatusCode::FORBIDDEN,
            "the user of this token may not get the non-resource URL /metrics\n",
        )
            .into_response(),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "this token could not be reviewed; try again, and see the log of the operator\n",
        )
            .into_response(),
    }
}

#[cfg(test)]
mod tests;

//! A hook that came to a replica which does not lead.
//!
//! In: a raw body and its signature, found right here. Out: whether the leader took it. The leader is found in the lease and verifies again; so
//! nothing has to be trusted but the secrets. Each try has a time limit, and so has the whole.

use std::{net::SocketAddr, time::Duration};

use axum::{body::Bytes, http::HeaderValue};
use tokio::time::{sleep, timeout};

use super::PATH;
use crate::{
    doppler::webhook::SIGNATURE_HEADER,
    outbound::{self, ClientError},
    process::leader_election::LeaseClient,
};

/// Says that a hook was forwarded once, and is not to be again.
pub const FORWARDED_HEADER: &str = "x-doppler-prefect-forwarded";
/// Time limit of one try.
const TRY_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit of all tries.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(8);
const MAX_TRIES: usize = 3;
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// The way to the leader.
pub struct Forwarder {
    leases: LeaseClient,
    http: reqwest::Client,
}

impl Forwarder {
    /// To the holder of this lease.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(leases: LeaseClient) -> Result<Self, ClientError> {
        Ok(Self {
            leases,
            http: outbound::direct_client(TRY_TIMEOUT)?,
        })
    }

    /// Whether the leader took it. The first try goes where the leader was seen last; each further one follows a look at the lease.
    pub async fn forward(&self, signature: &HeaderValue, body: &Bytes) -> bool {
        let tries = async {
            for number in 0..MAX_TRIES {
                let leader = if number == 0 {
                    self.leases.leader_address()
                } else {
                    sleep(RETRY_DELAY).await;
                    self.leases.fetch_leader_address().await
                };
                if let Some(leader) = leader
                    && self.post_to(leader, signature, body).await
                {
                    return true;
                }
            }
            false
        };
        timeout(TOTAL_TIMEOUT, tries).await.unwrap_or(false)
    }

    async fn post_to(&self, leader: SocketAddr, signature: &HeaderValue, body: &Bytes) -> bool {
        let answer = self
            .http
            .post(format!("http://{leader}{PATH}"))
            .header(SIGNATURE_HEADER, signature)
            .header(FORWARDED_HEADER, "1")
            .body(body.clone())
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status() == reqwest::StatusCode::ACCEPTED)
    }
}

//! Forwards a webhook from a standby replica to the leader.
//!
//! Input: a path, a raw body and its signature, which this replica has verified.
//! Output: the answer of the leader.
//! Invariants: the leader's address comes from the Lease, and the leader verifies the signature
//! again, so the secrets are all that is trusted. Each try has a time limit, and so has the whole.

use std::{net::SocketAddr, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderValue, StatusCode},
};
use tokio::time::{sleep, timeout};

use crate::{
    doppler::webhook::SIGNATURE_HEADER,
    outbound::{self, ClientError},
    process::leader_election::LeaseClient,
};

/// Marks a webhook that was forwarded, so that it is not forwarded again.
pub const FORWARDED_HEADER: &str = "x-doppler-prefect-forwarded";
/// Time limit of one try.
const TRY_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit of all tries.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(8);
const MAX_TRIES: usize = 3;
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// What the leader answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderAnswer {
    /// It accepted the webhook.
    Accepted,
    /// It serves nothing at this path.
    NotServed,
}

/// Sends webhooks to the leader.
pub struct Forwarder {
    leases: LeaseClient,
    http: reqwest::Client,
}

impl Forwarder {
    /// Creates a forwarder to the holder of this Lease.
    ///
    /// # Errors
    /// If no HTTP client can be created.
    pub fn new(leases: LeaseClient) -> Result<Self, ClientError> {
        Ok(Self {
            leases,
            http: outbound::direct_client(TRY_TIMEOUT)?,
        })
    }

    /// Sends a webhook to this path of the leader and returns the answer of the leader. The first try
    /// uses the last known address of the leader. Each further try reads the Lease first.
    pub async fn forward(
        &self,
        path: &str,
        signature: &HeaderValue,
        body: &Bytes,
    ) -> Option<LeaderAnswer> {
        let tries = async {
            for number in 0..MAX_TRIES {
                let leader = if number == 0 {
                    self.leases.leader_address()
                } else {
                    sleep(RETRY_DELAY).await;
                    self.leases.fetch_leader_address().await
                };
                if let Some(leader) = leader
                    && let Some(answer) = self.post_to(leader, path, signature, body).await
                {
                    return Some(answer);
                }
            }
            None
        };
        timeout(TOTAL_TIMEOUT, tries).await.unwrap_or(None)
    }

    async fn post_to(
        &self,
        leader: SocketAddr,
        path: &str,
        signature: &HeaderValue,
        body: &Bytes,
    ) -> Option<LeaderAnswer> {
        let response = self
            .http
            .post(format!("http://{leader}{path}"))
            .header(SIGNATURE_HEADER, signature)
            .header(FORWARDED_HEADER, "1")
            .body(body.clone())
            .send()
            .await;
        match response.ok()?.status() {
            StatusCode::ACCEPTED => Some(LeaderAnswer::Accepted),
            StatusCode::NOT_FOUND => Some(LeaderAnswer::NotServed),
            _ => None,
        }
    }
}

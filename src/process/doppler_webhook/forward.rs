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
    process::leader_election::Leases,
};

/// Says that a hook was forwarded once, and is not to be again.
pub const FORWARDED_HEADER: &str = "x-doppler-prefect-forwarded";
/// Time limit of one try.
const TRY_LIMIT: Duration = Duration::from_secs(3);
/// Time limit of all tries.
const LIMIT: Duration = Duration::from_secs(8);
const TRIES: usize = 3;
const AGAIN: Duration = Duration::from_millis(500);

/// The way to the leader.
pub struct Forward {
    leases: Leases,
    http: reqwest::Client,
}

impl Forward {
    /// To the holder of this lease.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(leases: Leases) -> Result<Self, ClientError> {
        Ok(Self {
            leases,
            http: outbound::direct_client(TRY_LIMIT)?,
        })
    }

    /// Whether the leader took it. The first try goes where the leader was seen last; each further one follows a look at the lease.
    pub async fn send(&self, signature: &HeaderValue, body: &Bytes) -> bool {
        let tries = async {
            for number in 0..TRIES {
                let leader = if number == 0 {
                    self.leases.leader()
                } else {
                    sleep(AGAIN).await;
                    self.leases.leader_now().await
                };
                if let Some(leader) = leader
                    && self.send_to(leader, signature, body).await
                {
                    return true;
                }
            }
            false
        };
        timeout(LIMIT, tries).await.unwrap_or(false)
    }

    async fn send_to(&self, leader: SocketAddr, signature: &HeaderValue, body: &Bytes) -> bool {
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

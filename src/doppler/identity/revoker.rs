//! Revokes the tokens of identities that no binding uses any more.
//!
//! Input: tokens, as their identities are dropped, and all that are left at the shutdown.
//! Output: a revocation of each at Doppler.
//! Invariants: queue, concurrency, attempts and the time at the shutdown are bounded. A token that
//! could not be revoked expires by itself.

use std::time::Duration;

use futures::{StreamExt, stream};
use secrecy::SecretString;
use tokio::{
    sync::mpsc::Receiver,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{Identities, key::IdentityKey};
use crate::{
    reason::Class,
    upstream::backoff::{Backoff, jittered},
};

/// How many tokens may wait.
pub(super) const MAX_QUEUED: usize = 1024;
/// How many are revoked at the same time.
const CONCURRENCY: usize = 8;
/// How often a revocation is tried.
const ATTEMPTS: u32 = 4;
/// Waits between the attempts.
const RETRIES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Random part of the waits.
const JITTER: f64 = 0.2;
/// How long revocations may take at the shutdown, less than the process has to end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// A token that is to be revoked.
pub(super) struct Revocation {
    pub(super) key: IdentityKey,
    pub(super) token: SecretString,
}

/// Revokes tokens until the shutdown.
pub struct Revoker {
    identities: Identities,
    queue: Receiver<Revocation>,
}

impl Revoker {
    pub(super) fn new(identities: Identities, queue: Receiver<Revocation>) -> Self {
        Self { identities, queue }
    }

    /// Revokes tokens as they come, and those that are left at the shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let identities = self.identities.clone();
        let queue = stream::poll_fn(|context| self.queue.poll_recv(context));
        let revoked =
            queue.for_each_concurrent(CONCURRENCY, |revocation| revoke(&identities, revocation));
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = revoked => {}
        }
        self.revoke_all().await;
    }

    /// Revokes all tokens, within a time limit.
    pub async fn revoke_all(&mut self) {
        let mut left = self.identities.take_tokens();
        while let Ok(revocation) = self.queue.try_recv() {
            left.push(revocation);
        }
        if left.is_empty() {
            return;
        }
        let number = left.len();
        let revoked = stream::iter(left).for_each_concurrent(CONCURRENCY, async |revocation| {
            // The process ends: there is no time for a second attempt.
            let _ = self.identities.revoke(&revocation).await;
        });
        let in_time = timeout(SHUTDOWN_LIMIT, revoked).await.is_ok();
        info!(number, in_time, "revoked the tokens of identities");
    }
}

async fn revoke(identities: &Identities, revocation: Revocation) {
    let id = &revocation.key.id;
    for attempt in 1..=ATTEMPTS {
        match identities.revoke(&revocation).await {
            Ok(()) => return debug!(id, "revoked a token of Doppler"),
            Err(error) => {
                debug!(id, attempt, "could not revoke a token of Doppler: {error}");
                if error.reason().class() == Class::WaitForChange {
                    break;
                }
                let wait = RETRIES.delay(attempt);
                let wait = error.retry_after().map_or(wait, |asked| asked.max(wait));
                sleep(jittered(wait, JITTER)).await;
            }
        }
    }
    info!(
        id,
        "a token of Doppler is not revoked, and expires by itself"
    );
}

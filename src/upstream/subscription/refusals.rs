//! Spares a host connections that it is going to refuse. Pure.
//!
//! Input: which connections a host accepted and rejected, and for whom. Output: how long to wait before
//! the next attempt.
//! Invariants: it reads no clock. A tenant's first attempt never waits, so that no tenant delays
//! another by tokens that are refused.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::slots::Tenant;
use crate::upstream::pace::{Pace, PaceLimit};

/// After so many rejections without an accepted connection, further ones are tried slowly.
const MAX_REJECTIONS: u32 = 5;
/// How often a tenant tries a host that rejects connections.
const ATTEMPTS: PaceLimit = PaceLimit {
    burst: 1,
    period: Duration::from_secs(10),
};
/// Hosts and tenants that are kept. Beyond it, all begin anew.
const MAX_KEPT: usize = 4096;

/// The rejections of all hosts of a feed.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<(String, Tenant), Refused>);

#[derive(Debug, Default)]
struct Refused {
    rejections: u32,
    attempts: Pace,
}

impl Refusals {
    /// How long an attempt has to wait. Without a wait it counts.
    pub(super) fn wait(&mut self, host: &str, tenant: &Tenant, now: Instant) -> Option<Duration> {
        let refused = self.0.get_mut(&(host.to_owned(), Tenant::clone(tenant)))?;
        if refused.rejections < MAX_REJECTIONS {
            return None;
        }
        refused.attempts.take(ATTEMPTS, now).err()
    }

    /// The host accepted a connection.
    pub(super) fn record_accepted(&mut self, host: &str, tenant: &Tenant) {
        self.0.remove(&(host.to_owned(), Tenant::clone(tenant)));
    }

    /// The host rejected a connection.
    pub(super) fn record_rejected(&mut self, host: &str, tenant: &Tenant) {
        if self.0.len() >= MAX_KEPT {
            self.0.clear();
        }
        let key = (host.to_owned(), Tenant::clone(tenant));
        let refused = self.0.entry(key).or_default();
        refused.rejections = refused.rejections.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_few_rejections_the_rest_is_tried_slowly() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let (tenant, other) = (Tenant::from("a"), Tenant::from("b"));
        let mut attempts = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            while refusals.wait("h", &tenant, now).is_none() {
                refusals.record_rejected("h", &tenant);
                attempts += 1;
            }
        }
        assert_eq!(attempts, 5 + 60);
        let end = start + Duration::from_mins(10);
        assert_eq!(refusals.wait("h", &other, end), None);
        assert_eq!(refusals.wait("other", &tenant, end), None);
        refusals.record_accepted("h", &tenant);
        for _ in 0..100 {
            assert_eq!(
                refusals.wait("h", &tenant, end),
                None,
                "it is accepted again"
            );
        }
    }
}

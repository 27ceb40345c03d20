//! Decides what to do about the lease.
//!
//! Input: the time of the local clock, the lease as it was observed last, and this candidate.
//! Output: one [`Step`].
//! Invariants: pure. Times that other replicas wrote are never compared with the local clock: a lease
//! expires when it has not changed here for its duration.

use std::time::Duration;

use tokio::time::Instant;

/// How long a lease is valid without a renewal.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How often the leader renews it.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// A leader that has not renewed for this long steps down. The rest of [`LEASE_DURATION`] lets its
/// work end before another replica starts.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often a standby replica reads the lease.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// The longest duration of another holder's lease that is respected.
const MAX_LEASE_DURATION: Duration = Duration::from_mins(5);

/// The lease as it was observed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedLease {
    /// The identity of the holder.
    pub holder: Option<String>,
    /// The resourceVersion.
    pub version: String,
    /// How long it is valid, as its holder wrote.
    pub duration: Duration,
    /// When this version was first observed here.
    pub observed_at: Instant,
}

impl ObservedLease {
    /// This observation, or the time of the last one if the version is still the same.
    #[must_use]
    pub fn or_first_seen(self, last: Option<&Self>) -> Self {
        match last {
            Some(last) if last.version == self.version => Self {
                observed_at: last.observed_at,
                ..self
            },
            _ => self,
        }
    }
}

/// This replica.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its identity, which no other replica has.
    pub identity: &'a str,
    /// When the last successful renewal was sent, if this replica leads.
    pub renewed_at: Option<Instant>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create the lease with this replica as its holder.
    Create,
    /// Write this replica as the holder, if the version is still the observed one.
    Acquire,
    /// Renew it, if the version is still the observed one.
    Renew,
    /// Read the lease again after this time.
    Wait(Duration),
    /// Stop leading at once.
    Resign,
}

/// The next step.
#[must_use]
pub fn decide(now: Instant, lease: Option<&ObservedLease>, candidate: &Candidate<'_>) -> Step {
    let holder = lease.and_then(|lease| lease.holder.as_deref());
    match (candidate.renewed_at, lease) {
        (Some(renewed_at), _) if now.saturating_duration_since(renewed_at) >= RENEW_DEADLINE => {
            Step::Resign
        }
        // It does not exist yet, or a user deleted it.
        (_, None) => Step::Create,
        (Some(_), Some(_)) if holder != Some(candidate.identity) => Step::Resign,
        (Some(renewed_at), Some(_)) => {
            let rest = RENEW_INTERVAL.saturating_sub(now.saturating_duration_since(renewed_at));
            if rest.is_zero() {
                Step::Renew
            } else {
                Step::Wait(rest)
            }
        }
        // The own identity: the answer to a write was lost.
        (None, Some(_)) if holder.is_none_or(|holder| holder == candidate.identity) => {
            Step::Acquire
        }
        (None, Some(lease)) => {
            let duration = lease.duration.clamp(LEASE_DURATION, MAX_LEASE_DURATION);
            let rest = duration.saturating_sub(now.saturating_duration_since(lease.observed_at));
            if rest.is_zero() {
                Step::Acquire
            } else {
                Step::Wait(rest.min(RETRY_PERIOD))
            }
        }
    }
}

#[cfg(test)]
mod tests;

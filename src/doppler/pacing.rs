//! Who must not be asked again yet.
//!
//! In: what each answer said about its token's limit. Out: how long the next request with that token has to wait. Remembers a digest of a token,
//! never the token, and a bounded number of them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{Coordinates, RateLimit};

/// More tokens than an installation has bindings for. Beyond it the longest unseen one is forgotten, at the cost of one request that may be refused.
const MOST_TOKENS: usize = 4096;

/// A token at a host: what Doppler's limits are counted by.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    origin: String,
    token: [u8; 32],
}

impl Key {
    pub(super) fn of(at: &Coordinates) -> Self {
        Self {
            origin: at.host.origin().ascii_serialization(),
            token: Sha256::digest(at.token.expose_secret()).into(),
        }
    }
}

struct Seen {
    rate: Option<RateLimit>,
    not_before: Instant,
    at: Instant,
}

#[derive(Default)]
pub(super) struct Pacing(Mutex<HashMap<Key, Seen>>);

impl Pacing {
    /// How long the next request has to wait, if it has to.
    pub(super) fn wait(&self, key: &Key, now: Instant) -> Option<Duration> {
        let not_before = self.lock().get(key)?.not_before;
        not_before
            .checked_duration_since(now)
            .filter(|wait| !wait.is_zero())
    }

    /// What the last answer said about the limit.
    pub(super) fn rate(&self, key: &Key) -> Option<RateLimit> {
        self.lock().get(key)?.rate
    }

    /// Takes note of an answer. A wait that holds already is never shortened, since answers may overtake each other.
    pub(super) fn note(
        &self,
        key: Key,
        rate: Option<RateLimit>,
        wait: Option<Duration>,
        now: Instant,
    ) {
        if rate.is_none() && wait.is_none() {
            return;
        }
        let not_before = now + wait.unwrap_or_default();
        let mut seen = self.lock();
        if let Some(entry) = seen.get_mut(&key) {
            entry.rate = rate.or(entry.rate);
            entry.not_before = entry.not_before.max(not_before);
            entry.at = now;
            return;
        }
        if seen.len() >= MOST_TOKENS {
            let longest_unseen = seen.iter().min_by_key(|(_, entry)| entry.at);
            if let Some(key) = longest_unseen.map(|(key, _)| key.clone()) {
                seen.remove(&key);
            }
        }
        let entry = Seen {
            rate,
            not_before,
            at: now,
        };
        seen.insert(key, entry);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Seen>> {
        // What is in the map is whole even if a thread died holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn key(token: &str) -> Key {
        Key {
            origin: "https://api.doppler.com".to_owned(),
            token: Sha256::digest(token).into(),
        }
    }

    #[test]
    fn holds_one_token_back_until_its_time_and_no_other() {
        let (pacing, now) = (Pacing::default(), Instant::now());
        pacing.note(key("a"), None, Some(MINUTE), now);
        assert_eq!(pacing.wait(&key("a"), now), Some(MINUTE));
        assert_eq!(pacing.wait(&key("a"), now + MINUTE), None);
        assert_eq!(pacing.wait(&key("b"), now), None);
    }

    #[test]
    fn an_answer_that_was_overtaken_does_not_end_a_wait() {
        let (pacing, now) = (Pacing::default(), Instant::now());
        pacing.note(key("a"), None, Some(MINUTE), now);
        let rate = RateLimit {
            limit: 240,
            remaining: 1,
            reset_at: jiff::Timestamp::UNIX_EPOCH,
        };
        pacing.note(key("a"), Some(rate), None, now);
        assert_eq!(pacing.wait(&key("a"), now), Some(MINUTE));
        assert_eq!(pacing.rate(&key("a")), Some(rate));
    }

    #[test]
    fn remembers_a_bounded_number_and_forgets_the_longest_unseen() {
        let (pacing, now) = (Pacing::default(), Instant::now());
        for index in 0..=MOST_TOKENS {
            let at = now + Duration::from_millis(u64::try_from(index).unwrap());
            pacing.note(key(&index.to_string()), None, Some(MINUTE), at);
        }
        assert_eq!(pacing.lock().len(), MOST_TOKENS);
        assert_eq!(pacing.wait(&key("0"), now), None);
        assert!(pacing.wait(&key(&MOST_TOKENS.to_string()), now).is_some());
    }
}

//! Pure: what the API server answered for a token, for a short time.
//!
//! Input: tokens, answers, and the time.
//! Output: the answer that is still valid.
//! Invariants: it reads no clock and keeps no token, only its SHA-256. At most [`MAX_ANSWERS`]
//! answers are kept. A flood of refused tokens does not remove the answer of an allowed one.

use std::{collections::HashMap, time::Duration};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::decision::Access;

/// How long a token stays allowed, as in controller-runtime. So long a revoked one is accepted.
pub const ALLOWED_TTL: Duration = Duration::from_mins(1);
/// The age at which the answer of an allowed token is asked for again, while it still counts.
pub const REFRESH_AGE: Duration = Duration::from_secs(20);
/// The time between two attempts to do so.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// How long a token stays refused. So long a new permission has no effect.
pub const REFUSED_TTL: Duration = Duration::from_secs(10);
/// The maximum number of answers.
pub const MAX_ANSWERS: usize = 128;

/// The hash of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of this token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

/// The answers that are known.
#[derive(Default)]
pub struct AnswerCache(HashMap<TokenHash, Answer>);

#[derive(Clone, Copy)]
struct Answer {
    access: Access,
    until: Instant,
    refresh_at: Instant,
}

/// An answer that still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedAnswer {
    /// What the client may do.
    pub access: Access,
    /// Whether to ask for the answer again now.
    pub refresh: bool,
}

impl AnswerCache {
    /// The answer for a token, if it is still valid. A refresh is due at most once per interval, so
    /// that a client which returns in time never waits for a review.
    pub fn get(&mut self, token: &TokenHash, now: Instant) -> Option<CachedAnswer> {
        let answer = self.0.get_mut(token).filter(|answer| now < answer.until)?;
        let refresh = answer.access == Access::Allowed && answer.refresh_at <= now;
        if refresh {
            answer.refresh_at = now + REFRESH_INTERVAL;
        }
        Some(CachedAnswer {
            access: answer.access,
            refresh,
        })
    }

    /// Keeps an answer. If there are too many, the one goes that would be invalid first, and allowed
    /// ones last.
    pub fn insert(&mut self, token: TokenHash, access: Access, now: Instant) {
        self.0.retain(|_, answer| now < answer.until);
        let ttl = match access {
            Access::Allowed => ALLOWED_TTL,
            Access::Unauthenticated | Access::Forbidden => REFUSED_TTL,
        };
        let answer = Answer {
            access,
            until: now + ttl,
            refresh_at: now + REFRESH_AGE,
        };
        self.0.insert(token, answer);
        while self.0.len() > MAX_ANSWERS {
            let answers = self.0.iter();
            let first = answers
                .min_by_key(|(_, answer)| (answer.access == Access::Allowed, answer.until))
                .map(|(token, _)| *token);
            let Some(first) = first else { return };
            self.0.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: usize) -> TokenHash {
        TokenHash::of(&number.to_string())
    }

    fn access(cache: &mut AnswerCache, number: usize, now: Instant) -> Option<Access> {
        cache.get(&token(number), now).map(|answer| answer.access)
    }

    #[test]
    fn answers_expire() {
        let (mut cache, now) = (AnswerCache::default(), Instant::now());
        cache.insert(token(1), Access::Allowed, now);
        cache.insert(token(2), Access::Forbidden, now);
        assert_eq!(access(&mut cache, 1, now), Some(Access::Allowed));
        assert_eq!(access(&mut cache, 2, now), Some(Access::Forbidden));
        assert_eq!(access(&mut cache, 3, now), None);
        let later = now + REFUSED_TTL;
        assert_eq!(access(&mut cache, 1, later), Some(Access::Allowed));
        assert_eq!(access(&mut cache, 2, later), None);
        assert_eq!(access(&mut cache, 1, now + ALLOWED_TTL), None);
    }

    #[test]
    fn only_allowed_answers_are_refreshed_once_per_interval() {
        let (mut cache, start) = (AnswerCache::default(), Instant::now());
        cache.insert(token(1), Access::Allowed, start);
        cache.insert(token(2), Access::Forbidden, start);
        let mut refresh = |number, now| cache.get(&token(number), now).unwrap().refresh;
        let before = start + REFUSED_TTL - Duration::from_millis(1);
        assert!(!refresh(1, before) && !refresh(2, before));
        let due = start + REFRESH_AGE;
        assert!(refresh(1, due) && !refresh(1, due));
        assert!(refresh(1, due + REFRESH_INTERVAL));
        cache.insert(token(1), Access::Allowed, due);
        let again = due + REFRESH_INTERVAL;
        assert!(!cache.get(&token(1), again).unwrap().refresh);
    }

    #[test]
    fn flood_of_refused_tokens_keeps_the_allowed_one() {
        let (mut cache, now) = (AnswerCache::default(), Instant::now());
        cache.insert(token(0), Access::Allowed, now);
        for number in 1..10 * MAX_ANSWERS {
            cache.insert(token(number), Access::Unauthenticated, now);
            assert!(cache.0.len() <= MAX_ANSWERS);
        }
        assert_eq!(access(&mut cache, 0, now), Some(Access::Allowed));
    }

    #[test]
    fn many_allowed_tokens_are_bounded_too() {
        let (mut cache, mut now) = (AnswerCache::default(), Instant::now());
        for number in 0..2 * MAX_ANSWERS {
            now += Duration::from_millis(1);
            cache.insert(token(number), Access::Allowed, now);
        }
        assert_eq!(cache.0.len(), MAX_ANSWERS);
        assert_eq!(access(&mut cache, 0, now), None);
        let last = access(&mut cache, 2 * MAX_ANSWERS - 1, now);
        assert_eq!(last, Some(Access::Allowed));
    }
}

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
}

impl AnswerCache {
    /// The answer for a token, if it is still valid.
    pub fn get(&self, token: &TokenHash, now: Instant) -> Option<Access> {
        let answer = self.0.get(token)?;
        (now < answer.until).then_some(answer.access)
    }

    /// Keeps an answer. If there are too many, the one goes that would be invalid first, and allowed
    /// ones last.
    pub fn insert(&mut self, token: TokenHash, access: Access, now: Instant) {
        self.0.retain(|_, answer| now < answer.until);
        let ttl = match access {
            Access::Allowed => ALLOWED_TTL,
            Access::Unauthenticated | Access::Forbidden => REFUSED_TTL,
        };
        let until = now + ttl;
        self.0.insert(token, Answer { access, until });
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

    #[test]
    fn answers_expire() {
        let (mut cache, now) = (AnswerCache::default(), Instant::now());
        cache.insert(token(1), Access::Allowed, now);
        cache.insert(token(2), Access::Forbidden, now);
        assert_eq!(cache.get(&token(1), now), Some(Access::Allowed));
        assert_eq!(cache.get(&token(2), now), Some(Access::Forbidden));
        assert_eq!(cache.get(&token(3), now), None);
        let later = now + REFUSED_TTL;
        assert_eq!(cache.get(&token(1), later), Some(Access::Allowed));
        assert_eq!(cache.get(&token(2), later), None);
        assert_eq!(cache.get(&token(1), now + ALLOWED_TTL), None);
    }

    #[test]
    fn flood_of_refused_tokens_keeps_the_allowed_one() {
        let (mut cache, now) = (AnswerCache::default(), Instant::now());
        cache.insert(token(0), Access::Allowed, now);
        for number in 1..10 * MAX_ANSWERS {
            cache.insert(token(number), Access::Unauthenticated, now);
            assert!(cache.0.len() <= MAX_ANSWERS);
        }
        assert_eq!(cache.get(&token(0), now), Some(Access::Allowed));
    }

    #[test]
    fn many_allowed_tokens_are_bounded_too() {
        let (mut cache, mut now) = (AnswerCache::default(), Instant::now());
        for number in 0..2 * MAX_ANSWERS {
            now += Duration::from_millis(1);
            cache.insert(token(number), Access::Allowed, now);
        }
        assert_eq!(cache.0.len(), MAX_ANSWERS);
        assert_eq!(cache.get(&token(0), now), None);
        let last = token(2 * MAX_ANSWERS - 1);
        assert_eq!(cache.get(&last, now), Some(Access::Allowed));
    }
}

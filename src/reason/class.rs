//! What the operator does next, and which reasons are failures of an upstream.
//!
//! Input: a reason.
//! Output: its [`Class`], and whether an upstream failed.
//! Invariants: data only.

use super::Reason;

/// What the operator does next, by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// No error. Polling continues.
    Settled,
    /// The error may disappear by itself. The operator retries with backoff.
    Retry,
    /// The upstream has set a time. The operator retries then.
    WaitUntil,
    /// Only a change by a user can help. The operator retries when a dependency changes, and at the
    /// refresh interval.
    WaitForChange,
    /// The operator has given up.
    GivenUp,
}

impl Class {
    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Settled => "keeps polling",
            Self::Retry => "retries with backoff",
            Self::WaitUntil => "retries when the upstream allows it",
            Self::GivenUp => "does not try again",
            Self::WaitForChange => "retries when a dependency changes, and at the refresh interval",
        }
    }
}

impl Reason {
    /// The reason with this word, as a condition has it.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|reason| reason.as_str() == word)
    }

    /// Whether an upstream is unreachable or returned nothing usable.
    #[must_use]
    pub const fn is_upstream_failure(self) -> bool {
        matches!(
            self,
            Self::PrefectUnreachable
                | Self::PrefectUnauthorized
                | Self::PrefectForbidden
                | Self::PrefectRateLimited
                | Self::PrefectWrongUrl
                | Self::PrefectError
                | Self::BlockMissing
                | Self::BlockInvalid
                | Self::BlockMasked
                | Self::BlockIncomplete
                | Self::DopplerUnreachable
                | Self::DopplerUnauthorized
                | Self::DopplerForbidden
                | Self::IdentityRefused
                | Self::IdentityNotInPlan
                | Self::ConfigMissing
                | Self::DopplerRateLimited
                | Self::DopplerError
                | Self::AnswerTooLarge
                | Self::ConfigIncomplete
                | Self::NamesLost
        )
    }
}

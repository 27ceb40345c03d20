//! What a request to Doppler authenticates with.
//!
//! Input: a token of a block or a Secret, or an identity.
//! Output: [`Credential`]: part of the key of a config, and the source of the bearer token.
//! Invariants: two credentials are equal if they give access in the same way; for an identity its
//! current token does not count. `Debug` prints no token.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{
    error::DopplerError,
    identity::{Identity, IdentityKey},
};

/// What a request authenticates with.
#[derive(Clone)]
pub enum Credential {
    /// A token that does not change.
    Token(SecretString),
    /// An identity, whose tokens the operator requests and renews.
    Identity(Arc<Identity>),
}

/// What makes two credentials equal.
#[derive(PartialEq, Eq, Hash)]
enum Part<'a> {
    Token(&'a str),
    Identity(&'a IdentityKey),
}

impl Credential {
    /// The token for the next request.
    ///
    /// # Errors
    /// If an identity has no valid token, and none can be had.
    pub(super) async fn token(&self) -> Result<SecretString, DopplerError> {
        match self {
            Self::Token(token) => Ok(token.clone()),
            Self::Identity(identity) => identity.token().await,
        }
    }

    /// Drops a token that Doppler rejects. True if another one can be requested.
    pub(super) fn discard(&self, rejected: &SecretString) -> bool {
        match self {
            Self::Token(_) => false,
            Self::Identity(identity) => {
                identity.discard(rejected);
                true
            }
        }
    }

    /// The error of a request, in terms of the credential.
    pub(super) fn explain(&self, error: DopplerError) -> DopplerError {
        match self {
            Self::Token(_) => error,
            Self::Identity(identity) => identity.explain(error),
        }
    }

    /// Adds to a digest what makes two credentials equal.
    pub(super) fn digest(&self, digest: Sha256) -> Sha256 {
        match self {
            Self::Token(token) => digest.chain_update(token.expose_secret()),
            Self::Identity(identity) => identity.key().digest(digest),
        }
    }

    fn part(&self) -> Part<'_> {
        match self {
            Self::Token(token) => Part::Token(token.expose_secret()),
            Self::Identity(identity) => Part::Identity(identity.key()),
        }
    }
}

impl From<&str> for Credential {
    fn from(token: &str) -> Self {
        Self::Token(token.into())
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.part() == other.part()
    }
}

impl Eq for Credential {}

impl Hash for Credential {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.part().hash(state);
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token"),
            Self::Identity(identity) => f.debug_tuple("Identity").field(identity.key()).finish(),
        }
    }
}

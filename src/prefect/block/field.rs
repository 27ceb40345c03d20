//! The Doppler fields of a block: project, config, and a token or an identity.
//!
//! Input: texts of a block, or of the binding that overrides them.
//! Output: [`BlockFields`], and [`CompleteFields`] once none is missing.
//! Invariants: pure. No type here has a `Debug` that prints the token.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// One of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The Doppler project.
    Project,
    /// The Doppler config.
    Config,
    /// The token that reads it.
    AccessToken,
    /// The id of the Doppler identity that reads it, in place of a token.
    Identity,
}

impl Field {
    pub(super) const ALL: [Self; 4] = [
        Self::Project,
        Self::Config,
        Self::AccessToken,
        Self::Identity,
    ];

    /// The key in a block.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Config => "config",
            Self::AccessToken => "access_token",
            Self::Identity => "identity",
        }
    }

    /// The path in a binding.
    #[must_use]
    pub const fn spec_path(self) -> &'static str {
        match self {
            Self::Project => "spec.doppler.project",
            Self::Config => "spec.doppler.config",
            Self::AccessToken => "spec.doppler.accessToken",
            Self::Identity => "spec.doppler.identity.id",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// The fields of a block, or those that a binding sets instead. `None`: the field is not set.
#[derive(Clone, Default)]
pub struct BlockFields {
    /// The Doppler project.
    pub project: Option<String>,
    /// The Doppler config.
    pub config: Option<String>,
    /// The token that reads it.
    pub access_token: Option<SecretString>,
    /// The id of the Doppler identity that reads it.
    pub identity: Option<String>,
    /// Whether the identity is used, and not the token. Only a binding can say so, because it names
    /// the service account.
    pub uses_identity: bool,
}

/// The token or the identity of complete fields, not empty.
#[derive(Clone)]
pub enum FieldCredential {
    /// A Doppler token.
    Token(SecretString),
    /// The id of a Doppler identity.
    Identity(String),
}

/// All fields, none of them empty.
#[derive(Clone)]
pub struct CompleteFields {
    /// The Doppler project.
    pub project: String,
    /// The Doppler config.
    pub config: String,
    /// What reads it.
    pub credential: FieldCredential,
}

impl BlockFields {
    /// The fields that are not set, or empty. Of token and identity, the one that is used counts.
    #[must_use]
    pub fn missing(&self) -> Vec<Field> {
        let unused = if self.uses_identity {
            Field::AccessToken
        } else {
            Field::Identity
        };
        Field::ALL
            .into_iter()
            .filter(|field| *field != unused)
            .filter(|field| {
                match field {
                    Field::Project => self.project.as_deref(),
                    Field::Config => self.config.as_deref(),
                    Field::AccessToken => {
                        self.access_token.as_ref().map(ExposeSecret::expose_secret)
                    }
                    Field::Identity => self.identity.as_deref(),
                }
                .is_none_or(str::is_empty)
            })
            .collect()
    }

    /// The token or the identity that is used.
    pub(super) fn credential(&mut self) -> Option<FieldCredential> {
        if self.uses_identity {
            self.identity.take().map(FieldCredential::Identity)
        } else {
            self.access_token.take().map(FieldCredential::Token)
        }
    }

    /// These fields, each replaced by that of `overrides` where it is set.
    #[must_use]
    pub fn overridden_by(self, overrides: Self) -> Self {
        Self {
            project: overrides.project.or(self.project),
            config: overrides.config.or(self.config),
            access_token: overrides.access_token.or(self.access_token),
            identity: overrides.identity.or(self.identity),
            uses_identity: overrides.uses_identity,
        }
    }
}

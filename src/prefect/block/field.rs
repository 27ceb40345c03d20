//! The three Doppler fields of a block.
//!
//! Input: texts of a block, or of the binding that overrides them.
//! Output: [`BlockFields`], and [`CompleteFields`] once none is missing.
//! Invariants: pure. No type here has a `Debug` that prints the token.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// One of the three fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The Doppler project.
    Project,
    /// The Doppler config.
    Config,
    /// The token that reads it.
    AccessToken,
}

impl Field {
    pub(super) const ALL: [Self; 3] = [Self::Project, Self::Config, Self::AccessToken];

    /// The key in a block.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Config => "config",
            Self::AccessToken => "access_token",
        }
    }

    /// The path in a binding.
    #[must_use]
    pub const fn spec_path(self) -> &'static str {
        match self {
            Self::Project => "spec.doppler.project",
            Self::Config => "spec.doppler.config",
            Self::AccessToken => "spec.doppler.accessToken",
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
}

/// All three fields, none of them empty.
#[derive(Clone)]
pub struct CompleteFields {
    /// The Doppler project.
    pub project: String,
    /// The Doppler config.
    pub config: String,
    /// The token that reads it.
    pub access_token: SecretString,
}

impl BlockFields {
    /// The fields that are not set, or empty.
    #[must_use]
    pub fn missing(&self) -> Vec<Field> {
        Field::ALL
            .into_iter()
            .filter(|field| {
                match field {
                    Field::Project => self.project.as_deref(),
                    Field::Config => self.config.as_deref(),
                    Field::AccessToken => {
                        self.access_token.as_ref().map(ExposeSecret::expose_secret)
                    }
                }
                .is_none_or(str::is_empty)
            })
            .collect()
    }

    /// These fields, each replaced by that of `overrides` where it is set.
    #[must_use]
    pub fn overridden_by(self, overrides: Self) -> Self {
        Self {
            project: overrides.project.or(self.project),
            config: overrides.config.or(self.config),
            access_token: overrides.access_token.or(self.access_token),
        }
    }
}

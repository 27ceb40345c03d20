//! Signed webhooks: whether Doppler sent one, and which configs it affects.
//!
//! Input: webhook secrets (the name and content of a file each), a signature header, a raw body.
//! Output: `None` for a body that none of the secrets signed, or a [`Webhook`]: the projects that
//! its secret covers, and the config that the body names.
//! Invariants: pure. The body may have any shape, because users can replace it. A webhook carries
//! no values: it only triggers a read, and only the names in it are kept.

use std::{collections::BTreeSet, fmt};

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::Value;
use sha2::Sha256;

use crate::bounded_json;

/// The signature header: `sha256=`, then the HMAC-SHA-256 of the raw body in hexadecimal.
pub const SIGNATURE_HEADER: &str = "x-doppler-signature";
/// Shorter secrets can be guessed.
pub const MIN_SECRET_BYTES: usize = 16;
/// Longer files are not secrets.
pub const MAX_SECRET_BYTES: usize = 4096;
/// Secrets that may be valid at once: each body is verified with every secret.
pub const MAX_SECRETS: usize = 64;
/// File name, up to the first dot, of a secret that covers all projects.
const ALL: &str = "_all";
/// Doppler's names are shorter.
const MAX_NAME_BYTES: usize = 256;
/// The bound on the JSON values of a body. Doppler's own has about 20.
const MAX_VALUES: usize = 10_000;

/// The projects that a webhook secret covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WebhookScope {
    /// All projects.
    All,
    /// These projects. There are several only if files of several projects hold the same secret.
    Projects(BTreeSet<String>),
}

impl WebhookScope {
    /// The scope of a file: `PROJECT` and `PROJECT.anything` cover the project, `_all` and
    /// `_all.anything` cover all projects.
    fn from_file_name(file_name: &str) -> Option<Self> {
        let name = file_name.split('.').next().unwrap_or_default();
        match name {
            ALL => Some(Self::All),
            "" => None,
            project => Some(Self::Projects(BTreeSet::from([project.to_owned()]))),
        }
    }

    /// Whether the secret covers this project.
    #[must_use]
    pub fn covers(&self, project: &str) -> bool {
        match self {
            Self::All => true,
            Self::Projects(projects) => projects.contains(project),
        }
    }

    fn merge(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Projects(mut projects), Self::Projects(others)) => {
                projects.extend(others.iter().cloned());
                Self::Projects(projects)
            }
            _ => Self::All,
        }
    }
}

/// A webhook whose signature is valid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Webhook {
    /// The scope of the secret that signed it.
    pub scope: WebhookScope,
    /// Project and config, if the body names them.
    pub target: Option<(String, String)>,
}

impl Webhook {
    /// Whether this config must be read again.
    #[must_use]
    pub fn affects(&self, project: &str, config: &str) -> bool {
        let targeted = self.target.as_ref().is_none_or(|target| {
            let (target_project, target_config) = target;
            target_project == project && target_config == config
        });
        targeted && self.scope.covers(project)
    }
}

/// Why a file is not used as a webhook secret. The text continues a sentence about the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookSecretError {
    /// The secret is too short.
    #[error("it is shorter than {MIN_SECRET_BYTES} bytes and can be guessed: use a longer secret")]
    TooShort,
    /// The secret is too long.
    #[error("it is longer than {MAX_SECRET_BYTES} bytes: use a shorter secret")]
    TooLong,
    /// The name of the file yields no scope.
    #[error(
        "its name has no scope: name it after the Doppler project, or {ALL} for all projects; a suffix after a dot is ignored"
    )]
    NoScope,
    /// There are too many files.
    #[error(
        "there are already {MAX_SECRETS} secrets, the maximum: delete secrets that are not used"
    )]
    TooMany,
}

/// A secret that signs webhooks.
pub struct WebhookSecret {
    scope: WebhookScope,
    key: SecretSlice<u8>,
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSecret")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl PartialEq for WebhookSecret {
    fn eq(&self, other: &Self) -> bool {
        self.scope == other.scope && self.key.expose_secret() == other.key.expose_secret()
    }
}

impl WebhookSecret {
    /// The secret in a file. One newline at the end of the file is not part of the secret.
    ///
    /// # Errors
    /// If the file's name yields no scope, or the content is too short or too long.
    pub fn new(file_name: &str, content: &[u8]) -> Result<Self, WebhookSecretError> {
        let scope = WebhookScope::from_file_name(file_name).ok_or(WebhookSecretError::NoScope)?;
        let key = content.strip_suffix(b"\n").unwrap_or(content);
        let key = key.strip_suffix(b"\r").unwrap_or(key);
        match key.len() {
            ..MIN_SECRET_BYTES => Err(WebhookSecretError::TooShort),
            MIN_SECRET_BYTES..=MAX_SECRET_BYTES => Ok(Self {
                scope,
                key: key.to_vec().into(),
            }),
            _ => Err(WebhookSecretError::TooLong),
        }
    }

    fn verifies(&self, signature: &[u8], body: &[u8]) -> bool {
        Hmac::<Sha256>::new_from_slice(self.key.expose_secret())
            .is_ok_and(|mac| mac.chain_update(body).verify_slice(signature).is_ok())
    }
}

/// The secrets that are valid now.
#[derive(Debug, Default, PartialEq)]
pub struct WebhookSecrets(Vec<WebhookSecret>);

impl FromIterator<WebhookSecret> for WebhookSecrets {
    fn from_iter<I: IntoIterator<Item = WebhookSecret>>(secrets: I) -> Self {
        Self(secrets.into_iter().take(MAX_SECRETS).collect())
    }
}

impl WebhookSecrets {
    /// The number of secrets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no secrets, so that every webhook is rejected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the webhook if one of the secrets signed this body. `signature` is the value of the
    /// header.
    #[must_use]
    pub fn verify(&self, signature: &[u8], body: &[u8]) -> Option<Webhook> {
        let signature = parse_signature(signature)?;
        // Every secret is tried, so the duration does not reveal which secret matched.
        let scope = self
            .0
            .iter()
            .fold(None, |found: Option<WebhookScope>, secret| {
                if !secret.verifies(&signature, body) {
                    return found;
                }
                Some(match found {
                    Some(scope) => scope.merge(&secret.scope),
                    None => secret.scope.clone(),
                })
            })?;
        Some(Webhook {
            scope,
            target: parse_target(body),
        })
    }
}

/// Parses the 32 bytes of `sha256=…`. Returns `None` if the header has another form.
#[must_use]
pub fn parse_signature(header: &[u8]) -> Option<[u8; 32]> {
    let hex = header.strip_prefix(b"sha256=")?;
    if hex.len() != 64 {
        return None;
    }
    let mut signature = [0; 32];
    for (byte, pair) in signature.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(signature)
}

fn hex_digit(hex: u8) -> Option<u8> {
    char::from(hex)
        .to_digit(16)
        .and_then(|digit| digit.try_into().ok())
}

/// Parses project and config, in Doppler's own shape or as two strings.
fn parse_target(body: &[u8]) -> Option<(String, String)> {
    if !bounded_json::is_within(body, MAX_VALUES) {
        return None;
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    let project = name_field(&body["config"], "project")
        .or_else(|| {
            ["slug", "id", "name"]
                .iter()
                .find_map(|key| name_field(&body["project"], key))
        })
        .or_else(|| name_field(&body, "project"))?;
    let config = name_field(&body["config"], "name").or_else(|| name_field(&body, "config"))?;
    Some((project.to_owned(), config.to_owned()))
}

fn name_field<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    let name = object.get(key)?.as_str()?;
    (1..=MAX_NAME_BYTES).contains(&name.len()).then_some(name)
}

#[cfg(test)]
mod tests;

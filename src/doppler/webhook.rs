//! Signed hooks: whether Doppler sent it, and what it is about.
//!
//! In: hook secrets (a file's name and content each), a signature header, a raw body. Out: nothing for a body that none of the secrets signed, or a
//! [`Webhook`]: which projects its secret speaks for, and the config that the body names. The body may have any shape, since users may replace it. A
//! hook never carries values: it says "read again", and nothing in it is kept beyond the names.

use std::{collections::BTreeSet, fmt};

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::Value;
use sha2::Sha256;

/// The header with the signature: `sha256=`, and HMAC-SHA-256 of the raw body in hexadecimal.
pub const SIGNATURE_HEADER: &str = "x-doppler-signature";
/// Shorter secrets can be guessed.
pub const MIN_SECRET_BYTES: usize = 16;
/// Longer files are no secrets.
pub const MAX_SECRET_BYTES: usize = 4096;
/// Secrets that may be valid at once: a body is held against each.
pub const MAX_SECRETS: usize = 64;
/// File name, up to the first dot, of a secret that speaks for all projects.
const ALL: &str = "_all";
/// Longer names are none of Doppler's.
const MAX_NAME_BYTES: usize = 256;

/// What a hook secret speaks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All projects.
    All,
    /// These projects. More than one only where files of several projects hold the same secret.
    Projects(BTreeSet<String>),
}

impl Scope {
    /// What a file of this name speaks for: `PROJECT` and `PROJECT.anything` for the project, `_all` and `_all.anything` for all.
    fn from_file_name(file_name: &str) -> Option<Self> {
        let name = file_name.split('.').next().unwrap_or_default();
        match name {
            ALL => Some(Self::All),
            "" => None,
            project => Some(Self::Projects(BTreeSet::from([project.to_owned()]))),
        }
    }

    fn covers(&self, project: &str) -> bool {
        match self {
            Self::All => true,
            Self::Projects(projects) => projects.contains(project),
        }
    }

    fn merge(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Projects(mut mine), Self::Projects(others)) => {
                mine.extend(others.iter().cloned());
                Self::Projects(mine)
            }
            _ => Self::All,
        }
    }
}

/// A hook whose signature is right.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Webhook {
    /// What the secret that signed it speaks for.
    pub scope: Scope,
    /// Project and config, if the body names them.
    pub target: Option<(String, String)>,
}

impl Webhook {
    /// Whether this config is to be read again.
    #[must_use]
    pub fn affects(&self, project: &str, config: &str) -> bool {
        let named = self
            .target
            .as_ref()
            .is_none_or(|(its_project, its_config)| its_project == project && its_config == config);
        named && self.scope.covers(project)
    }
}

/// Why a file is no hook secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookSecretError {
    /// Too short.
    #[error(
        "it is shorter than {MIN_SECRET_BYTES} bytes, and could be guessed: write a longer one"
    )]
    TooShort,
    /// Too long.
    #[error("it is longer than {MAX_SECRET_BYTES} bytes, which is no hook secret")]
    TooLong,
    /// The name says nothing.
    #[error(
        "its name says nothing: name it after the Doppler project, or {ALL} for all projects; what follows a dot is yours"
    )]
    NoScope,
    /// Too many.
    #[error("there are {MAX_SECRETS} others before it, and no more are taken")]
    TooMany,
}

/// A secret that hooks are signed with.
pub struct WebhookSecret {
    scope: Scope,
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
    /// The secret in a file. One newline at its end is not part of it.
    ///
    /// # Errors
    /// If the name says no scope, or the content is too short or too long.
    pub fn new(file_name: &str, content: &[u8]) -> Result<Self, WebhookSecretError> {
        let scope = Scope::from_file_name(file_name).ok_or(WebhookSecretError::NoScope)?;
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

/// All secrets that are valid now.
#[derive(Debug, Default, PartialEq)]
pub struct WebhookSecrets(Vec<WebhookSecret>);

impl FromIterator<WebhookSecret> for WebhookSecrets {
    fn from_iter<I: IntoIterator<Item = WebhookSecret>>(secrets: I) -> Self {
        Self(secrets.into_iter().take(MAX_SECRETS).collect())
    }
}

impl WebhookSecrets {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none, so that no hook is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The hook, if one of the secrets signed this body. `signature` is the header's value.
    #[must_use]
    pub fn verify(&self, signature: &[u8], body: &[u8]) -> Option<Webhook> {
        let signature = parse_signature(signature)?;
        // Each secret is tried, whichever fits: how long it takes says nothing.
        let scope = self.0.iter().fold(None, |found: Option<Scope>, secret| {
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

/// The 32 bytes of `sha256=…`; nothing if that is not what it is.
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

/// Project and config, in Doppler's own shape or as two strings.
fn parse_target(body: &[u8]) -> Option<(String, String)> {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "canary-canary-canary";

    fn sign(secret: &[u8], body: &[u8]) -> String {
        use std::fmt::Write;
        let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        let bytes = mac.chain_update(body).finalize().into_bytes();
        let mut text = "sha256=".to_owned();
        for byte in bytes {
            write!(text, "{byte:02x}").unwrap();
        }
        text
    }

    fn secrets(files: &[(&str, &str)]) -> WebhookSecrets {
        files
            .iter()
            .map(|(name, content)| WebhookSecret::new(name, content.as_bytes()).unwrap())
            .collect()
    }

    fn projects(names: &[&str]) -> Scope {
        Scope::Projects(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn at(body: &str) -> Option<(String, String)> {
        parse_target(body.as_bytes())
    }

    #[test]
    fn verifies_the_signature_of_rfc_4231() {
        let key = WebhookSecret::new("_all", &[0x0b; 20]).unwrap();
        let header = b"sha256=b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        let hook = WebhookSecrets(vec![key])
            .verify(header, b"Hi There")
            .unwrap();
        assert_eq!(hook.scope, Scope::All);
        assert_eq!(hook.target, None);
    }

    #[test]
    fn each_secret_is_valid_for_its_own_scope() {
        let other = "another-secret-of-the-same";
        let all = secrets(&[
            ("backend", SECRET),
            ("backend.new", other),
            ("_all.x", "the-secret-for-everything"),
        ]);
        for (secret, scope) in [
            (SECRET, projects(&["backend"])),
            (other, projects(&["backend"])),
            ("the-secret-for-everything", Scope::All),
        ] {
            let hook = all.verify(sign(secret.as_bytes(), b"{}").as_bytes(), b"{}");
            assert_eq!(hook.unwrap().scope, scope);
        }
        let unknown = sign(b"a secret that nobody has", b"{}");
        assert_eq!(all.verify(unknown.as_bytes(), b"{}"), None);
    }

    #[test]
    fn a_secret_shared_by_two_files_merges_their_scopes() {
        let both = secrets(&[("a", SECRET), ("b", SECRET)]);
        let hook = both
            .verify(sign(SECRET.as_bytes(), b"").as_bytes(), b"")
            .unwrap();
        assert_eq!(hook.scope, projects(&["a", "b"]));
        let and_all = secrets(&[("a", SECRET), ("_all", SECRET)]);
        let hook = and_all
            .verify(sign(SECRET.as_bytes(), b"").as_bytes(), b"")
            .unwrap();
        assert_eq!(hook.scope, Scope::All);
    }

    #[test]
    fn rejects_malformed_signatures() {
        let all = secrets(&[("_all", SECRET)]);
        let right = sign(SECRET.as_bytes(), b"{}");
        assert!(all.verify(right.as_bytes(), b"{}").is_some());
        assert!(
            all.verify(right.replace("sha256=", "").as_bytes(), b"{}")
                .is_none()
        );
        assert!(
            all.verify(right.replace("256", "1").as_bytes(), b"{}")
                .is_none()
        );
        assert!(all.verify(format!("{right}00").as_bytes(), b"{}").is_none());
        assert!(all.verify(&right.as_bytes()[..69], b"{}").is_none());
        assert!(
            all.verify(right.as_bytes(), b"{} ").is_none(),
            "the raw body counts"
        );
        assert!(all.verify(b"sha256=", b"{}").is_none());
        assert!(
            WebhookSecrets::default()
                .verify(right.as_bytes(), b"{}")
                .is_none()
        );
    }

    #[test]
    fn a_rejected_secret_file_states_the_reason() {
        let refused = |name: &str, content: &[u8]| WebhookSecret::new(name, content).unwrap_err();
        assert_eq!(refused("a", b""), WebhookSecretError::TooShort);
        assert_eq!(
            refused("a", b"fifteen bytes..\n"),
            WebhookSecretError::TooShort
        );
        assert_eq!(refused("a", &[b'x'; 4097]), WebhookSecretError::TooLong);
        assert_eq!(
            refused(".hidden", SECRET.as_bytes()),
            WebhookSecretError::NoScope
        );
        assert!(WebhookSecret::new("a", b"sixteen bytes...\r\n").is_ok());
        let many = (0..99).map(|_| WebhookSecret::new("a", SECRET.as_bytes()).unwrap());
        assert_eq!(many.collect::<WebhookSecrets>().len(), MAX_SECRETS);
    }

    #[test]
    fn strips_the_trailing_newline_of_a_secret_file() {
        for end in ["", "\n", "\r\n"] {
            let all = secrets(&[("_all", &format!("{SECRET}{end}"))]);
            assert!(
                all.verify(sign(SECRET.as_bytes(), b"x").as_bytes(), b"x")
                    .is_some()
            );
        }
    }

    #[test]
    fn parses_the_target_of_nested_and_flat_bodies() {
        let found = Some(("backend".to_owned(), "dev".to_owned()));
        for body in [
            r#"{"type":"config.secrets.update","config":{"name":"dev","environment":"dev","project":"backend"},"project":{"id":"x","name":"Back End"},"diff":{"added":["A"]}}"#,
            r#"{"config":{"name":"dev"},"project":{"id":"7","slug":"backend","name":"Back End"}}"#,
            r#"{"config":{"name":"dev"},"project":{"id":"backend","name":"Back End"}}"#,
            r#"{"config":{"name":"dev"},"project":{"name":"backend"}}"#,
            r#"{"config":"dev","project":"backend","more":[1]}"#,
            r#"{"config":{"name":"dev"},"project":"backend"}"#,
        ] {
            assert_eq!(at(body), found, "{body}");
        }
    }

    #[test]
    fn other_bodies_have_no_target() {
        for body in [
            "",
            "not JSON",
            "null",
            "7",
            "[]",
            r#""backend""#,
            r#"{"project":"backend"}"#,
            r#"{"config":"dev"}"#,
            r#"{"config":{"name":1},"project":{"id":{}}}"#,
            r#"{"config":"","project":"backend"}"#,
        ] {
            assert_eq!(at(body), None, "{body}");
        }
        let long = format!(r#"{{"config":"dev","project":"{}"}}"#, "x".repeat(257));
        assert_eq!(at(&long), None);
    }

    #[test]
    fn a_webhook_affects_its_target_within_its_scope() {
        let hook = |scope: Scope, place: Option<(&str, &str)>| Webhook {
            scope,
            target: place.map(|(project, config)| (project.to_owned(), config.to_owned())),
        };
        let of_a = hook(projects(&["a"]), None);
        assert!(of_a.affects("a", "dev") && of_a.affects("a", "prd") && !of_a.affects("b", "dev"));
        let named = hook(projects(&["a"]), Some(("a", "dev")));
        assert!(named.affects("a", "dev") && !named.affects("a", "prd"));
        let foreign = hook(projects(&["a"]), Some(("b", "dev")));
        assert!(!foreign.affects("a", "dev") && !foreign.affects("b", "dev"));
        let any = hook(Scope::All, Some(("b", "dev")));
        assert!(any.affects("b", "dev") && !any.affects("a", "dev"));
        assert!(hook(Scope::All, None).affects("a", "prd"));
    }

    #[test]
    fn debug_output_omits_the_secret() {
        let all = secrets(&[("_all", SECRET)]);
        assert!(!format!("{all:?} {all:#?}").contains("canary"));
    }

    proptest! {
        #[test]
        fn never_panics_and_never_takes_a_wrong_signature(
            header in proptest::collection::vec(any::<u8>(), 0..90),
            body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let all = secrets(&[("a", SECRET), ("_all", "another-secret-of-all")]);
            prop_assert_eq!(all.verify(&header, &body), None);
            let _ = parse_target(&body);
        }

        #[test]
        fn a_flipped_bit_anywhere_is_refused(body in ".{1,80}", place in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let all = secrets(&[("a", SECRET)]);
            let header = sign(SECRET.as_bytes(), body.as_bytes());
            prop_assert!(all.verify(header.as_bytes(), body.as_bytes()).is_some());
            let mut other = body.clone().into_bytes();
            let at = place.index(other.len());
            other[at] ^= 1 << bit;
            prop_assert_eq!(all.verify(header.as_bytes(), &other), None);
            let mut signature = parse_signature(header.as_bytes()).unwrap();
            signature[place.index(32)] ^= 1 << bit;
            prop_assert!(!all.0[0].verifies(&signature, body.as_bytes()));
        }

        #[test]
        fn whatever_json_is_there_the_place_is_two_names_or_none(project in ".*", config in ".*") {
            let body = serde_json::json!({"project": project, "config": config}).to_string();
            let wanted = [&project, &config].iter().all(|name| (1..=MAX_NAME_BYTES).contains(&name.len()));
            prop_assert_eq!(at(&body), wanted.then_some((project, config)));
        }
    }
}

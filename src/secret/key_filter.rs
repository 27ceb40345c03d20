//! Decides which names may be keys of the Secret.
//!
//! Input: the names of keys, after all renames, and the reserved names that the binding allows.
//! Output: include the name, or why it is excluded and how to include it.
//! Invariants: never sees a value; compares exactly, because names of environment variables are
//! case-sensitive on Linux: `path` is an ordinary name, `PATH` is reserved.

use std::fmt;

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::crd::ManagedSecretSpec;

/// Names that could break or take over the job pod: they choose what a program runs, loads or
/// trusts. A `*` at the end matches any suffix.
pub const RESERVED: &[&str] = &[
    // The container and its shells.
    "PATH",
    "HOME",
    "HOSTNAME",
    "PS1",
    "PS4",
    "PROMPT_COMMAND",
    "IFS",
    "ENV",
    "BASH_ENV",
    "BASHOPTS",
    "SHELLOPTS",
    // The dynamic loader and the C library.
    "LD_*",
    "DYLD_*",
    "GCONV_PATH",
    "LOCPATH",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "RES_OPTIONS",
    // Python and its installers.
    "PYTHON*",
    "PIP_*",
    "UV_*",
    "EXTRA_PIP_PACKAGES",
    // Other languages.
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_EXTRA_CA_CERTS",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "PERL5*",
    "PERLLIB",
    "RUBYOPT",
    "RUBYLIB",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "_JAVA_OPTIONS",
    "CLASSPATH",
    "DOTNET_STARTUP_HOOKS",
    // Whom TLS trusts, and who can read it.
    "OPENSSL_*",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSLKEYLOGFILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    // Programs that tools start, and their configuration.
    "GIT_*",
    "BROWSER",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "KUBECONFIG",
    // What the worker and Kubernetes set.
    "PREFECT_*",
    "KUBERNETES_*",
];

/// Schemes in the names of the variables that choose a proxy: `HTTP_PROXY`, `no_proxy`. Python reads
/// them in any case.
const PROXIES: [&str; 7] = ["http", "https", "all", "no", "ftp", "ws", "wss"];

/// The length limit of a key in Kubernetes.
const MAX_KEY_LENGTH: usize = 253;

/// Linux's limit of `NAME=value` and its final NUL byte, in bytes (`MAX_ARG_STRLEN`).
pub(super) const MAX_VARIABLE_BYTES: usize = 131_072;

/// A glob with a syntax error.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{glob}` in {field} is not a glob: use one such as `DB_*` or `{{API,DB}}_KEY`")]
pub struct InvalidGlob {
    /// The path of the field.
    pub field: String,
    /// The text of the glob.
    pub glob: String,
}

/// Where the spec selects names: for all configs, or for one item of `configs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All configs.
    All,
    /// The config at this position.
    Item(usize),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("spec.doppler"),
            Self::Item(at) => write!(f, "spec.doppler.configs[{at}]"),
        }
    }
}

/// A `--forbidden-name` with a syntax error.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--forbidden-name `{glob}` is not a glob: write one such as `LD_*`")]
pub struct InvalidForbiddenName {
    glob: String,
}

/// The names that the operator's flags forbid in every binding.
#[derive(Clone, Debug, Default)]
pub struct ForbiddenNames(GlobSet);

impl ForbiddenNames {
    /// Parses the globs of `--forbidden-name`.
    ///
    /// # Errors
    /// If a glob has a syntax error.
    pub fn parse(patterns: &[String]) -> Result<Self, InvalidForbiddenName> {
        let invalid = |glob: &str| InvalidForbiddenName {
            glob: glob.to_owned(),
        };
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern).map_err(|_| invalid(pattern))?);
        }
        let set = set.build().map_err(|_| invalid(&patterns.join(",")))?;
        Ok(Self(set))
    }

    /// Whether the flags forbid the name.
    pub(super) fn forbid(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

/// The filter of one binding.
#[derive(Debug)]
pub struct KeyFilter<'a> {
    allowed: &'a [String],
    forbidden: &'a ForbiddenNames,
}

/// Why a name is excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// Kubernetes does not accept it as a key.
    InvalidKey,
    /// Its value contains a NUL byte.
    NulByte,
    /// Its value is too long for an environment variable.
    TooLong,
    /// The operator's flags forbid it.
    Forbidden,
    /// It is one of [`RESERVED`].
    Reserved,
    /// `rename` gives its name to another key.
    Replaced,
    /// `metadata` drops it.
    Metadata,
    /// No glob of `include` matches.
    NotIncluded(Scope),
    /// A glob of `exclude` matches.
    Excluded(Scope),
}

impl Exclusion {
    /// The sentence for the status: why `name` is excluded and how to include it.
    #[must_use]
    pub fn explanation(self, name: &str) -> String {
        match self {
            Self::InvalidKey => format!(
                "Kubernetes does not accept it as a key of a Secret (letters, digits, `-`, `_` and `.`, at most {MAX_KEY_LENGTH} of them); rename it in \
                 Doppler, or set spec.doppler.nameTransformer, to include it"
            ),
            Self::NulByte => "its value contains a NUL byte, and no container starts with such a variable; encode the value, for example as base64, to include it".to_owned(),
            Self::TooLong => format!(
                "its name and value exceed {MAX_VARIABLE_BYTES} bytes, Linux's limit for an environment variable, and no container starts with such a variable; shorten the value to include it"
            ),
            Self::Forbidden => "the operator's flag --forbidden-name forbids it in every binding; rename it in Doppler, or ask the operator's administrator, to include it".to_owned(),
            Self::Reserved => format!(
                "it could break or take over the job pod; add `{name}` to spec.managedSecret.allowReservedNames to include it"
            ),
            Self::Replaced => "spec.doppler.rename gives its name to another key; rename it as well, to include it".to_owned(),
            Self::Metadata => {
                "spec.doppler.metadata drops it; set the field to Keep to include it".to_owned()
            }
            Self::NotIncluded(scope) => {
                format!("no glob of {scope}.include matches it; add a glob to include it")
            }
            Self::Excluded(scope) => {
                format!("a glob of {scope}.exclude matches it; change that glob to include it")
            }
        }
    }
}

impl<'a> KeyFilter<'a> {
    /// The filter of a binding.
    #[must_use]
    pub fn new(managed: &'a ManagedSecretSpec, forbidden: &'a ForbiddenNames) -> Self {
        Self {
            allowed: &managed.allow_reserved_names,
            forbidden,
        }
    }

    /// Why `name` is excluded. `None` if it is included.
    #[must_use]
    pub fn exclusion(&self, name: &str) -> Option<Exclusion> {
        if !is_key(name) {
            Some(Exclusion::InvalidKey)
        } else if self.forbidden.forbid(name) {
            Some(Exclusion::Forbidden)
        } else if is_reserved(name) && !self.allowed.iter().any(|allowed| allowed == name) {
            Some(Exclusion::Reserved)
        } else {
            None
        }
    }
}

fn is_reserved(name: &str) -> bool {
    RESERVED
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *pattern,
        })
}

/// Whether a variable of this name chooses the proxy of many programs.
#[must_use]
pub fn is_proxy(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.strip_suffix("_proxy")
        .is_some_and(|scheme| PROXIES.contains(&scheme))
}

/// Whether the API server accepts the name as a key of a Secret.
#[must_use]
pub fn is_key(name: &str) -> bool {
    // The rule of the API server: `.` and `..` cannot be file names in a volume, and a key must not
    // start with `..`.
    !name.is_empty()
        && name.len() <= MAX_KEY_LENGTH
        && name != "."
        && !name.starts_with("..")
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests;

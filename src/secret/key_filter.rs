//! Decides which names of a Doppler config become keys of the Secret.
//!
//! Input: names from Doppler, after its name transformer, and the binding's filters.
//! Output: include the name, or why it is excluded and how to include it.
//! Invariants: never sees a value; compares exactly, because names of environment variables are
//! case-sensitive on Linux: `path` is an ordinary name, `PATH` is reserved.

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::crd::{DopplerSpec, ManagedSecretSpec};

/// Names that could break or take over the job pod. A `*` at the end matches any suffix.
pub const RESERVED: [&str; 14] = [
    "PATH",
    "HOME",
    "PS1",
    "HOSTNAME",
    "BASH_ENV",
    "LD_*",
    "PYTHON*",
    "PIP_*",
    "UV_*",
    "BROWSER",
    "NODE_OPTIONS",
    "EXTRA_PIP_PACKAGES",
    "PREFECT_*",
    "KUBERNETES_*",
];

/// The length limit of a key in Kubernetes.
const MAX_KEY_LENGTH: usize = 253;

/// A glob with a syntax error.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{glob}` in spec.doppler.{field} is not a glob: write one such as `DB_*` or `{{API,DB}}_KEY`"
)]
pub struct InvalidGlob {
    /// `include` or `exclude`.
    pub field: &'static str,
    /// The text of the glob.
    pub glob: String,
}

/// The filter of one binding.
#[derive(Debug)]
pub struct KeyFilter<'a> {
    include: Option<GlobSet>,
    exclude: GlobSet,
    allowed: &'a [String],
}

/// Why a name is excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// Kubernetes does not accept it as a key.
    InvalidKey,
    /// Its value contains a NUL byte.
    NulByte,
    /// It is one of [`RESERVED`].
    Reserved,
    /// No glob of `include` matches.
    NotIncluded,
    /// A glob of `exclude` matches.
    Excluded,
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
            Self::Reserved => format!(
                "it could break or take over the job pod; add `{name}` to spec.managedSecret.allowReservedNames to include it"
            ),
            Self::NotIncluded => {
                "no glob of spec.doppler.include matches it; add a glob to include it".to_owned()
            }
            Self::Excluded => {
                "a glob of spec.doppler.exclude matches it; change that glob to include it"
                    .to_owned()
            }
        }
    }
}

impl<'a> KeyFilter<'a> {
    /// The filter of a binding.
    ///
    /// # Errors
    /// If a glob has a syntax error.
    pub fn new(doppler: &DopplerSpec, managed: &'a ManagedSecretSpec) -> Result<Self, InvalidGlob> {
        Ok(Self {
            include: if doppler.include.is_empty() {
                None
            } else {
                Some(globs("include", &doppler.include)?)
            },
            exclude: globs("exclude", &doppler.exclude)?,
            allowed: &managed.allow_reserved_names,
        })
    }

    /// Why `name` is excluded. `None` if it is included.
    #[must_use]
    pub fn exclusion(&self, name: &str) -> Option<Exclusion> {
        if self
            .include
            .as_ref()
            .is_some_and(|globs| !globs.is_match(name))
        {
            Some(Exclusion::NotIncluded)
        } else if self.exclude.is_match(name) {
            Some(Exclusion::Excluded)
        } else if !is_key(name) {
            Some(Exclusion::InvalidKey)
        } else if is_reserved(name) && !self.allowed.iter().any(|allowed| allowed == name) {
            Some(Exclusion::Reserved)
        } else {
            None
        }
    }
}

fn globs(field: &'static str, patterns: &[String]) -> Result<GlobSet, InvalidGlob> {
    let invalid = |glob: &str| InvalidGlob {
        field,
        glob: glob.to_owned(),
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(|_| invalid(pattern))?);
    }
    set.build().map_err(|_| invalid(&patterns.join(", ")))
}

fn is_reserved(name: &str) -> bool {
    RESERVED
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *pattern,
        })
}

fn is_key(name: &str) -> bool {
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

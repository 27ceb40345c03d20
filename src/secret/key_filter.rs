//! Which names are passed on.
//!
//! In: names as Doppler gives them, after its name transformer, and the binding's filters. Out: pass, or why not and how to pass it on.
//! Never sees a value.
//!
//! Names of environment variables are case-sensitive on Linux, so the guard compares exactly: `path` is an ordinary name, `PATH` is not.

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::crd::{DopplerSpec, ManagedSecretSpec};

/// Names that would break or take over the job pod. A `*` at the end stands for any rest.
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

/// Longest key that Kubernetes takes.
const MAX_KEY_LENGTH: usize = 253;

/// A glob that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{glob}` in spec.doppler.{field} is not a glob: write one such as `DB_*` or `{{API,DB}}_KEY`"
)]
pub struct InvalidGlob {
    /// `include` or `exclude`.
    pub field: &'static str,
    /// The text.
    pub glob: String,
}

/// What may pass.
#[derive(Debug)]
pub struct KeyFilter<'a> {
    include: Option<GlobSet>,
    exclude: GlobSet,
    allowed: &'a [String],
}

/// Why a name does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// Kubernetes cannot hold it as a key.
    InvalidKey,
    /// Its value has a NUL byte.
    NulByte,
    /// It is one of [`RESERVED`].
    Reserved,
    /// No glob of `include` matches.
    NotIncluded,
    /// A glob of `exclude` matches.
    Excluded,
}

impl Exclusion {
    /// The sentence for the status.
    #[must_use]
    pub fn explanation(self, name: &str) -> String {
        match self {
            Self::InvalidKey => format!(
                "Kubernetes cannot hold it as a key of a Secret (letters, digits, `-`, `_` and `.`, at most {MAX_KEY_LENGTH} of them); rename it in \
                 Doppler, or set spec.doppler.nameTransformer, to pass it on"
            ),
            Self::NulByte => "its value has a NUL byte, with which no container starts; store it encoded, for example as base64, to pass it on".to_owned(),
            Self::Reserved => format!(
                "it could break or take over the job pod; add `{name}` to spec.managedSecret.allowReservedNames to pass it on"
            ),
            Self::NotIncluded => {
                "no glob of spec.doppler.include matches it; add one to pass it on".to_owned()
            }
            Self::Excluded => {
                "a glob of spec.doppler.exclude matches it; change that glob to pass it on"
                    .to_owned()
            }
        }
    }
}

impl<'a> KeyFilter<'a> {
    /// The guard of a binding.
    ///
    /// # Errors
    /// If a glob cannot be read.
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

    /// Why `name` does not pass; `None` if it does.
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
    // As the API server has it: `.` and `..` cannot be file names in a volume, nor may a key start with `..`.
    !name.is_empty()
        && name.len() <= MAX_KEY_LENGTH
        && name != "."
        && !name.starts_with("..")
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exclusion_of(
        doppler: &DopplerSpec,
        managed: &ManagedSecretSpec,
        name: &str,
    ) -> Option<Exclusion> {
        KeyFilter::new(doppler, managed).unwrap().exclusion(name)
    }

    #[test]
    fn excludes_reserved_names_and_passes_ordinary_ones() {
        let (doppler, managed) = (DopplerSpec::default(), ManagedSecretSpec::default());
        for name in [
            "PATH",
            "HOME",
            "PS1",
            "HOSTNAME",
            "BASH_ENV",
            "LD_PRELOAD",
            "LD_",
            "PYTHONPATH",
            "PYTHON",
            "PIP_INDEX_URL",
            "UV_INDEX",
            "BROWSER",
            "NODE_OPTIONS",
            "EXTRA_PIP_PACKAGES",
            "PREFECT_API_KEY",
            "KUBERNETES_SERVICE_HOST",
        ] {
            assert_eq!(
                exclusion_of(&doppler, &managed, name),
                Some(Exclusion::Reserved),
                "{name}"
            );
        }
        for name in [
            "SECRET_API_KEY",
            "DOPPLER_PROJECT",
            "DOPPLER_CONFIG",
            "DOPPLER_ENVIRONMENT",
            "path",
            "MY_PATH",
            "PATHS",
            "OLD_LD_X",
            "prefect_api_key",
            "a-b.c",
            "1",
            "_",
        ] {
            assert_eq!(exclusion_of(&doppler, &managed, name), None, "{name}");
        }
    }

    #[test]
    fn passes_a_reserved_name_allowed_by_its_exact_name() {
        let managed = ManagedSecretSpec {
            allow_reserved_names: vec!["PYTHONPATH".into(), "PREFECT_*".into()],
            ..Default::default()
        };
        let doppler = DopplerSpec::default();
        assert_eq!(exclusion_of(&doppler, &managed, "PYTHONPATH"), None);
        assert_eq!(
            exclusion_of(&doppler, &managed, "PREFECT_API_KEY"),
            Some(Exclusion::Reserved)
        );
    }

    #[test]
    fn excludes_invalid_keys_even_if_allowed() {
        let long = "A".repeat(254);
        let managed = ManagedSecretSpec {
            allow_reserved_names: vec!["Api:Key".into()],
            ..Default::default()
        };
        for name in [
            "",
            ".",
            "..",
            "..a",
            "Api:Key",
            "a b",
            "a=b",
            "é",
            "a/b",
            long.as_str(),
        ] {
            assert_eq!(
                exclusion_of(&DopplerSpec::default(), &managed, name),
                Some(Exclusion::InvalidKey),
                "{name}"
            );
        }
        assert_eq!(
            exclusion_of(&DopplerSpec::default(), &managed, &long[1..]),
            None
        );
    }

    #[test]
    fn applies_include_then_exclude() {
        let doppler = DopplerSpec {
            include: vec!["DB_*".into(), "{API,APP}_KEY".into()],
            exclude: vec!["*_OLD".into()],
            ..Default::default()
        };
        let managed = ManagedSecretSpec::default();
        assert_eq!(exclusion_of(&doppler, &managed, "DB_URL"), None);
        assert_eq!(exclusion_of(&doppler, &managed, "APP_KEY"), None);
        assert_eq!(
            exclusion_of(&doppler, &managed, "OTHER"),
            Some(Exclusion::NotIncluded)
        );
        assert_eq!(
            exclusion_of(&doppler, &managed, "DB_OLD"),
            Some(Exclusion::Excluded)
        );
    }

    #[test]
    fn names_an_invalid_glob() {
        let doppler = DopplerSpec {
            exclude: vec!["A[".into()],
            ..Default::default()
        };
        let error = KeyFilter::new(&doppler, &ManagedSecretSpec::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`A[` in spec.doppler.exclude"),
            "{error}"
        );
    }

    #[test]
    fn explanations_say_how_to_include_the_key() {
        for held in [
            Exclusion::InvalidKey,
            Exclusion::Reserved,
            Exclusion::NotIncluded,
            Exclusion::Excluded,
        ] {
            assert!(
                held.explanation("PATH").ends_with("to pass it on"),
                "{held:?}"
            );
        }
    }
}

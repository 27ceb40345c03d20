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
const LONGEST_KEY: usize = 253;

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
pub struct Guard<'a> {
    include: Option<GlobSet>,
    exclude: GlobSet,
    allowed: &'a [String],
}

/// Why a name does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Kubernetes cannot hold it as a key.
    NotAKey,
    /// Its value has a NUL byte.
    Nul,
    /// It is one of [`RESERVED`].
    Reserved,
    /// No glob of `include` matches.
    NotIncluded,
    /// A glob of `exclude` matches.
    Excluded,
}

impl Held {
    /// The sentence for the status.
    #[must_use]
    pub fn why(self, name: &str) -> String {
        match self {
            Self::NotAKey => format!(
                "Kubernetes cannot hold it as a key of a Secret (letters, digits, `-`, `_` and `.`, at most {LONGEST_KEY} of them); rename it in \
                 Doppler, or set spec.doppler.nameTransformer, to pass it on"
            ),
            Self::Nul => "its value has a NUL byte, with which no container starts; store it encoded, for example as base64, to pass it on".to_owned(),
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

impl<'a> Guard<'a> {
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
    pub fn holds(&self, name: &str) -> Option<Held> {
        if self
            .include
            .as_ref()
            .is_some_and(|globs| !globs.is_match(name))
        {
            Some(Held::NotIncluded)
        } else if self.exclude.is_match(name) {
            Some(Held::Excluded)
        } else if !is_key(name) {
            Some(Held::NotAKey)
        } else if is_reserved(name) && !self.allowed.iter().any(|allowed| allowed == name) {
            Some(Held::Reserved)
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
        && name.len() <= LONGEST_KEY
        && name != "."
        && !name.starts_with("..")
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(doppler: &DopplerSpec, managed: &ManagedSecretSpec, name: &str) -> Option<Held> {
        Guard::new(doppler, managed).unwrap().holds(name)
    }

    #[test]
    fn holds_back_what_would_take_over_the_pod_and_passes_the_rest() {
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
                held(&doppler, &managed, name),
                Some(Held::Reserved),
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
            assert_eq!(held(&doppler, &managed, name), None, "{name}");
        }
    }

    #[test]
    fn a_reserved_name_passes_when_allowed_by_its_exact_name() {
        let managed = ManagedSecretSpec {
            allow_reserved_names: vec!["PYTHONPATH".into(), "PREFECT_*".into()],
            ..Default::default()
        };
        let doppler = DopplerSpec::default();
        assert_eq!(held(&doppler, &managed, "PYTHONPATH"), None);
        assert_eq!(
            held(&doppler, &managed, "PREFECT_API_KEY"),
            Some(Held::Reserved)
        );
    }

    #[test]
    fn holds_back_what_kubernetes_cannot_hold_even_when_allowed() {
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
                held(&DopplerSpec::default(), &managed, name),
                Some(Held::NotAKey),
                "{name}"
            );
        }
        assert_eq!(held(&DopplerSpec::default(), &managed, &long[1..]), None);
    }

    #[test]
    fn include_chooses_and_exclude_takes_away() {
        let doppler = DopplerSpec {
            include: vec!["DB_*".into(), "{API,APP}_KEY".into()],
            exclude: vec!["*_OLD".into()],
            ..Default::default()
        };
        let managed = ManagedSecretSpec::default();
        assert_eq!(held(&doppler, &managed, "DB_URL"), None);
        assert_eq!(held(&doppler, &managed, "APP_KEY"), None);
        assert_eq!(held(&doppler, &managed, "OTHER"), Some(Held::NotIncluded));
        assert_eq!(held(&doppler, &managed, "DB_OLD"), Some(Held::Excluded));
    }

    #[test]
    fn an_unreadable_glob_is_named() {
        let doppler = DopplerSpec {
            exclude: vec!["A[".into()],
            ..Default::default()
        };
        let error = Guard::new(&doppler, &ManagedSecretSpec::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`A[` in spec.doppler.exclude"),
            "{error}"
        );
    }

    #[test]
    fn every_sentence_says_how_to_pass_the_name_on() {
        for held in [
            Held::NotAKey,
            Held::Reserved,
            Held::NotIncluded,
            Held::Excluded,
        ] {
            assert!(held.why("PATH").ends_with("to pass it on"), "{held:?}");
        }
    }
}

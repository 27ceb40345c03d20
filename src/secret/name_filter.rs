//! Decides which names of a Doppler config the binding selects.
//!
//! Input: names from Doppler, after its name transformer, and `metadata`, `include` and `exclude` of the
//! spec.
//! Output: select the name, or why it is excluded.
//! Invariants: never sees a value; compares exactly, apart from the names that Doppler adds.

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::key_filter::{Exclusion, InvalidGlob};
use crate::{
    crd::{ConfigMetadata, DopplerSpec},
    doppler::is_metadata,
};

/// The filter of one config.
#[derive(Debug)]
pub struct NameFilter {
    drops_metadata: bool,
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl NameFilter {
    /// The filter of a binding.
    ///
    /// # Errors
    /// If a glob has a syntax error.
    pub fn new(doppler: &DopplerSpec) -> Result<Self, InvalidGlob> {
        Ok(Self {
            drops_metadata: doppler.metadata == Some(ConfigMetadata::Drop),
            include: if doppler.include.is_empty() {
                None
            } else {
                Some(globs("include", &doppler.include)?)
            },
            exclude: globs("exclude", &doppler.exclude)?,
        })
    }

    /// Why `name` is excluded. `None` if it is selected.
    #[must_use]
    pub fn exclusion(&self, name: &str) -> Option<Exclusion> {
        if self.drops_metadata && is_metadata(name) {
            Some(Exclusion::Metadata)
        } else if self
            .include
            .as_ref()
            .is_some_and(|globs| !globs.is_match(name))
        {
            Some(Exclusion::NotIncluded)
        } else if self.exclude.is_match(name) {
            Some(Exclusion::Excluded)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applies_include_then_exclude() {
        let doppler = DopplerSpec {
            include: vec!["DB_*".into(), "{API,APP}_KEY".into()],
            exclude: vec!["*_OLD".into()],
            ..Default::default()
        };
        let filter = NameFilter::new(&doppler).unwrap();
        for (name, exclusion) in [
            ("DB_URL", None),
            ("APP_KEY", None),
            ("OTHER", Some(Exclusion::NotIncluded)),
            ("DB_OLD", Some(Exclusion::Excluded)),
        ] {
            assert_eq!(filter.exclusion(name), exclusion, "{name}");
        }
    }

    #[test]
    fn names_an_invalid_glob() {
        let doppler = DopplerSpec {
            exclude: vec!["A[".into()],
            ..Default::default()
        };
        let error = NameFilter::new(&doppler).unwrap_err().to_string();
        assert!(error.starts_with("`A[` in spec.doppler.exclude"), "{error}");
    }
}

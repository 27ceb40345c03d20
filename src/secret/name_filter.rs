//! Decides which names of a Doppler config the binding selects.
//!
//! Input: names from Doppler, after its name transformer, and `metadata`, `include` and `exclude` of the
//! spec and of one item of `configs`.
//! Output: select the name, or why it is excluded.
//! Invariants: never sees a value; compares exactly, apart from the names that Doppler adds.

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::key_filter::{Exclusion, InvalidGlob, Scope};
use crate::{
    crd::{ConfigMetadata, ConfigSource, DopplerSpec},
    doppler::is_metadata,
};

/// The filter of one config.
#[derive(Debug)]
pub struct NameFilter {
    drops_metadata: bool,
    all: Globs,
    item: Option<Globs>,
}

/// The globs of `include` and `exclude`.
#[derive(Debug)]
struct Globs {
    scope: Scope,
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl NameFilter {
    /// The filter of one config: that of the binding, and that of its item with the position.
    ///
    /// # Errors
    /// If a glob has a syntax error.
    pub fn new(
        doppler: &DopplerSpec,
        item: Option<(usize, &ConfigSource)>,
    ) -> Result<Self, InvalidGlob> {
        let item = item.map(|(at, item)| Globs::new(Scope::Item(at), &item.include, &item.exclude));
        Ok(Self {
            drops_metadata: doppler.metadata == Some(ConfigMetadata::Drop),
            all: Globs::new(Scope::All, &doppler.include, &doppler.exclude)?,
            item: item.transpose()?,
        })
    }

    /// Why `name` is excluded. `None` if it is selected.
    #[must_use]
    pub fn exclusion(&self, name: &str) -> Option<Exclusion> {
        if self.drops_metadata && is_metadata(name) {
            return Some(Exclusion::Metadata);
        }
        let item = || self.item.as_ref().and_then(|globs| globs.exclusion(name));
        self.all.exclusion(name).or_else(item)
    }
}

impl Globs {
    fn new(scope: Scope, include: &[String], exclude: &[String]) -> Result<Self, InvalidGlob> {
        Ok(Self {
            scope,
            include: if include.is_empty() {
                None
            } else {
                Some(globs(scope, "include", include)?)
            },
            exclude: globs(scope, "exclude", exclude)?,
        })
    }

    fn exclusion(&self, name: &str) -> Option<Exclusion> {
        if self
            .include
            .as_ref()
            .is_some_and(|globs| !globs.is_match(name))
        {
            Some(Exclusion::NotIncluded(self.scope))
        } else if self.exclude.is_match(name) {
            Some(Exclusion::Excluded(self.scope))
        } else {
            None
        }
    }
}

fn globs(scope: Scope, field: &str, patterns: &[String]) -> Result<GlobSet, InvalidGlob> {
    let invalid = |glob: &str| InvalidGlob {
        field: format!("{scope}.{field}"),
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
        let item = ConfigSource {
            include: vec!["DB_*".into()],
            exclude: vec!["DB_U*".into()],
            ..Default::default()
        };
        let filter = NameFilter::new(&doppler, None).unwrap();
        let both = NameFilter::new(&doppler, Some((2, &item))).unwrap();
        for (name, exclusion, of_both) in [
            ("DB_A", None, None),
            ("DB_URL", None, Some(Exclusion::Excluded(Scope::Item(2)))),
            (
                "APP_KEY",
                None,
                Some(Exclusion::NotIncluded(Scope::Item(2))),
            ),
            (
                "OTHER",
                Some(Exclusion::NotIncluded(Scope::All)),
                Some(Exclusion::NotIncluded(Scope::All)),
            ),
            (
                "DB_OLD",
                Some(Exclusion::Excluded(Scope::All)),
                Some(Exclusion::Excluded(Scope::All)),
            ),
        ] {
            assert_eq!(both.exclusion(name), of_both, "{name}");
            assert_eq!(filter.exclusion(name), exclusion, "{name}");
        }
    }

    #[test]
    fn names_an_invalid_glob() {
        let doppler = DopplerSpec {
            exclude: vec!["A[".into()],
            ..Default::default()
        };
        let error = NameFilter::new(&doppler, None).unwrap_err().to_string();
        assert!(error.starts_with("`A[` in spec.doppler.exclude"), "{error}");
        let item = ConfigSource {
            include: vec!["A[".into()],
            ..Default::default()
        };
        let doppler = DopplerSpec::default();
        let error = NameFilter::new(&doppler, Some((1, &item))).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("in spec.doppler.configs[1].include"),
            "{text}"
        );
    }
}

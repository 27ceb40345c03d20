//! What an answer lacks that earlier answers had. Pure.
//!
//! Input: the names before, and the names of a new answer.
//! Output: a [`Loss`], if the answer is not to be believed at once.
//! Invariants: it knows no values. The names that every config has are recognized in every name
//! transformer.

use std::{collections::BTreeSet, fmt};

use super::error_messages::one_line;

/// Names that Doppler adds to every config. Each is compared without case and separators, because
/// transformers change both.
const ADDED: [(&str, &str); 3] = [
    ("DOPPLER_PROJECT", "dopplerproject"),
    ("DOPPLER_CONFIG", "dopplerconfig"),
    ("DOPPLER_ENVIRONMENT", "dopplerenvironment"),
];
/// What one of the transformers puts before each name.
const PREFIX: &str = "tfvar";
/// Fewer lost names than this are an ordinary change.
const MIN_LOST: usize = 5;
/// Names that are listed.
const MAX_LISTED: usize = 10;
/// The longest listed name, in characters.
const MAX_NAME_CHARS: usize = 60;

/// Why an answer is not believed at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It lacks these names, which every config has and which earlier answers had: it is no config.
    NotAConfig(Vec<&'static str>),
    /// It lacks more than half of the names.
    Most(LostNames),
}

/// The names that an answer lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostNames {
    lost: usize,
    before: usize,
    listed: String,
}

impl fmt::Display for LostNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lost,
            before,
            listed,
        } = self;
        write!(f, "{lost} of {before} names ({listed}")?;
        if *lost > MAX_LISTED {
            write!(f, " and {} more", lost - MAX_LISTED)?;
        }
        f.write_str(")")
    }
}

/// The names that every config has, of those that `before` had, and that `after` lacks.
pub fn missing_added<'a>(
    before: impl IntoIterator<Item = &'a str>,
    after: impl IntoIterator<Item = &'a str>,
) -> Vec<&'static str> {
    let (before, after) = (added(before), added(after));
    before.difference(&after).copied().collect()
}

/// The names that get lost, if these are more than half and at least five, or all.
pub fn lost_names<'a>(
    before: impl IntoIterator<Item = &'a str>,
    after: impl IntoIterator<Item = &'a str>,
) -> Option<LostNames> {
    let before: BTreeSet<&str> = before.into_iter().collect();
    let after: BTreeSet<&str> = after.into_iter().collect();
    let lost: Vec<&str> = before.difference(&after).copied().collect();
    let is_most = lost.len() >= MIN_LOST && lost.len() * 2 > before.len();
    let is_all = after.is_empty() && !before.is_empty();
    (is_most || is_all).then(|| {
        let listed = lost.iter().take(MAX_LISTED);
        let listed: Vec<_> = listed.map(|name| one_line(name, MAX_NAME_CHARS)).collect();
        LostNames {
            lost: lost.len(),
            before: before.len(),
            listed: listed.join(", "),
        }
    })
}

/// What the answer `after` lacks that `before` had.
pub(super) fn loss<'a, I: IntoIterator<Item = &'a str> + Clone>(
    before: I,
    after: I,
) -> Option<Loss> {
    let missing = missing_added(before.clone(), after.clone());
    if missing.is_empty() {
        lost_names(before, after).map(Loss::Most)
    } else {
        Some(Loss::NotAConfig(missing))
    }
}

/// Whether it is one of the names that Doppler adds to every config, in any name transformer.
#[must_use]
pub fn is_metadata(name: &str) -> bool {
    added_name(name).is_some()
}

fn added<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'static str> {
    names.into_iter().filter_map(added_name).collect()
}

fn added_name(name: &str) -> Option<&'static str> {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let letters: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
    let bare = letters.strip_prefix(PREFIX).unwrap_or(&letters);
    let found = ADDED.into_iter().find(|(_, form)| *form == bare);
    found.map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECT: &str = "DOPPLER_PROJECT";
    const CONFIG: &str = "DOPPLER_CONFIG";
    const ENVIRONMENT: &str = "DOPPLER_ENVIRONMENT";

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("N{number}")).collect()
    }

    fn loss_of(before: &[&str], after: &[&str]) -> Option<Loss> {
        loss(before.iter().copied(), after.iter().copied())
    }

    #[test]
    fn an_answer_without_the_names_of_every_config_is_no_config() {
        let all = [PROJECT, CONFIG, ENVIRONMENT, "A"];
        assert_eq!(loss_of(&all, &all), None);
        for after in [&[][..], &["A"], &["MY_DOPPLER_PROJECT", "A"]] {
            let missing = vec![CONFIG, ENVIRONMENT, PROJECT];
            assert_eq!(loss_of(&all, after), Some(Loss::NotAConfig(missing)));
        }
        let missing = Loss::NotAConfig(vec![PROJECT]);
        assert_eq!(loss_of(&all, &[CONFIG, ENVIRONMENT, "A"]), Some(missing));
        assert_eq!(loss_of(&["A", "B"], &["A"]), None, "never had them");
    }

    #[test]
    fn the_names_of_every_config_are_recognized_in_every_transformer() {
        for form in [
            "DOPPLER_PROJECT",
            "dopplerProject",
            "DopplerProject",
            "doppler_project",
            "doppler-project",
            "TF_VAR_doppler_project",
        ] {
            assert_eq!(missing_added([form], ["A"]), [PROJECT], "{form}");
        }
    }

    #[test]
    fn more_than_half_and_at_least_five_names_are_most() {
        for (before, after, is_most) in [
            (4, 1, false),
            (5, 0, true),
            (5, 1, false),
            (8, 3, true),
            (10, 5, false),
            (10, 4, true),
            (1, 0, true),
            (0, 0, false),
        ] {
            let (before, after) = (names(before), names(after));
            let lost = lost_names(
                before.iter().map(String::as_str),
                after.iter().map(String::as_str),
            );
            assert_eq!(lost.is_some(), is_most, "{before:?} to {after:?}");
        }
        let (before, others) = (names(10), ["X"; 10]);
        let lost = lost_names(before.iter().map(String::as_str), others);
        assert!(lost.is_some(), "as many names, but others");
    }

    #[test]
    fn the_list_of_lost_names_is_bounded() {
        let mut before = names(12);
        before.push("x\n".repeat(200));
        let lost = lost_names(before.iter().map(String::as_str), ["A"]).unwrap();
        let shown = lost.to_string();
        assert!(shown.starts_with("13 of 13 names (N0, N1, N10"), "{shown}");
        assert!(shown.ends_with(" and 3 more)"), "{shown}");
        assert!(!shown.contains('\n') && shown.len() < 1000);
        let before = names(MAX_LISTED);
        let lost = lost_names(before.iter().map(String::as_str), ["A"]).unwrap();
        let shown = lost.to_string();
        assert!(shown.ends_with(", N8, N9)"), "none is left out: {shown}");
    }
}

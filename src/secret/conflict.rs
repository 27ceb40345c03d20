//! Why the spec refuses keys that meet.
//!
//! Input: the collisions of a merge and of the renames.
//! Output: [`KeyConflict`], and its message.
//! Invariants: pure. The message names keys and configs, never a value, and is bounded.

use std::fmt;

use super::merge::Collision;
use crate::printable::{count, one_line};

/// Keys that are listed.
const MAX_LISTED: usize = 10;
/// The longest listed name, in bytes.
const MAX_NAME_BYTES: usize = 100;

/// Keys that meet, although `spec.doppler.onConflict` is `Refuse`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyConflict {
    /// Several configs have them.
    #[error(
        "spec.doppler.onConflict is Refuse, and {} in more than one config ({}): set prefix or exclude in an item of spec.doppler.configs, or set onConflict to Later",
        .0.are(), .0
    )]
    Configs(Shown),
    /// A rename gives them the name of another key.
    #[error(
        "spec.doppler.onConflict is Refuse, and spec.doppler.rename gives {} a name that another key has ({}): choose another name, or exclude the other key",
        .0.count(), .0
    )]
    Rename(Shown),
}

impl KeyConflict {
    /// The conflict of several configs. `label` names a config.
    pub(super) fn of_configs(collisions: &[Collision], label: impl Fn(usize) -> String) -> Self {
        let shown = collisions.iter().map(|collision| {
            let name = one_line(&collision.name, MAX_NAME_BYTES);
            let (earlier, later) = (label(collision.earlier), label(collision.later));
            format!("{name} of {earlier} and {later}")
        });
        Self::Configs(Shown(shown.collect()))
    }

    /// The conflict of renames, each with the new name and the old one.
    pub(super) fn of_renames(replaced: &[(String, String)]) -> Self {
        let shown = replaced.iter().map(|(name, from)| {
            let (name, from) = (
                one_line(name, MAX_NAME_BYTES),
                one_line(from, MAX_NAME_BYTES),
            );
            format!("{from} to {name}")
        });
        Self::Rename(Shown(shown.collect()))
    }
}

/// What meets. `Display` shows the first ones.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown(Vec<String>);

impl Shown {
    fn count(&self) -> String {
        count(self.0.len(), "key")
    }

    fn are(&self) -> String {
        let verb = if self.0.len() == 1 { "is" } else { "are" };
        format!("{} {verb}", self.count())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = &self.0[..self.0.len().min(MAX_LISTED)];
        f.write_str(&listed.join(", "))?;
        if self.0.len() > MAX_LISTED {
            write!(f, " and {} more", self.0.len() - MAX_LISTED)?;
        }
        Ok(())
    }
}

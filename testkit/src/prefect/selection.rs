//! Which Prefect server the tests run on.
//!
//! Input: `DOPPLER_PREFECT_TESTKIT_PREFECT` and `DOPPLER_PREFECT_TESTKIT_DATABASE`.
//! Output: the requirements file of a version, and the database.
//! Invariants: each version is pinned in `python/`. Without the variables, the newest version runs
//! on `SQLite`.

use anyhow::{Result, bail};

/// Selects the version of the servers that a test does not choose itself, such as `3.7.3`.
pub const VERSION_VARIABLE: &str = "DOPPLER_PREFECT_TESTKIT_PREFECT";
/// Selects the database of every server: `sqlite` or `postgresql`.
pub const DATABASE_VARIABLE: &str = "DOPPLER_PREFECT_TESTKIT_DATABASE";

/// The pinned versions, newest first, each with its file in `python/`.
const PINNED: [(&str, &str); 3] = [
    ("3.8.8", "prefect"),
    ("3.7.3", "prefect-3.7.3"),
    ("2.20.25", "prefect-2.20.25"),
];

/// The version of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrefectVersion {
    /// The one that the environment selects, or else the newest one.
    #[default]
    Selected,
    /// 3.7.3, the last one that sends no events for blocks.
    WithoutBlockEvents,
    /// 2.20.25, the oldest one that is supported.
    Oldest,
}

impl PrefectVersion {
    /// The number of the version.
    ///
    /// # Errors
    /// If the environment selects an unknown one.
    pub fn number(self) -> Result<&'static str> {
        Ok(match self {
            Self::Selected => select(&variable(VERSION_VARIABLE))?.0,
            Self::WithoutBlockEvents => "3.7.3",
            Self::Oldest => "2.20.25",
        })
    }

    /// The name of its file in `python/`.
    pub(super) fn requirements(self) -> Result<&'static str> {
        Ok(select(self.number()?)?.1)
    }
}

/// The database of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// A file in the server's folder.
    Sqlite,
    /// A server of its own, of the version that the system has.
    Postgresql,
}

impl Database {
    /// The database that the environment selects.
    ///
    /// # Errors
    /// If it selects an unknown one.
    pub fn selected() -> Result<Self> {
        Self::named(&variable(DATABASE_VARIABLE))
    }

    fn named(name: &str) -> Result<Self> {
        match name {
            "" | "sqlite" => Ok(Self::Sqlite),
            "postgresql" => Ok(Self::Postgresql),
            _ => bail!("{DATABASE_VARIABLE} is {name}: set it to sqlite or postgresql"),
        }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn select(number: &str) -> Result<(&'static str, &'static str)> {
    let found = PINNED
        .iter()
        .find(|(known, _)| number.is_empty() || *known == number);
    let Some(found) = found else {
        let known = PINNED.map(|(known, _)| known).join(", ");
        bail!("{VERSION_VARIABLE} is {number}: set it to one of {known}");
    };
    Ok(*found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_the_one_that_its_file_pins() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        for (number, file) in PINNED {
            let text = std::fs::read_to_string(folder.join(format!("{file}.in"))).unwrap();
            let pinned = format!("prefect=={number}");
            assert!(text.lines().any(|line| line == pinned), "{file}: {number}");
            assert_eq!(select(number).unwrap(), (number, file));
        }
        assert_eq!(select("").unwrap(), PINNED[0]);
    }

    #[test]
    fn an_unknown_selection_is_refused_with_the_choices() {
        let refused = select("3.9").unwrap_err().to_string();
        assert!(refused.contains("3.8.8, 3.7.3, 2.20.25"), "{refused}");
        let refused = Database::named("mysql").unwrap_err().to_string();
        assert!(refused.contains("sqlite or postgresql"), "{refused}");
        assert_eq!(Database::named("").unwrap(), Database::Sqlite);
    }
}

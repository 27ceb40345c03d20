//! The pinned versions of Kubernetes.
//!
//! Input: `DOPPLER_PREFECT_TESTKIT_KUBERNETES`, and the Go modules beside this crate. Output: the
//! module to build from, its version, and the arguments that a version needs.
//! Invariants: the version is written once, in go.mod. Without the variable, the newest one is used.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Selects a pinned version, such as `1.34`.
pub const VERSION_VARIABLE: &str = "DOPPLER_PREFECT_TESTKIT_KUBERNETES";

/// The pinned versions, newest first, each with the folder of its Go module.
const PINNED: [(&str, &str); 2] = [("1.37", "control-plane"), ("1.34", "control-plane-1.34")];

/// Major, minor and patch version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Patch version.
    pub patch: u32,
}

impl Version {
    /// Parses three numbers with dots between them.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(str::parse);
        let version = Self {
            major: numbers.next()?.ok()?,
            minor: numbers.next()?.ok()?,
            patch: numbers.next()?.ok()?,
        };
        numbers.next().is_none().then_some(version)
    }

    /// The version that a program of Kubernetes reports.
    ///
    /// # Errors
    /// When the program fails or reports something else.
    pub(super) fn reported_by(program: &Path) -> Result<Self> {
        let output = Command::new(program)
            .arg("--version")
            .output()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Self::in_report(&text)
            .with_context(|| format!("{} reports no version: {text}", program.display()))
    }

    /// The version in a report such as `Kubernetes v1.37.2` or `Kubernetes v1.37.0-rc.1+abc`.
    fn in_report(report: &str) -> Option<Self> {
        let version = report.trim().strip_prefix("Kubernetes v")?;
        Self::parse(version.split(['-', '+', ' ']).next()?)
    }

    /// The arguments of kube-apiserver that serve `MutatingAdmissionPolicy`. It is beta in 1.34 and
    /// 1.35, and on by default since 1.36.
    pub(super) fn admission_arguments(self) -> &'static [&'static str] {
        if (self.major, self.minor) >= (1, 36) || (self.major, self.minor) < (1, 34) {
            return &[];
        }
        &[
            "--feature-gates=MutatingAdmissionPolicy=true",
            "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        ]
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            major,
            minor,
            patch,
        } = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// The pinned version that the environment selects.
///
/// # Errors
/// When it selects none of them.
pub(crate) fn pinned_version() -> Result<Version> {
    Ok(Pinned::from_environment()?.version)
}

/// A pinned version.
#[derive(Debug, Clone)]
pub(super) struct Pinned {
    /// The folder of the Go module.
    pub module: PathBuf,
    /// The version of Kubernetes in go.mod.
    pub version: Version,
    /// Whether the variable names it, so that a server of another version does not do.
    pub is_selected: bool,
}

impl Pinned {
    /// The version that the variable selects, or else the newest one.
    ///
    /// # Errors
    /// When the variable names another version, or go.mod names none.
    pub fn from_environment() -> Result<Self> {
        let selected = std::env::var(VERSION_VARIABLE).unwrap_or_default();
        Self::select(&selected)
    }

    fn select(selected: &str) -> Result<Self> {
        let found = PINNED
            .iter()
            .find(|(version, _)| selected.is_empty() || *version == selected);
        let Some((_, folder)) = found else {
            let known = PINNED.map(|(version, _)| version).join(", ");
            bail!("{VERSION_VARIABLE} is {selected}: set it to one of {known}");
        };
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let go_mod = std::fs::read_to_string(module.join("go.mod"))
            .with_context(|| format!("cannot read {folder}/go.mod"))?;
        let version = version_of(&go_mod)
            .with_context(|| format!("{folder}/go.mod names no version of k8s.io/kubernetes"))?;
        Ok(Self {
            module,
            version,
            is_selected: !selected.is_empty(),
        })
    }

    /// The linker's flags. Without them the API server reports v0.0.0.
    pub fn link_flags(&self) -> String {
        let version = self.version;
        let Version { major, minor, .. } = version;
        let variable = "k8s.io/component-base/version";
        format!(
            "-s -w -X {variable}.gitVersion=v{version} \
             -X {variable}.gitMajor={major} -X {variable}.gitMinor={minor}"
        )
    }
}

/// The version of `k8s.io/kubernetes` in the text of a go.mod.
fn version_of(go_mod: &str) -> Option<Version> {
    let mut lines = go_mod.lines().map(str::trim);
    let version = lines.find_map(|line| line.strip_prefix("k8s.io/kubernetes v"))?;
    Version::parse(version.split_whitespace().next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_mod_has_the_version_that_selects_it() {
        for (name, _) in PINNED {
            let pinned = Pinned::select(name).unwrap();
            let Version { major, minor, .. } = pinned.version;
            assert_eq!(format!("{major}.{minor}"), name);
            assert!(pinned.is_selected);
            assert!(pinned.link_flags().ends_with(&format!("gitMinor={minor}")));
        }
    }

    #[test]
    fn newest_version_is_the_default() {
        let default = Pinned::select("").unwrap();
        assert!(!default.is_selected);
        for (name, _) in PINNED {
            assert!(Pinned::select(name).unwrap().version <= default.version);
        }
    }

    #[test]
    fn an_unknown_version_is_refused_with_the_choices() {
        let refused = Pinned::select("1.20").unwrap_err().to_string();
        assert!(refused.contains("1.37, 1.34"), "{refused}");
    }

    #[test]
    fn only_beta_versions_need_arguments() {
        let arguments = |report| {
            Version::in_report(report)
                .unwrap()
                .admission_arguments()
                .len()
        };
        assert_eq!(arguments("Kubernetes v1.33.1\n"), 0);
        assert_eq!(arguments("Kubernetes v1.34.4\n"), 2);
        assert_eq!(arguments("Kubernetes v1.35.0-rc.1+abc\n"), 2);
        assert_eq!(arguments("Kubernetes v1.36.0\n"), 0);
        assert_eq!(Version::in_report("etcd Version: 3.6.4"), None);
    }
}

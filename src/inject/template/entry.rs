//! The entry that the operator writes, and what identifies it: an item of `envFrom`, or a mount.
//!
//! Input: the name of a Secret, and the variable that offers it, or where its files are mounted.
//! Output: the item of `envFrom` as JSON; `mount` has the parts of a mount.
//! Invariants: pure.

use crate::crd::{InjectedEntry, MountSpec, files_secret_of};

/// What identifies an entry of the operator in one template.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// Name of the Secret.
    pub secret: String,
    /// The variable that offers the name. None if all runs get the Secret.
    pub variable: Option<String>,
    /// Whether it is the mount of the Secret with the files.
    pub mount: bool,
}

impl EntryKey {
    /// The key of an entry that all runs get.
    #[must_use]
    pub fn all(secret: impl Into<String>) -> Self {
        Self {
            secret: secret.into(),
            variable: None,
            mount: false,
        }
    }

    /// The key of a mount.
    #[must_use]
    pub fn mount(secret: impl Into<String>) -> Self {
        Self {
            mount: true,
            ..Self::all(secret)
        }
    }

    /// What a message calls it, such as `the entry for Secret s`.
    #[must_use]
    pub fn description(&self) -> String {
        if self.mount {
            format!("the mount of Secret {}", files_secret_of(&self.secret))
        } else {
            format!("the entry for Secret {}", self.secret)
        }
    }
}

impl From<&str> for EntryKey {
    fn from(secret: &str) -> Self {
        Self::all(secret)
    }
}

impl From<&InjectedEntry> for EntryKey {
    fn from(entry: &InjectedEntry) -> Self {
        Self {
            secret: entry.secret.clone(),
            variable: entry.variable.clone(),
            mount: entry.mount,
        }
    }
}

/// An `envFrom` entry of this operator, a name that a variable offers, or a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Name of the Secret.
    pub secret: String,
    /// Whether a pod may start without the Secret.
    pub optional: bool,
    /// The variable that offers the name. None if all runs get the Secret.
    pub variable: Option<String>,
    /// Where the files of the Secret beside it are mounted. None for an entry of `envFrom`.
    pub mount: Option<MountSpec>,
}

impl Entry {
    /// The item of `envFrom` as JSON. One that a variable chooses names the variable.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let placeholder = self.variable.as_deref().map(placeholder);
        let name = placeholder.as_ref().unwrap_or(&self.secret);
        serde_json::json!({"secretRef": {"name": name, "optional": self.optional}})
    }

    /// What identifies it.
    #[must_use]
    pub fn key(&self) -> EntryKey {
        EntryKey {
            secret: self.secret.clone(),
            variable: self.variable.clone(),
            mount: self.mount.is_some(),
        }
    }
}

/// The name of the Secret in the entry of a variable. It sorts behind the name of every Secret.
pub(in crate::inject) fn placeholder(variable: &str) -> String {
    format!("{{{{ {variable} }}}}")
}

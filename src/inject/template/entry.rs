//! The `envFrom` entry that the operator writes, and what identifies it.
//!
//! Input: the name of a Secret, and the variable that offers it. Output: the entry as JSON.
//! Invariants: pure.

use crate::crd::InjectedEntry;

/// What identifies an entry of the operator in one template.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// Name of the Secret.
    pub secret: String,
    /// The variable that offers the name. None if all runs get the Secret.
    pub variable: Option<String>,
}

impl EntryKey {
    /// The key of an entry that all runs get.
    #[must_use]
    pub fn all(secret: impl Into<String>) -> Self {
        Self {
            secret: secret.into(),
            variable: None,
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
        }
    }
}

/// An `envFrom` entry of this operator, or a name that a variable offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the Secret.
    pub secret: String,
    /// Whether a pod may start without the Secret.
    pub optional: bool,
    /// The variable that offers the name. None if all runs get the Secret.
    pub variable: Option<String>,
}

impl Entry {
    /// The entry as JSON. One that a variable chooses names the variable.
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
        }
    }
}

/// The name of the Secret in the entry of a variable. It sorts behind the name of every Secret.
pub(in crate::inject) fn placeholder(variable: &str) -> String {
    format!("{{{{ {variable} }}}}")
}

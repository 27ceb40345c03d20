//! The `envFrom` entry that the operator writes.
//!
//! Input: the name of a Secret. Output: the entry as JSON.
//! Invariants: pure.

/// An `envFrom` entry of this operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the Secret.
    pub secret: String,
    /// Whether a pod may start without the Secret.
    pub optional: bool,
}

impl Entry {
    /// The entry as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({"secretRef": {"name": self.secret, "optional": self.optional}})
    }
}

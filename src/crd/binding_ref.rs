//! A binding by namespace and name.
//!
//! Input: a binding, or its namespace and name.
//! Output: a [`BindingRef`].
//! Invariants: a Secret whose binding is gone, and a `ClusterPrefectServer`, have keys that no binding has. Clones share one text:
//! names take most of the memory of the operator's maps, because each of thousands of bindings is a
//! key in several of them.

use std::{fmt, sync::Arc};

use kube::ResourceExt;

/// End of the key of a Secret whose binding no longer exists. A name never contains a slash.
const ORPHAN: &str = "/orphan";

/// A binding by namespace and name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindingRef(Arc<str>);

impl BindingRef {
    /// The binding of that name in that namespace.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        // A namespace never contains a slash.
        Self(format!("{namespace}/{name}").into())
    }

    /// The key of a Secret whose binding no longer exists. No binding has such a name.
    #[must_use]
    pub fn orphan(namespace: &str, secret: &str) -> Self {
        Self(format!("{namespace}/{secret}{ORPHAN}").into())
    }

    /// The name of the Secret, if this is the key of one whose binding no longer exists.
    #[must_use]
    pub fn orphaned_secret(&self) -> Option<&str> {
        self.name().strip_suffix(ORPHAN)
    }

    /// The key of a `ClusterPrefectServer`. No binding is without a namespace.
    #[must_use]
    pub fn cluster_server(name: &str) -> Self {
        Self::new("", name)
    }

    /// The name of the `ClusterPrefectServer`, if this is the key of one.
    #[must_use]
    pub fn cluster_server_name(&self) -> Option<&str> {
        self.namespace().is_empty().then(|| self.name())
    }

    /// The reference of an object.
    #[must_use]
    pub fn of(binding: &impl ResourceExt) -> Self {
        Self::new(
            binding.meta().namespace.as_deref().unwrap_or_default(),
            binding.meta().name.as_deref().unwrap_or_default(),
        )
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or(("", &self.0))
    }
}

impl fmt::Debug for BindingRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_namespace_and_name() {
        let binding = BindingRef::new("flows", "my-project-dev");
        assert_eq!(binding.namespace(), "flows");
        assert_eq!(binding.name(), "my-project-dev");
        assert_eq!(format!("{binding:?}"), "flows/my-project-dev");
        assert_ne!(binding, BindingRef::new("flows", "my-project"));
        assert_eq!(binding.orphaned_secret(), None);
        assert_eq!(binding.cluster_server_name(), None);
    }

    #[test]
    fn a_cluster_server_has_a_key_of_its_own() {
        let server = BindingRef::cluster_server("cloud");
        assert_eq!(server.cluster_server_name(), Some("cloud"));
        assert_eq!(server.orphaned_secret(), None);
        assert_ne!(server, BindingRef::new("flows", "cloud"));
    }

    #[test]
    fn an_orphan_has_a_key_of_its_own() {
        let orphan = BindingRef::orphan("flows", "my-project-dev");
        assert_eq!(orphan.namespace(), "flows");
        assert_eq!(orphan.orphaned_secret(), Some("my-project-dev"));
        assert_ne!(orphan, BindingRef::new("flows", "my-project-dev"));
    }
}

//! A binding by namespace and name.
//!
//! Input: a binding, or its namespace and name.
//! Output: a [`BindingRef`].
//! Invariants: clones share one text. Names take most of the memory of the operator's maps, because
//! each of thousands of bindings is a key in several of them.

use std::{fmt, sync::Arc};

use kube::ResourceExt;

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
    }
}

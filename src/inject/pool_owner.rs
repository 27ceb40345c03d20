//! Work pools whose base job template a `PrefectWorkPool` (prefect.io/v1) owns.
//!
//! Input: the known objects.
//! Output: the owner of a pool, and the message for the owner's maintainer.
//! Invariants: watches and writes nothing.

use std::fmt;

use serde_json::value::RawValue;
use url::Url;

use super::manual_patch::operations_text;
use super::template::Entry;
use crate::prefect::connection::same_api;

/// A `PrefectWorkPool` object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedPool {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of the work pool that it writes.
    pub pool: String,
    /// API URL of its Prefect server.
    pub api_url: Url,
}

impl fmt::Display for ManagedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrefectWorkPool {}/{}", self.namespace, self.name)
    }
}

/// The object that owns this pool of this server, if any.
#[must_use]
pub fn owner_of<'a>(
    managed: &'a [ManagedPool],
    api_url: &Url,
    pool: &str,
) -> Option<&'a ManagedPool> {
    managed
        .iter()
        .find(|object| object.pool == pool && same_api(&object.api_url, api_url))
}

/// Says which patch the maintainer of the owner has to add.
#[must_use]
pub fn owner_message(
    owner: &ManagedPool,
    pool: &str,
    entry: &Entry,
    template: &RawValue,
) -> String {
    format!(
        "{owner} owns the base job template of work pool {pool}: add this to its spec.baseJobTemplate.patches: {}",
        operations_text(entry, Some(template))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn finds_the_owner_by_pool_and_server() {
        let managed = [ManagedPool {
            namespace: "prefect".to_owned(),
            name: "object".to_owned(),
            pool: "k8s".to_owned(),
            api_url: url("http://prefect-server.prefect.svc:4200/api"),
        }];
        let full = url("http://prefect-server.prefect.svc.cluster.local:4200/api/");
        assert!(owner_of(&managed, &full, "k8s").is_some());
        assert!(owner_of(&managed, &full, "other").is_none());
        assert!(owner_of(&managed, &url("http://other.prefect.svc:4200/api"), "k8s").is_none());
    }

    #[test]
    fn the_message_names_the_object_and_shows_the_patch() {
        let owner = ManagedPool {
            namespace: "p".to_owned(),
            name: "o".to_owned(),
            pool: "k8s".to_owned(),
            api_url: url("http://x/api"),
        };
        let entry = Entry {
            secret: "s".to_owned(),
            optional: true,
            ..Entry::default()
        };
        let text = owner_message(&owner, "k8s", &entry, &RawValue::NULL.to_owned());
        assert!(
            text.contains("PrefectWorkPool p/o") && text.contains("\"op\":\"add\""),
            "{text}"
        );
    }
}

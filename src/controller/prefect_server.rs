//! The Prefect server of a binding: its own, or that of a `ClusterPrefectServer`.
//!
//! Input: the spec of a binding, and the `ClusterPrefectServer`s.
//! Output: the server, in the form of a binding's own, or why the binding cannot use it.
//! Invariants: sends nothing. A server of a `ClusterPrefectServer` comes only with a decision that its
//! lists allow what the binding names.

use url::Url;

use super::cluster_servers::{ClusterServers, Unusable};
use crate::{
    crd::{BindingRef, ClusterServerSpec, DopplerPrefectBindingSpec, ServerChoice, ServerSpec},
    failure::Failure,
    prefect::{ServerError, connection::api_url_of},
};

/// The field of a binding that messages about a server name.
const OWN_FIELD: &str = "spec.prefect.server";
/// The field of a `ClusterPrefectServer` in its place.
const SHARED_FIELD: &str = "spec.server";
/// What to do about an object that the operator may not read.
const OWN_ROLE: &str = "bind the chart's Role there to its service account";
/// The same for an object that a `ClusterPrefectServer` references.
const SHARED_ROLE: &str =
    "add it to the chart value clusterServers.secrets or clusterServers.configMaps";

/// The Prefect server of a binding.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefectServer {
    /// Its address and its credentials.
    pub spec: ServerSpec,
    /// The `ClusterPrefectServer` that defines it. None if the binding does.
    pub shared: Option<String>,
}

impl PrefectServer {
    /// The server that a binding defines.
    #[must_use]
    pub const fn own(spec: ServerSpec) -> Self {
        Self { spec, shared: None }
    }

    /// The server that a `ClusterPrefectServer` defines.
    #[must_use]
    pub fn shared(name: &str, spec: &ClusterServerSpec) -> Self {
        Self {
            spec: spec.to_server(),
            shared: Some(name.to_owned()),
        }
    }

    /// The namespace that `.` stands for in `--allowed-prefect-service`, and in which a Service without
    /// a namespace is. A `ClusterPrefectServer` has none.
    #[must_use]
    pub fn namespace<'a>(&self, of_binding: &'a str) -> &'a str {
        if self.shared.is_some() {
            ""
        } else {
            of_binding
        }
    }

    /// The URL of its API.
    ///
    /// # Errors
    /// If its fields name none.
    pub fn api_url(&self, of_binding: &str) -> Result<Url, ServerError> {
        api_url_of(&self.spec, self.namespace(of_binding))
    }

    /// A failure in the words of the object that has the field to correct.
    #[must_use]
    pub fn explain(&self, failure: Failure) -> Failure {
        let Some(name) = &self.shared else {
            return failure;
        };
        let message = failure.message.replace(OWN_FIELD, SHARED_FIELD);
        let message = message.replace(OWN_ROLE, SHARED_ROLE);
        Failure {
            message: format!("ClusterPrefectServer {name}: {message}"),
            ..failure
        }
    }
}

/// The server of a binding. None if it needs none.
///
/// # Errors
/// If it may not use the server that it names, or there is none.
pub fn of_binding(
    servers: &ClusterServers,
    key: &BindingRef,
    spec: &DopplerPrefectBindingSpec,
) -> Result<Option<PrefectServer>, Unusable> {
    let Some(prefect) = &spec.prefect else {
        servers.leave(key);
        return Ok(None);
    };
    match servers.choice(prefect).map_err(Unusable::Failed)? {
        ServerChoice::Own(own) => {
            servers.leave(key);
            Ok(Some(PrefectServer::own(*own)))
        }
        ServerChoice::Shared(name) => {
            let server = servers.for_binding(key, &name, spec)?;
            Ok(Some(PrefectServer::shared(&name, &server.spec.server)))
        }
    }
}

/// The server of a recorded entry of a binding in `namespace`. Whether its pool is allowed is checked
/// for each entry.
///
/// # Errors
/// If the namespace may not use it, or there is none.
pub fn of_entry(
    servers: &ClusterServers,
    namespace: &str,
    choice: ServerChoice,
) -> Result<PrefectServer, Unusable> {
    match choice {
        ServerChoice::Own(own) => Ok(PrefectServer::own(*own)),
        ServerChoice::Shared(name) => {
            let server = servers.for_namespace(&name, namespace)?;
            Ok(PrefectServer::shared(&name, &server.spec.server))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        controller::{key_refs::KeyRefError, object_cache::ReferenceKind},
        reason::Reason,
    };

    #[test]
    fn messages_name_the_object_that_has_the_field() {
        let server = PrefectServer {
            spec: ServerSpec::default(),
            shared: Some("cloud".to_owned()),
        };
        let error = Failure::from(ServerError::NotUserPassword);
        let own = PrefectServer::own(ServerSpec::default());
        assert_eq!(own.explain(error.clone()), error);
        let text = server.explain(error).message;
        assert!(
            text.starts_with("ClusterPrefectServer cloud: spec.server.basicAuth has a value"),
            "{text}"
        );
        let forbidden = KeyRefError::Forbidden {
            kind: ReferenceKind::Secret,
            namespace: "prefect".to_owned(),
            name: "prefect-api-key".to_owned(),
        };
        let failure = server.explain(forbidden.into());
        assert_eq!(failure.reason, Reason::SecretForbidden);
        assert!(
            failure.message.ends_with(SHARED_ROLE),
            "{}",
            failure.message
        );
    }

    #[test]
    fn a_shared_server_has_no_namespace_of_its_own() {
        let own = PrefectServer::own(ServerSpec::default());
        assert_eq!(own.namespace("flows"), "flows");
        let shared = PrefectServer::shared("cloud", &ClusterServerSpec::default());
        assert_eq!(shared.namespace("flows"), "");
    }
}

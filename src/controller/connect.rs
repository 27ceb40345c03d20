//! How the two upstreams of a binding are reached, with what it refers to.
//!
//! In: the stanzas of a binding, and the Secrets and ConfigMaps that they name. Out: a [`Connection`] to its Prefect server, the URL of Doppler's API,
//! or the fault that says what to correct. Neither upstream is asked anything here, and no host is given that the flags do not allow.

use std::sync::Arc;

use kube::ResourceExt;
use url::Url;

use super::{
    context::Context,
    key_refs::KeyRefs,
    object_cache::{ObjectCache, ObjectKey, ReferenceKind},
};
use crate::{
    crd::{DopplerPrefectBinding, PrefectSpec},
    failure::Failure,
    outbound::AllowedHosts,
    prefect::{
        Connection,
        connection::{ReferenceValues, connection, references},
    },
    reason::Reason,
};

/// Doppler's API, unless a binding names another.
const DOPPLER: &str = "https://api.doppler.com";

/// The keys of objects that a binding names, each with the field that names it.
#[must_use]
pub fn referenced_keys(binding: &DopplerPrefectBinding) -> Vec<(ObjectKey, String, String)> {
    let namespace = binding.namespace().unwrap_or_default();
    let mut referenced_keys = Vec::new();
    if let Some(prefect) = &binding.spec.prefect {
        for reference in references(&prefect.server) {
            let object = ObjectKey {
                kind: reference.kind,
                namespace: namespace.clone(),
                name: reference.name,
            };
            referenced_keys.push((object, reference.key, reference.purpose.to_string()));
        }
    }
    if let Some(token) = &binding.spec.doppler.access_token {
        let at = &token.value_from.secret_key_ref;
        let object = ObjectKey {
            kind: ReferenceKind::Secret,
            namespace,
            name: at.name.clone(),
        };
        referenced_keys.push((
            object,
            at.key.clone(),
            "spec.doppler.accessToken".to_owned(),
        ));
    }
    referenced_keys
}

/// Tokens often end with the line break of the file they were made from.
pub(crate) fn trimmed(text: &secrecy::SecretString) -> secrecy::SecretString {
    use secrecy::ExposeSecret;
    text.expose_secret().trim().into()
}

/// How the binding's Prefect server is reached, with what the context knows.
///
/// # Errors
/// As [`build_connection`].
pub async fn connect(
    context: &Context,
    binding: &DopplerPrefectBinding,
    prefect: &PrefectSpec,
) -> Result<Arc<Connection>, Failure> {
    let connection = build_connection(
        &context.key_refs,
        &context.objects,
        &context.prefect_hosts,
        &binding.namespace().unwrap_or_default(),
        prefect,
    )
    .await?;
    Ok(context.connections.intern(connection))
}

/// How the Prefect server of a binding in `namespace` is reached.
///
/// # Errors
/// If something that its stanza refers to is not there, or it is not allowed.
pub async fn build_connection(
    references_read: &KeyRefs,
    objects: &ObjectCache,
    hosts: &AllowedHosts,
    namespace: &str,
    prefect: &PrefectSpec,
) -> Result<Connection, Failure> {
    let mut values = ReferenceValues::default();
    for reference in references(&prefect.server) {
        let object = ObjectKey {
            kind: reference.kind,
            namespace: namespace.to_owned(),
            name: reference.name,
        };
        let field = reference.purpose.to_string();
        let text = references_read
            .resolve(objects, &object, &reference.key, &field)
            .await;
        values.insert(
            reference.purpose,
            text.map_err(|error| failure(error.reason(), &error))?,
        );
    }
    connection(&prefect.server, namespace, &values, hosts)
        .map_err(|error| failure(error.reason(), &error))
}

/// Doppler's API, as a binding names it.
///
/// # Errors
/// If it is not allowed.
pub fn doppler_host(hosts: &AllowedHosts, host: Option<&str>) -> Result<Url, Failure> {
    let url = Url::parse(host.unwrap_or(DOPPLER)).map_err(|_| Failure {
        reason: Reason::InvalidSpec,
        message: "spec.doppler.host is not a URL: write one such as https://api.doppler.com"
            .to_owned(),
        retry_after: None,
    })?;
    hosts.check(&url).map_err(|error| Failure {
        reason: error.reason(),
        message: format!("spec.doppler.host: {error}"),
        retry_after: None,
    })?;
    Ok(url)
}

/// A fault from an error whose text may be shown.
pub fn failure(reason: Reason, error: &impl std::fmt::Display) -> Failure {
    Failure {
        reason,
        message: error.to_string(),
        retry_after: None,
    }
}

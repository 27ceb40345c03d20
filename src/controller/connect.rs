//! How to reach the two upstreams of a binding: from its spec, and the keys that it references, to a
//! [`Connection`] and a [`ConfigKey`]. The controller, `check` and `detach` use these functions.
//!
//! Input: the spec, and the Secrets and ConfigMaps that it references.
//! Output: a connection to the Prefect server, the key of the Doppler config, or the failure that says
//! what to correct.
//! Invariants: no request to an upstream. No host that the flags do not allow.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    credential::credential,
    key_refs::{KeyReference, KeyRefs},
    object_cache::{ObjectCache, ObjectKey, ReferenceKind},
    prefect_server::PrefectServer,
    service_types::{ServiceError, ServiceTypes},
};
use crate::{
    args::BlockOverrides,
    crd::{AccessToken, BindingRef, DopplerPrefectBindingSpec, DopplerSpec, control_character},
    doppler::{ConfigKey, Identities},
    failure::Failure,
    outbound::{AllowedHosts, AllowedServers, ServiceName},
    prefect::{
        Connection,
        block::{BlockFields, CompleteFields, Field},
        connection::{Purpose, ReferenceValues, connection, references, service_of},
    },
    reason::Reason,
};

/// Doppler's API, unless the spec names another.
const DOPPLER: &str = "https://api.doppler.com";
/// The field of the spec that references a Doppler token.
const ACCESS_TOKEN_FIELD: &str = "spec.doppler.accessToken";

/// Checks that no text field has a control character. The CRD refuses them, but an older one may
/// have admitted the binding. A server that is sent such a name may fail, or take another name.
///
/// # Errors
/// If a field has one. The message names the field.
pub fn check_text_fields(spec: &DopplerPrefectBindingSpec) -> Result<(), Failure> {
    match control_character(spec) {
        Some(correction) => Err(Failure::new(Reason::InvalidSpec, correction)),
        None => Ok(()),
    }
}

/// The keys that a Prefect server of a binding in `namespace` references, and what each is for.
pub fn server_references(
    server: &PrefectServer,
    namespace: &str,
) -> impl Iterator<Item = (Purpose, KeyReference)> {
    let references = references(&server.spec).into_iter();
    references.map(move |reference| {
        let object = ObjectKey {
            kind: reference.kind,
            namespace: reference.namespace.unwrap_or_else(|| namespace.to_owned()),
            name: reference.name,
        };
        let key_reference = KeyReference {
            object,
            key: reference.key,
            field: reference.purpose.to_string(),
        };
        (reference.purpose, key_reference)
    })
}

/// The reference of `spec.doppler.accessToken`.
#[must_use]
pub fn access_token_reference(namespace: &str, doppler: &DopplerSpec) -> Option<KeyReference> {
    let token = doppler.access_token.as_ref()?;
    Some(token_reference(
        namespace,
        token,
        ACCESS_TOKEN_FIELD.to_owned(),
    ))
}

/// The reference of a Doppler token that stands in `field` of the spec.
#[must_use]
pub fn token_reference(namespace: &str, token: &AccessToken, field: String) -> KeyReference {
    let key_ref = &token.value_from.secret_key_ref;
    KeyReference {
        object: ObjectKey {
            kind: ReferenceKind::Secret,
            namespace: namespace.to_owned(),
            name: key_ref.name.clone(),
        },
        key: key_ref.key.clone(),
        field,
    }
}

/// Resolves how to reach the Prefect server of a binding in `namespace`.
///
/// # Errors
/// If a referenced key cannot be resolved, or the flags do not allow the host.
pub async fn build_connection(
    resolver: &KeyRefs,
    objects: &ObjectCache,
    servers: &AllowedServers,
    namespace: &str,
    server: &PrefectServer,
) -> Result<Connection, Failure> {
    let mut values = ReferenceValues::default();
    for (purpose, reference) in server_references(server, namespace) {
        let value = resolver.resolve(objects, &reference).await;
        let value = value.map_err(|error| server.explain(error.into()))?;
        values.insert(purpose, value);
    }
    let built = connection(&server.spec, server.namespace(namespace), &values, servers);
    let built = built.map_err(|error| server.explain(error.into()))?;
    Ok(Connection {
        shared: server.shared.clone(),
        ..built
    })
}

/// Checks that the Service of a Prefect server does not lead out of the cluster. Of a URL that an
/// administrator has allowed, only an `ExternalName` that can be seen is refused.
///
/// # Errors
/// If it does, or if it is named by `name` and its type cannot be read.
pub async fn check_service(
    service_types: &ServiceTypes,
    namespace: &str,
    server: &PrefectServer,
    api_url: &Url,
) -> Result<(), ServiceError> {
    if let Some(service) = service_of(&server.spec, server.namespace(namespace)) {
        return service_types.check(&service).await;
    }
    let Some(service) = ServiceName::of_url(api_url) else {
        return Ok(());
    };
    match service_types.check(&service).await {
        Err(error @ ServiceError::ExternalName(_)) => Err(error),
        _ => Ok(()),
    }
}

/// The fields of a block, each replaced by that of the binding where it is set. An identity of the
/// binding counts as its own credential, like a token, also if its id comes from the block: the id is
/// no secret, and a service account of the binding's namespace proves it.
///
/// # Errors
/// If the flags forbid it to use the token of the block for another project or config than the block
/// names. The message names the field.
pub fn override_block(
    block: BlockFields,
    overrides: BlockFields,
    policy: BlockOverrides,
) -> Result<BlockFields, Failure> {
    let uses_token_of_block = overrides.access_token.is_none() && !overrides.uses_identity;
    if policy == BlockOverrides::Deny && uses_token_of_block {
        let differs =
            |theirs: &Option<String>, ours: &Option<String>| ours.is_some() && ours != theirs;
        let field = if differs(&block.project, &overrides.project) {
            Some(Field::Project)
        } else if differs(&block.config, &overrides.config) {
            Some(Field::Config)
        } else {
            None
        };
        if let Some(field) = field {
            let path = field.spec_path();
            return Err(Failure::new(
                Reason::OverrideNotAllowed,
                format!(
                    "{path} is not the {field} that the block names, and the operator's --block-overrides=deny forbids to use the block's token for it: remove {path}, or set spec.doppler.accessToken or spec.doppler.identity"
                ),
            ));
        }
    }
    Ok(block.overridden_by(overrides))
}

/// The fields that the binding sets itself, with the value of its token reference.
///
/// # Errors
/// If the token reference cannot be resolved.
pub async fn resolve_overrides(
    resolver: &KeyRefs,
    objects: &ObjectCache,
    namespace: &str,
    doppler: &DopplerSpec,
) -> Result<BlockFields, Failure> {
    let access_token = match access_token_reference(namespace, doppler) {
        Some(reference) => Some(resolve_token(resolver, objects, &reference).await?),
        None => None,
    };
    Ok(BlockFields {
        project: doppler.project.clone(),
        config: doppler.config.clone(),
        access_token,
        identity: doppler.identity.as_ref().and_then(|it| it.id.clone()),
        uses_identity: doppler.identity.is_some(),
    })
}

/// A token, without the line break that often ends the file it comes from.
///
/// # Errors
/// If the reference cannot be resolved.
pub async fn resolve_token(
    resolver: &KeyRefs,
    objects: &ObjectCache,
    reference: &KeyReference,
) -> Result<SecretString, Failure> {
    let token = resolver.resolve(objects, reference).await?;
    Ok(token.expose_secret().trim().into())
}

/// The key of the Doppler config.
///
/// # Errors
/// If the spec names a host of Doppler's API that is no URL, or that the flags do not allow, or an
/// audience of another binding.
pub fn config_key(
    hosts: &AllowedHosts,
    identities: &Identities,
    binding: &BindingRef,
    doppler: &DopplerSpec,
    fields: CompleteFields,
) -> Result<ConfigKey, Failure> {
    let host = doppler_host(hosts, doppler.host.as_deref())?;
    Ok(ConfigKey {
        credential: credential(identities, binding, &host, doppler, fields.credential)?,
        host,
        project: fields.project,
        config: fields.config,
        transformer: doppler.name_transformer,
    })
}

/// The URL of Doppler's API.
///
/// # Errors
/// If `host` is no URL, or the flags do not allow it.
pub fn doppler_host(hosts: &AllowedHosts, host: Option<&str>) -> Result<Url, Failure> {
    let url = Url::parse(host.unwrap_or(DOPPLER)).map_err(|_| {
        let message = "spec.doppler.host is not a URL: use a URL such as https://api.doppler.com";
        Failure::new(Reason::InvalidSpec, message)
    })?;
    match hosts.check(&url) {
        Ok(()) => Ok(url),
        Err(error) => Err(Failure::new(
            error.reason(),
            format!("spec.doppler.host: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(project: Option<&str>, config: Option<&str>, token: Option<&str>) -> BlockFields {
        BlockFields {
            project: project.map(str::to_owned),
            config: config.map(str::to_owned),
            access_token: token.map(SecretString::from),
            ..BlockFields::default()
        }
    }

    #[test]
    fn deny_forbids_only_other_fields_with_the_blocks_token() {
        let block = || fields(Some("p"), Some("dev"), Some("t"));
        let bare = || fields(None, None, Some("t"));
        let cases = [
            (block(), fields(None, None, None), None),
            (block(), fields(Some("p"), Some("dev"), None), None),
            (
                block(),
                fields(Some("q"), None, None),
                Some("spec.doppler.project"),
            ),
            (
                block(),
                fields(Some("p"), Some("prd"), None),
                Some("spec.doppler.config"),
            ),
            (block(), fields(Some("q"), Some("prd"), Some("own")), None),
            (
                block(),
                BlockFields {
                    uses_identity: true,
                    ..fields(Some("q"), Some("prd"), None)
                },
                None,
            ),
            // A block that names no project allows none.
            (
                bare(),
                fields(Some("p"), None, None),
                Some("spec.doppler.project"),
            ),
        ];
        for (block, overrides, refused) in cases {
            let allowed =
                override_block(block.clone(), overrides.clone(), BlockOverrides::Allow).unwrap();
            let denied = override_block(block, overrides, BlockOverrides::Deny);
            match (denied, refused) {
                (Ok(fields), None) => {
                    assert_eq!(fields.project, allowed.project);
                    assert_eq!(fields.config, allowed.config);
                }
                (Err(failure), Some(path)) => {
                    assert_eq!(failure.reason, Reason::OverrideNotAllowed);
                    assert!(failure.message.starts_with(path), "{}", failure.message);
                }
                (denied, refused) => panic!("{:?}, {refused:?}", denied.err()),
            }
        }
    }
}

//! What a binding reads Doppler with: a token, or an identity that a service account of the binding's
//! namespace proves.
//!
//! Input: the spec, and the complete fields of block and binding.
//! Output: a [`Credential`], and the function that requests a service account's token.
//! Invariants: the service account is always one of the binding's own namespace. Its tokens live ten
//! minutes, are sent once, and are not kept.

use std::time::Duration;

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams};
use secrecy::SecretString;
use tokio::time::timeout;
use url::Url;

use crate::{
    crd::{BindingRef, DopplerSpec},
    doppler::{Credential, Identities, IdentityError, IdentityKey, RequestJwt},
    failure::Failure,
    prefect::block::FieldCredential,
    printable::{MAX_NAME_BYTES, one_line},
    reason::Reason,
};

/// The shortest life that the API server gives a token.
const JWT_SECONDS: i64 = 600;

/// The credential of a binding.
///
/// # Errors
/// If the spec has an audience that only the operator may set.
pub fn credential(
    identities: &Identities,
    binding: &BindingRef,
    host: &Url,
    doppler: &DopplerSpec,
    field: FieldCredential,
) -> Result<Credential, Failure> {
    let id = match field {
        FieldCredential::Token(token) => return Ok(Credential::Token(token)),
        FieldCredential::Identity(id) => id,
    };
    let Some(spec) = &doppler.identity else {
        let message = "set spec.doppler.identity.serviceAccountRef: an identity needs it";
        return Err(Failure::new(Reason::InvalidSpec, message));
    };
    let audiences = spec.audiences(binding.namespace(), binding.name());
    let audiences = audiences.map_err(|path| {
        let message = format!(
            "{path}: remove this audience, because the operator adds the one of this binding, and no other"
        );
        Failure::new(Reason::InvalidSpec, message)
    })?;
    let identity = identities.intern(IdentityKey {
        host: host.clone(),
        id,
        namespace: binding.namespace().to_owned(),
        service_account: spec.service_account_ref.name.clone(),
        audiences,
    });
    Ok(Credential::Identity(identity))
}

/// Requests tokens of service accounts from the API server. Each request may take `limit`.
#[must_use]
pub fn request_jwts(client: Client, limit: Duration) -> RequestJwt {
    Box::new(move |key| {
        let client = client.clone();
        Box::pin(async move { request_jwt(client, limit, &key).await })
    })
}

async fn request_jwt(
    client: Client,
    limit: Duration,
    key: &IdentityKey,
) -> Result<SecretString, IdentityError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client, &key.namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: key.audiences.clone(),
            expiration_seconds: Some(JWT_SECONDS),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let params = PostParams::default();
    let asked = accounts.create_token_request(&key.service_account, &params, &request);
    let (namespace, name) = (key.namespace.clone(), key.service_account.clone());
    match timeout(limit, asked).await {
        Ok(Ok(TokenRequest {
            status: Some(status),
            ..
        })) => Ok(status.token.into()),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            403 => IdentityError::TokenForbidden { namespace, name },
            404 => IdentityError::AccountMissing { namespace, name },
            429 | 500.. => IdentityError::ApiServer { namespace, name },
            _ => IdentityError::TokenRefused {
                namespace,
                name,
                answer: one_line(&status.message, MAX_NAME_BYTES),
            },
        }),
        Ok(Ok(_) | Err(_)) | Err(_) => Err(IdentityError::ApiServer { namespace, name }),
    }
}

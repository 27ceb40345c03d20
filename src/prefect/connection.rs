//! Where a Prefect server is, and how the operator authenticates to it.
//!
//! Input: the `server` field of a binding, the values that it references, and the allowed hosts.
//! Output: a [`Connection`]. Bindings whose server and credentials are equal have equal connections.
//! Invariants: pure. It resolves no reference and sends nothing.

mod api_url;
mod references;
mod server_error;

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use reqwest::{
    Certificate,
    header::{HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

pub use api_url::{api_url_of, canonical_api, same_api, server_at};
pub use references::{Purpose, Reference, ReferenceValues, references};
pub use server_error::ServerError;

use crate::{
    crd::ServerSpec,
    outbound::{AllowedServers, ServiceName},
    upstream::limiter::{LimitKey, SourceId},
};

/// Headers that the client sets itself. The CRD rejects most of them at apply; this list also holds
/// for objects that no API server validated.
const RESERVED_HEADERS: [&str; 16] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "prefect-csrf-client",
    "prefect-csrf-token",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-http-method-override",
    "x-prefect-api-version",
];

/// How the operator authenticates to a server.
#[derive(Clone)]
pub enum Auth {
    /// Not at all.
    None,
    /// An API key.
    Bearer(SecretString),
    /// `user:password`.
    Basic(SecretString),
}

impl Auth {
    fn identity(&self) -> (u8, &str) {
        match self {
            Self::None => (0, ""),
            Self::Bearer(key) => (1, key.expose_secret()),
            Self::Basic(pair) => (2, pair.expose_secret()),
        }
    }
}

/// What makes two connections equal.
type Identity<'a> = (
    &'a Url,
    (u8, &'a str),
    Vec<(&'a str, &'a str)>,
    Option<&'a str>,
    Option<&'a str>,
);

/// Everything that decides what a server answers. Equal connections share a client and its answers.
#[derive(Clone)]
pub struct Connection {
    /// The URL of the API, without a slash at its end.
    pub api_url: Url,
    /// Credentials.
    pub auth: Auth,
    /// Extra headers, in the order of the spec.
    pub headers: Vec<(String, SecretString)>,
    /// Certificate authorities in PEM, in addition to the system's roots.
    pub ca: Option<String>,
    /// The `ClusterPrefectServer` that defines the connection. It is never equal to a connection of a
    /// binding, so that what uses it is known to be subject to the lists of that server.
    pub shared: Option<String>,
}

impl Connection {
    /// The host as errors name it, with the port unless it is the default of the scheme.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.api_url.host_str().unwrap_or_default();
        match self.api_url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Whether it is an account of Prefect Cloud, which has no version.
    pub(super) fn is_cloud(&self) -> bool {
        self.limit_key().account.is_some()
    }

    /// The key of the rate limit. Prefect Cloud counts the requests of an account over all paths of
    /// its API; a self-hosted server has no limit.
    pub(crate) fn limit_key(&self) -> LimitKey {
        let mut segments = self.api_url.path_segments().into_iter().flatten();
        let account = segments
            .find(|segment| *segment == "accounts")
            .and_then(|_| segments.next());
        let (kind, credentials) = self.auth.identity();
        LimitKey {
            upstream: self.api_url.origin().ascii_serialization().into(),
            account: account.map(|account| Sha256::digest(account).into()),
            // An author may name the account of another: only accepted credentials belong to it.
            credentials: account.map(|account| {
                Sha256::new()
                    .chain_update([kind])
                    .chain_update(account.len().to_le_bytes())
                    .chain_update(account)
                    .chain_update(credentials)
                    .finalize()
                    .into()
            }),
            source: self.source(""),
        }
    }

    /// The source of the answers at a path: with other credentials, headers or certificate
    /// authorities, the same path may answer otherwise.
    pub(super) fn source(&self, path: &str) -> SourceId {
        let mut digest = Sha256::new();
        let mut update = |part: &str| {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        };
        // The name of the definition changes no answer.
        let (url, (kind, credentials), headers, ca, _) = self.identity();
        update(path);
        update(url.as_str());
        update(&kind.to_string());
        update(credentials);
        update(ca.unwrap_or_default());
        for (name, value) in headers {
            update(name);
            update(value);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mut source = SourceId::default();
        source.copy_from_slice(&digest[..16]);
        source
    }

    fn identity(&self) -> Identity<'_> {
        let headers = self.headers.iter();
        (
            &self.api_url,
            self.auth.identity(),
            headers
                .map(|(name, value)| (name.as_str(), value.expose_secret()))
                .collect(),
            self.ca.as_deref(),
            self.shared.as_deref(),
        )
    }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Connection {}

impl Hash for Connection {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("api_url", &self.api_url.as_str())
            .finish_non_exhaustive()
    }
}

/// The connection that a `server` field describes.
///
/// # Errors
/// If a field cannot be used, the flags do not allow the host, or a referenced value is missing or
/// cannot be used.
pub fn connection(
    spec: &ServerSpec,
    binding_namespace: &str,
    values: &ReferenceValues,
    servers: &AllowedServers,
) -> Result<Connection, ServerError> {
    let api_url = api_url_of(spec, binding_namespace)?;
    check_server(spec, binding_namespace, &api_url, servers)?;
    Ok(Connection {
        api_url,
        auth: auth(spec, values)?,
        headers: headers(spec, values)?,
        ca: ca(spec, values)?,
        shared: None,
    })
}

/// Checks that the flags allow the server of a `server` field, whose URL is `api_url`.
///
/// # Errors
/// If they do not.
pub fn check_server(
    spec: &ServerSpec,
    binding_namespace: &str,
    api_url: &Url,
    servers: &AllowedServers,
) -> Result<(), ServerError> {
    match service_of(spec, binding_namespace) {
        Some(service) => servers.services.check(&service, binding_namespace),
        None => servers.hosts.check(api_url),
    }
    .map_err(|refused| ServerError::HostNotAllowed {
        field: if spec.name.is_some() {
            "spec.prefect.server.name"
        } else {
            "spec.prefect.server.remoteApiUrl"
        },
        refused,
    })
}

/// The Service that a `server` field names by `name` and `namespace`.
#[must_use]
pub fn service_of(spec: &ServerSpec, binding_namespace: &str) -> Option<ServiceName> {
    let name = spec.name.clone()?;
    let namespace = spec.namespace.as_deref().unwrap_or(binding_namespace);
    Some(ServiceName {
        namespace: namespace.to_owned(),
        name,
    })
}

fn auth(spec: &ServerSpec, values: &ReferenceValues) -> Result<Auth, ServerError> {
    if let Some(key) = &spec.api_key {
        let purpose = Purpose::ApiKey;
        let value = match &key.value {
            Some(inline) => &inline.0,
            None => required(values, purpose)?,
        };
        return Ok(Auth::Bearer(header_text(value.trim(), purpose)?));
    }
    if spec.basic_auth.is_some() {
        let purpose = Purpose::BasicAuth;
        // A password may end in a space, but not in the line break that an editor appended.
        let value = required(values, purpose)?.trim_end_matches(['\r', '\n']);
        return if value.is_empty() {
            Err(ServerError::EmptyValue { purpose })
        } else if !value.contains(':') {
            Err(ServerError::NotUserPassword)
        } else {
            Ok(Auth::Basic(value.into()))
        };
    }
    Ok(Auth::None)
}

fn headers(
    spec: &ServerSpec,
    values: &ReferenceValues,
) -> Result<Vec<(String, SecretString)>, ServerError> {
    let headers = spec.headers.iter().enumerate();
    headers
        .map(|(index, header)| {
            let name = HeaderName::from_bytes(header.name.as_bytes())
                .ok()
                .filter(|name| !RESERVED_HEADERS.contains(&name.as_str()))
                .ok_or(ServerError::InvalidHeaderName { index })?;
            let purpose = Purpose::Header(index);
            let value = match &header.value {
                Some(inline) => &inline.0,
                None => required(values, purpose)?,
            };
            Ok((
                name.as_str().to_owned(),
                header_text(value.trim(), purpose)?,
            ))
        })
        .collect()
}

fn required(values: &ReferenceValues, purpose: Purpose) -> Result<&str, ServerError> {
    values
        .get(purpose)
        .ok_or(ServerError::MissingValue { purpose })
}

fn header_text(text: &str, purpose: Purpose) -> Result<SecretString, ServerError> {
    if text.is_empty() {
        return Err(ServerError::EmptyValue { purpose });
    }
    match HeaderValue::from_str(text) {
        Ok(value) if value.to_str().is_ok() => Ok(text.into()),
        _ => Err(ServerError::InvalidHeaderValue { purpose }),
    }
}

fn ca(spec: &ServerSpec, values: &ReferenceValues) -> Result<Option<String>, ServerError> {
    if spec.ca_bundle.is_none() {
        return Ok(None);
    }
    let purpose = Purpose::CaBundle;
    let pem = required(values, purpose)?.trim();
    if pem.is_empty() {
        return Err(ServerError::EmptyValue { purpose });
    }
    match Certificate::from_pem_bundle(pem.as_bytes()) {
        Ok(certificates) if !certificates.is_empty() => Ok(Some(pem.to_owned())),
        _ => Err(ServerError::NotPem),
    }
}

#[cfg(test)]
mod tests;

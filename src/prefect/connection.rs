//! Where a Prefect server is and how it is spoken to, out of the binding's `server` stanza.
//!
//! In: the stanza, the binding's namespace, the values that the stanza refers to, and the hosts that the operator's flags allow. Out: a
//! [`Connection`], by which equal servers with equal credentials are one and the same. It reads no reference itself and sends nothing.

use std::{
    collections::BTreeMap,
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

use crate::{
    crd::{KeyRef, KeyRefSource, ReferenceKind, ServerSpec},
    outbound::{AllowedHosts, HostRefused, in_cluster_url},
    reason::Reason,
    upstream::limiter::LimitKey,
};

/// Prefect Cloud's API.
const CLOUD_API_URL: &str = "https://api.prefect.cloud/api";
/// The port of a server in the cluster, as prefect-operator and the charts have it.
const DEFAULT_PORT: u16 = 4200;
/// Headers that belong to the client itself. The CRD refuses most of them at apply; this list holds where the CRD was not asked.
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

/// What a reference of the stanza is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// The API key.
    ApiKey,
    /// `user:password`.
    BasicAuth,
    /// The value of the header at this place of the list.
    Header(usize),
    /// The certificate authorities.
    CaBundle,
}

impl fmt::Display for Purpose {
    /// The field of the binding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey => f.write_str("spec.prefect.server.apiKey"),
            Self::BasicAuth => f.write_str("spec.prefect.server.basicAuth"),
            Self::Header(index) => write!(f, "spec.prefect.server.headers[{index}]"),
            Self::CaBundle => f.write_str("spec.prefect.server.caBundle"),
        }
    }
}

/// A key of an object in the binding's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Secret or `ConfigMap`.
    pub kind: ReferenceKind,
    /// Name of the object.
    pub name: String,
    /// Key in its data.
    pub key: String,
    /// What it is for. Its `Display` is the field of the binding.
    pub purpose: Purpose,
}

/// The values of the references, as read.
#[derive(Clone, Default)]
pub struct ReferenceValues(BTreeMap<Purpose, SecretString>);

impl ReferenceValues {
    /// Notes a value.
    pub fn insert(&mut self, purpose: Purpose, value: SecretString) {
        self.0.insert(purpose, value);
    }

    fn get(&self, purpose: Purpose) -> Result<&str, ServerError> {
        self.0
            .get(&purpose)
            .map(ExposeSecret::expose_secret)
            .ok_or(ServerError::MissingValue { purpose })
    }
}

/// Every key that the stanza refers to.
#[must_use]
pub fn references(spec: &ServerSpec) -> Vec<Reference> {
    fn reference(kind: ReferenceKind, at: &KeyRef, purpose: Purpose) -> Reference {
        Reference {
            kind,
            name: at.name.clone(),
            key: at.key.clone(),
            purpose,
        }
    }
    fn from_source(source: &KeyRefSource, purpose: Purpose) -> Option<Reference> {
        let secret = source.secret_key_ref.as_ref();
        let config_map = source.config_map_key_ref.as_ref();
        secret
            .map(|at| reference(ReferenceKind::Secret, at, purpose))
            .or_else(|| config_map.map(|at| reference(ReferenceKind::ConfigMap, at, purpose)))
    }
    let api_key = spec
        .api_key
        .iter()
        .filter(|key| key.value.is_none())
        .filter_map(|key| from_source(key.value_from.as_ref()?, Purpose::ApiKey));
    let basic_auth = spec.basic_auth.iter().map(|auth| {
        reference(
            ReferenceKind::Secret,
            &auth.value_from.secret_key_ref,
            Purpose::BasicAuth,
        )
    });
    let headers = spec
        .headers
        .iter()
        .enumerate()
        .filter_map(|(index, header)| {
            let source = header
                .value_from
                .as_ref()
                .filter(|_| header.value.is_none())?;
            Some(reference(
                ReferenceKind::Secret,
                &source.secret_key_ref,
                Purpose::Header(index),
            ))
        });
    let ca = spec
        .ca_bundle
        .iter()
        .filter_map(|bundle| from_source(&bundle.value_from, Purpose::CaBundle));
    api_key.chain(basic_auth).chain(headers).chain(ca).collect()
}

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

/// URL, credentials, headers and certificate authorities, to compare.
type Identity<'a> = (
    &'a Url,
    (u8, &'a str),
    Vec<(&'a str, &'a str)>,
    Option<&'a str>,
);

/// All that makes a server's answers differ. Two that are equal may share a client and its answers.
#[derive(Clone)]
pub struct Connection {
    /// URL of the API, without a slash at its end.
    pub api_url: Url,
    /// Credentials.
    pub auth: Auth,
    /// Extra headers, in the order of the stanza.
    pub headers: Vec<(String, SecretString)>,
    /// Certificate authorities in PEM, beside the system's roots.
    pub ca: Option<String>,
}

impl Connection {
    /// Its host, with the port unless that is the scheme's own, as errors name it.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.api_url.host_str().unwrap_or_default();
        match self.api_url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// By what requests are counted: Prefect Cloud counts for each account, over all paths of its API; a server of one's own has no limit.
    pub(super) fn limit_key(&self) -> LimitKey {
        let mut segments = self.api_url.path_segments().into_iter().flatten();
        let account = segments
            .find(|segment| *segment == "accounts")
            .and_then(|_| segments.next());
        LimitKey {
            upstream: self.api_url.origin().ascii_serialization().into(),
            account: account.map(|account| Sha256::digest(account).into()),
        }
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

/// Why the stanza does not give a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// Nothing says where the server is.
    #[error(
        "spec.prefect.server does not say where the server is: give name for a server in this cluster, remoteApiUrl for any other, or accountId and workspaceId for Prefect Cloud"
    )]
    MissingAddress,
    /// The URL is none.
    #[error(
        "spec.prefect.server.remoteApiUrl is not a URL of an API: write one such as https://prefect.example.com/api, without query"
    )]
    InvalidUrl,
    /// Name, namespace or an id cannot be part of a URL.
    #[error(
        "spec.prefect.server.{field} cannot be part of a URL: use letters, digits and dashes only"
    )]
    InvalidUrlPart {
        /// Which.
        field: &'static str,
    },
    /// The operator's flags do not allow the host.
    #[error("spec.prefect.server.remoteApiUrl: {0}")]
    HostNotAllowed(HostRefused),
    /// A header of that name cannot be sent.
    #[error(
        "spec.prefect.server.headers[{index}] has a name that cannot be used: write that of an extra header, such as CF-Access-Client-Id"
    )]
    InvalidHeaderName {
        /// Its place in the list.
        index: usize,
    },
    /// A reference's value was not read.
    #[error(
        "{purpose} has no value: give value, or valueFrom with an object and a key that are there"
    )]
    MissingValue {
        /// The field.
        purpose: Purpose,
    },
    /// A value is empty.
    #[error("{purpose} is empty: put a value under the key that it names")]
    EmptyValue {
        /// The field.
        purpose: Purpose,
    },
    /// A value cannot be sent in a header.
    #[error(
        "{purpose} cannot be sent in a header: its value must be one line of printable characters"
    )]
    InvalidHeaderValue {
        /// The field.
        purpose: Purpose,
    },
    /// The value is not `user:password`.
    #[error(
        "{} must be user:password, as in PREFECT_SERVER_API_AUTH_STRING: its value has no colon; an API key belongs into spec.prefect.server.apiKey",
        Purpose::BasicAuth
    )]
    NotUserPassword,
    /// The certificate authorities are not PEM.
    #[error(
        "{} holds no certificate in PEM: it must have BEGIN CERTIFICATE and END CERTIFICATE lines",
        Purpose::CaBundle
    )]
    NotPem,
}

impl ServerError {
    /// The word for the condition.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::MissingAddress
            | Self::InvalidUrl
            | Self::InvalidUrlPart { .. }
            | Self::InvalidHeaderName { .. } => Reason::InvalidSpec,
            Self::HostNotAllowed(refused) => refused.reason(),
            Self::MissingValue { .. } => Reason::ReferenceMissing,
            Self::EmptyValue { .. }
            | Self::InvalidHeaderValue { .. }
            | Self::NotUserPassword
            | Self::NotPem => Reason::ReferenceInvalid,
        }
    }
}

/// URL of the stanza's API, without a slash at its end.
///
/// # Errors
/// If the stanza does not say where the server is, or says it in a way that is no URL.
pub fn api_url_of(spec: &ServerSpec, namespace: &str) -> Result<Url, ServerError> {
    if let Some(name) = &spec.name {
        let namespace = spec.namespace.as_deref().unwrap_or(namespace);
        let mut url = in_cluster_url(name, namespace, DEFAULT_PORT).map_err(|refused| {
            let field = match refused {
                HostRefused::InvalidLabel { field: what } => what,
                _ => "name",
            };
            ServerError::InvalidUrlPart { field }
        })?;
        url.set_path("/api");
        return Ok(url);
    }
    let workspace = match (&spec.account_id, &spec.workspace_id) {
        (Some(account), Some(workspace)) => Some(format!(
            "accounts/{}/workspaces/{}",
            url_part("accountId", account)?,
            url_part("workspaceId", workspace)?
        )),
        _ => None,
    };
    let base = match (&spec.remote_api_url, &workspace) {
        (Some(url), _) => url,
        (None, Some(_)) => CLOUD_API_URL,
        (None, None) => return Err(ServerError::MissingAddress),
    };
    let mut url = Url::parse(base.trim()).map_err(|_| ServerError::InvalidUrl)?;
    if url.cannot_be_a_base()
        || !url.has_host()
        || !matches!(url.scheme(), "http" | "https")
        || url.query().is_some()
    {
        return Err(ServerError::InvalidUrl);
    }
    url.set_fragment(None);
    let mut path = url.path().trim_end_matches('/').to_owned();
    if !path.ends_with("/api") && !is_workspace(&path) {
        path.push_str("/api");
    }
    if let Some(workspace) = workspace.filter(|_| !is_workspace(&path)) {
        path = format!("{path}/{workspace}");
    }
    url.set_path(&path);
    Ok(url)
}

/// Whether a path already is that of a Cloud workspace: `…/api/accounts/A/workspaces/W`.
fn is_workspace(path: &str) -> bool {
    let parts: Vec<&str> = path.rsplit('/').take(5).collect();
    matches!(parts[..], [_, "workspaces", _, "accounts", "api"])
}

fn url_part<'a>(field: &'static str, text: &'a str) -> Result<&'a str, ServerError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !text.is_empty() && text.bytes().all(plain) {
        Ok(text)
    } else {
        Err(ServerError::InvalidUrlPart { field })
    }
}

/// Whether two URLs mean the same API, though one of them may spell a Service's name in full.
#[must_use]
pub fn same_api(one: &Url, other: &Url) -> bool {
    fn canonical(url: &Url) -> (&str, Option<&str>, Option<u16>, &str) {
        let host = url.host_str().map(|host| {
            let host = host.trim_end_matches('.');
            let host = host.strip_suffix(".cluster.local").unwrap_or(host);
            host.strip_suffix(".svc").unwrap_or(host)
        });
        let path = url.path().trim_end_matches('/');
        (url.scheme(), host, url.port_or_known_default(), path)
    }
    canonical(one) == canonical(other)
}

/// The connection that a stanza means.
///
/// # Errors
/// [`ServerError`]: the stanza says nothing that can be used, a host is not allowed, or a referenced value cannot be used.
pub fn connection(
    spec: &ServerSpec,
    binding_namespace: &str,
    values: &ReferenceValues,
    hosts: &AllowedHosts,
) -> Result<Connection, ServerError> {
    let api_url = api_url_of(spec, binding_namespace)?;
    // A Service in this cluster is always allowed; everything else only if the flags say so.
    if spec.name.is_none() {
        hosts.check(&api_url).map_err(ServerError::HostNotAllowed)?;
    }
    Ok(Connection {
        api_url,
        auth: auth(spec, values)?,
        headers: headers(spec, values)?,
        ca: ca(spec, values)?,
    })
}

fn auth(spec: &ServerSpec, values: &ReferenceValues) -> Result<Auth, ServerError> {
    if let Some(key) = &spec.api_key {
        let purpose = Purpose::ApiKey;
        let value = match &key.value {
            Some(inline) => &inline.0,
            None => values.get(purpose)?,
        };
        return Ok(Auth::Bearer(header_text(value.trim(), purpose)?));
    }
    if spec.basic_auth.is_some() {
        let purpose = Purpose::BasicAuth;
        // A password may end in a space, but not in the newline that an editor left.
        let value = values.get(purpose)?.trim_end_matches(['\r', '\n']);
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
                None => values.get(purpose)?,
            };
            Ok((
                name.as_str().to_owned(),
                header_text(value.trim(), purpose)?,
            ))
        })
        .collect()
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
    let pem = values.get(purpose)?.trim();
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

//! The keys of Secrets and ConfigMaps that a `server` field references.
//!
//! Input: the `server` field of a binding, or of a `ClusterPrefectServer`.
//! Output: its [`Reference`]s; [`ReferenceValues`] carries their values back.
//! Invariants: pure. The values have no `Debug`.

use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret, SecretString};

use crate::crd::{KeyRef, KeyRefSource, ReferenceKind, ServerSpec};

/// The field that a reference gives the value of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// The API key.
    ApiKey,
    /// `user:password`.
    BasicAuth,
    /// The value of the header at this index of the list.
    Header(usize),
    /// The certificate authorities.
    CaBundle,
}

impl fmt::Display for Purpose {
    /// The path of the field in the binding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey => f.write_str("spec.prefect.server.apiKey"),
            Self::BasicAuth => f.write_str("spec.prefect.server.basicAuth"),
            Self::Header(index) => write!(f, "spec.prefect.server.headers[{index}]"),
            Self::CaBundle => f.write_str("spec.prefect.server.caBundle"),
        }
    }
}

/// A key of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Secret or `ConfigMap`.
    pub kind: ReferenceKind,
    /// Namespace of the object. None if it is that of the binding.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
    /// Key in its data.
    pub key: String,
    /// The field that it gives the value of. Its `Display` is the path of that field.
    pub purpose: Purpose,
}

/// The resolved values of the references.
#[derive(Clone, Default)]
pub struct ReferenceValues(BTreeMap<Purpose, SecretString>);

impl ReferenceValues {
    /// Adds a value.
    pub fn insert(&mut self, purpose: Purpose, value: SecretString) {
        self.0.insert(purpose, value);
    }

    /// The value of a reference, if it was resolved.
    #[must_use]
    pub fn get(&self, purpose: Purpose) -> Option<&str> {
        self.0.get(&purpose).map(ExposeSecret::expose_secret)
    }
}

/// All keys that the `server` field references.
#[must_use]
pub fn references(spec: &ServerSpec) -> Vec<Reference> {
    fn reference(kind: ReferenceKind, at: &KeyRef, purpose: Purpose) -> Reference {
        Reference {
            kind,
            namespace: at.namespace.clone(),
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

//! The desired Secret.
//!
//! Input: the binding's spec, and the values of its configs.
//! Output: the whole Secret ([`Desired`]), or why it cannot exist.
//! Invariants: pure; copies values of any text byte for byte.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{
    content_hash::HashKey,
    files::{self, Files, FilesError, files},
    key_filter::{ForbiddenNames, is_proxy},
    keys::{KeysError, SourceValues, keys},
    limits::{MAX_TOTAL_BYTES, MAX_VALUE_BYTES},
    merge::Collision,
    metadata::{
        ADOPTED, BINDING, BINDING_UID, CONFIG, CONTENT_HASH, InvalidMetadata, PROJECT, annotations,
        labels,
    },
    secret_type::{InvalidType, check_type},
    template::Problem,
};
use crate::{
    crd::{
        DopplerPrefectBinding, DopplerSpec, ENTRIES_ANNOTATION, ExcludedKey, ManagedSecretSpec,
        SecretType,
    },
    failure::Failure,
    printable::count,
    reason::Reason,
};

/// Bytes per key besides its name: `"f:":{},` in the managed fields, and tags and lengths in the
/// map.
const OVERHEAD_PER_KEY: usize = 24;
/// Wait before templates are rendered again, if there was no thread for it.
const NO_THREAD_WAIT: Duration = Duration::from_secs(30);

/// What the Secret is built from, besides the values.
#[derive(Clone, Copy, Debug)]
pub struct DesiredInput<'a> {
    /// Name of the binding.
    pub binding: &'a str,
    /// UID of the binding.
    pub binding_uid: &'a str,
    /// Namespace of both.
    pub namespace: &'a str,
    /// The filters of names.
    pub doppler: &'a DopplerSpec,
    /// The spec of the Secret.
    pub managed: &'a ManagedSecretSpec,
    /// The names that the operator's flags forbid.
    pub forbidden: &'a ForbiddenNames,
    /// The installation's hash key.
    pub key: &'a HashKey,
}

/// The desired Secret. A binding with files has a second one.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// UID of the binding.
    pub binding_uid: String,
    /// Names and values.
    pub data: BTreeMap<String, SecretSlice<u8>>,
    /// Type.
    pub type_: SecretType,
    /// Labels of the operator and of the spec.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the operator and of the spec.
    pub annotations: BTreeMap<String, String>,
    /// The owner reference to the binding, if the Secret is to have one.
    pub owner: Option<OwnerReference>,
    /// Keyed hash of the content.
    pub content_hash: String,
    /// Whether to remove the record of pool entries.
    pub removes_entries: bool,
    /// Excluded names; those that are invalid or reserved come before those that the binding's
    /// globs exclude.
    pub excluded_keys: Vec<ExcludedKey>,
    /// What to say of renames without effect.
    pub rename_note: Option<String>,
    /// Names that a later config takes from an earlier one.
    pub collisions: Vec<Collision>,
    /// The Secret with the files, if there are any.
    pub files: Option<Box<Self>>,
}

impl Desired {
    /// The same Secret with an owner reference, so that the garbage collector deletes it with its
    /// binding.
    #[must_use]
    pub fn with_owner(self, binding: &str) -> Self {
        Self {
            owner: Some(owner_reference(binding, &self.binding_uid)),
            ..self
        }
    }

    /// The same Secret with this record of the pool entries that name it, or without a record. By
    /// default, a record stays as it is.
    #[must_use]
    pub fn with_entries(mut self, record: Option<String>) -> Self {
        self.removes_entries = record.is_none();
        if let Some(record) = record {
            self.annotations
                .insert(ENTRIES_ANNOTATION.to_owned(), record);
        }
        self
    }

    /// The same Secret with the mark that the binding adopts it. An adopted Secret has no owner,
    /// unless `deletes` says that it is deleted with the binding.
    #[must_use]
    pub fn as_adopted(mut self, deletes: bool) -> Self {
        self.annotations
            .insert(ADOPTED.to_owned(), "true".to_owned());
        self.owner = self.owner.filter(|_| deletes);
        self
    }

    /// Names and values as texts, which those of the environment are.
    #[must_use]
    pub fn texts(&self) -> BTreeMap<String, SecretString> {
        let texts = self.data.iter().filter_map(|(name, value)| {
            let text = str::from_utf8(value.expose_secret()).ok()?;
            Some((name.clone(), text.into()))
        });
        texts.collect()
    }

    /// What to say of the keys that choose the proxy of job pods, if there are any: with them, the
    /// config decides through whom the runs send their requests.
    #[must_use]
    pub fn proxy_note(&self) -> Option<String> {
        let names: Vec<&str> = self
            .data
            .keys()
            .map(String::as_str)
            .filter(|name| is_proxy(name))
            .collect();
        (!names.is_empty()).then(|| {
            format!(
                "these keys choose the proxy of job pods: {}",
                names.join(", ")
            )
        })
    }
}

/// Why the Secret cannot exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The values do not become keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The files cannot be made.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The type needs something else.
    #[error(transparent)]
    Type(#[from] InvalidType),
    /// A label or an annotation is invalid.
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
    /// The values or the whole object exceed a limit.
    #[error(
        "the values of {} are {values} bytes ({total} with names and metadata); a Kubernetes Secret holds at most {MAX_VALUE_BYTES} ({MAX_TOTAL_BYTES}): select fewer with spec.doppler.include or exclude, or split the config",
        count(*keys, "key")
    )]
    TooLarge {
        /// How many values.
        keys: usize,
        /// Bytes of values.
        values: usize,
        /// Bytes in all, see [`MAX_TOTAL_BYTES`].
        total: usize,
    },
}

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Self {
        Self {
            retry_after: error.retry_after(),
            ..Self::new(error.reason(), error.to_string())
        }
    }
}

impl SecretError {
    /// How long to wait before the next attempt, if the same input may succeed then.
    fn retry_after(&self) -> Option<Duration> {
        let Self::Files(FilesError::Template(error)) = self else {
            return None;
        };
        (error.problem == Problem::NoThread).then_some(NO_THREAD_WAIT)
    }

    /// The reason for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Keys(error) => error.reason(),
            Self::Files(error) => error.reason(),
            Self::Type(_) => Reason::SecretTypeIncomplete,
            Self::Metadata(_) => Reason::InvalidSpec,
            Self::TooLarge { .. } => Reason::SecretTooLarge,
        }
    }
}

/// The owner reference by which the garbage collector deletes a Secret with its binding.
#[must_use]
pub fn owner_reference(binding: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: DopplerPrefectBinding::api_version(&()).into_owned(),
        kind: DopplerPrefectBinding::kind(&()).into_owned(),
        name: binding.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// Builds the desired Secret from the values of `sources`, without an owner reference. Its annotations
/// name the last one.
///
/// # Errors
/// If a rule for names, a label or an annotation of the spec is invalid, if keys meet and the spec
/// refuses that, or if the values do not fit into a Secret.
pub fn desired(
    input: &DesiredInput<'_>,
    sources: &[SourceValues<'_>],
) -> Result<Desired, SecretError> {
    let keys = keys(input.doppler, input.managed, input.forbidden, sources)?;
    let (name, type_) = (
        input.managed.name.as_deref().unwrap_or(input.binding),
        input.managed.type_.unwrap_or_default(),
    );
    let last = sources.last();
    let build = |name: &str, type_: SecretType, data| build(input, last, name, type_, data);
    let mut excluded_keys = keys.excluded.clone();
    let files_name = input.managed.files_secret_name(name);
    let (own_type, files) = match files_name {
        None => (type_, None),
        Some(_) if sources.is_empty() => {
            files::check(&input.managed.files)?;
            (SecretType::Opaque, None)
        }
        Some(files_name) => {
            let Files { data, excluded } = files(&input.managed.files, &keys)?;
            check_type(type_, &data)?;
            excluded_keys.extend(excluded);
            let files = build(&files_name, type_, data)?;
            (SecretType::Opaque, Some(Box::new(files)))
        }
    };
    let data = keys.data.iter().map(|(name, value)| {
        let bytes = value.expose_secret().as_bytes().to_vec();
        (name.clone(), SecretSlice::from(bytes))
    });
    let data = data.collect();
    if !sources.is_empty() {
        check_type(own_type, &data)?;
    }
    Ok(Desired {
        excluded_keys,
        rename_note: keys.note,
        collisions: keys.collisions,
        files,
        ..build(name, own_type, data)?
    })
}

/// A Secret with this content, without what only the Secret of the environment has.
fn build(
    input: &DesiredInput<'_>,
    last: Option<&SourceValues<'_>>,
    name: &str,
    type_: SecretType,
    data: BTreeMap<String, SecretSlice<u8>>,
) -> Result<Desired, SecretError> {
    let labels = labels(input.managed)?;
    let content_hash = input.key.content_hash(input.binding_uid, type_, &data);
    let own = [
        (BINDING_UID, input.binding_uid),
        (BINDING, input.binding),
        (PROJECT, last.map_or("", |source| source.project)),
        (CONFIG, last.map_or("", |source| source.config)),
        (CONTENT_HASH, &content_hash),
    ];
    let annotations = annotations(input.managed, &own)?;
    check_size(&data, &labels, &annotations)?;
    Ok(Desired {
        name: name.to_owned(),
        namespace: input.namespace.to_owned(),
        binding_uid: input.binding_uid.to_owned(),
        owner: None,
        removes_entries: false,
        data,
        type_,
        labels,
        annotations,
        content_hash,
        excluded_keys: Vec::new(),
        rename_note: None,
        collisions: Vec::new(),
        files: None,
    })
}

fn check_size(
    data: &BTreeMap<String, SecretSlice<u8>>,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> Result<(), SecretError> {
    let values: usize = data.values().map(|value| value.expose_secret().len()).sum();
    let keys: usize = data
        .keys()
        .map(|key| 2 * key.len() + OVERHEAD_PER_KEY)
        .sum();
    let metadata: usize = labels
        .iter()
        .chain(annotations)
        .map(|(key, value)| 2 * key.len() + value.len() + OVERHEAD_PER_KEY)
        .sum();
    let total = values + keys + metadata;
    if values > MAX_VALUE_BYTES || total > MAX_TOTAL_BYTES {
        return Err(SecretError::TooLarge {
            keys: data.len(),
            values,
            total,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

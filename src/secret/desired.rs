//! The Secret as it should be.
//!
//! In: the binding's spec, project and config, and the values as Doppler gave them. Out: the whole Secret ([`Desired`]), or why there can be none.
//! Pure. Values of any text are passed on byte for byte.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use secrecy::{ExposeSecret, SecretString};

use super::{
    content_hash::HashKey,
    key_filter::{Exclusion, InvalidGlob, KeyFilter},
};
use crate::{
    crd::{
        DopplerPrefectBinding, DopplerSpec, ExcludedKey, MANAGED_BY, MANAGED_BY_LABEL,
        ManagedSecretSpec,
    },
    reason::Reason,
};

/// Annotation: UID of the binding whose Secret it is.
pub const BINDING_UID: &str = "doppler-prefect.dev/binding-uid";
/// Annotation: name of that binding.
pub const BINDING: &str = "doppler-prefect.dev/binding";
/// Annotation: Doppler project.
pub const PROJECT: &str = "doppler-prefect.dev/project";
/// Annotation: Doppler config.
pub const CONFIG: &str = "doppler-prefect.dev/config";
/// Annotation: keyed hash of the content.
pub const CONTENT_HASH: &str = "doppler-prefect.dev/content-hash";
/// Type of every Secret that is written.
pub const TYPE: &str = "Opaque";

/// Most bytes of values in a Secret: the API server's `MaxSecretSize`, which counts values only.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Most bytes of the whole object. etcd takes requests of 1.5 MiB (1,572,864 bytes), in which values are raw (the API server stores protobuf,
/// not base64) and each key stands twice: in `data` and in the managed fields. 64 KiB are left for metadata of others and for encryption at rest.
/// The request itself, with its base64 (4/3 of 1 MiB) and keys, stays below the 3 MiB that the API server reads.
pub const MAX_TOTAL_BYTES: usize = 1536 * 1024 - 64 * 1024;
/// Bytes that a key costs beside its name: `"f:":{},` in the managed fields, and tags and lengths in the map.
const OVERHEAD_PER_KEY: usize = 24;
/// Most bytes of annotations, as the API server counts them.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// What the Secret is made from, beside the values.
#[derive(Clone, Copy, Debug)]
pub struct DesiredInput<'a> {
    /// Name of the binding.
    pub binding: &'a str,
    /// UID of the binding.
    pub binding_uid: &'a str,
    /// Namespace of both.
    pub namespace: &'a str,
    /// Filters of names.
    pub doppler: &'a DopplerSpec,
    /// The Secret's spec.
    pub managed: &'a ManagedSecretSpec,
    /// Doppler project.
    pub project: &'a str,
    /// Doppler config.
    pub config: &'a str,
    /// The installation's key.
    pub key: &'a HashKey,
}

/// The Secret as it should be.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// UID of the binding.
    pub binding_uid: String,
    /// Names and values.
    pub data: BTreeMap<String, SecretString>,
    /// Labels of ours and of the spec.
    pub labels: BTreeMap<String, String>,
    /// Annotations of ours and of the spec.
    pub annotations: BTreeMap<String, String>,
    /// The owner reference to the binding, if one is wanted.
    pub owner: Option<OwnerReference>,
    /// Keyed hash of the content.
    pub content_hash: String,
    /// Names that are not passed on; those that the guard holds come before those that the binding's globs hold.
    pub excluded_keys: Vec<ExcludedKey>,
}

impl Desired {
    /// The same, to go with its binding by garbage collection.
    #[must_use]
    pub fn with_owner(self, binding: &str) -> Self {
        Self {
            owner: Some(owner_reference(binding, &self.binding_uid)),
            ..self
        }
    }
}

/// Why there can be no Secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A glob cannot be read.
    #[error(transparent)]
    Glob(#[from] InvalidGlob),
    /// A label or annotation cannot be set.
    #[error("spec.managedSecret.{field} has `{key}`: {problem}")]
    Metadata {
        /// `labels` or `annotations`.
        field: &'static str,
        /// Its key.
        key: String,
        /// What to write instead.
        problem: &'static str,
    },
    /// Too many bytes.
    #[error(
        "the {keys} values are {values} bytes ({total} with names and metadata); a Kubernetes Secret holds {MAX_VALUE_BYTES} ({MAX_TOTAL_BYTES}): pass on fewer with spec.doppler.include or exclude, or split the config"
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

impl SecretError {
    /// The word for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Glob(_) | Self::Metadata { .. } => Reason::InvalidSpec,
            Self::TooLarge { .. } => Reason::SecretTooLarge,
        }
    }
}

/// The reference by which a Secret goes with its binding.
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

/// The Secret that `values` make.
///
/// # Errors
/// If a glob, a label or an annotation of the spec is invalid, or the values do not fit into a Secret.
pub fn desired(
    input: &DesiredInput<'_>,
    values: &BTreeMap<String, SecretString>,
) -> Result<Desired, SecretError> {
    let guard = KeyFilter::new(input.doppler, input.managed)?;
    let mut data = BTreeMap::new();
    let mut held: Vec<(Exclusion, &str)> = Vec::new();
    for (name, value) in values {
        match guard.exclusion(name) {
            Some(why) => held.push((why, name)),
            // No container starts with such an environment.
            None if value.expose_secret().contains('\0') => held.push((Exclusion::NulByte, name)),
            None => {
                data.insert(name.clone(), value.clone());
            }
        }
    }
    held.sort_unstable();

    let labels = labels(input.managed)?;
    let content_hash = input.key.content_hash(input.binding_uid, &data);
    let annotations = annotations(input, &content_hash)?;
    check_size(&data, &labels, &annotations)?;

    Ok(Desired {
        name: input
            .managed
            .name
            .as_deref()
            .unwrap_or(input.binding)
            .to_owned(),
        namespace: input.namespace.to_owned(),
        binding_uid: input.binding_uid.to_owned(),
        owner: None,
        data,
        labels,
        annotations,
        content_hash,
        excluded_keys: held
            .into_iter()
            .map(|(why, name)| ExcludedKey {
                name: name.to_owned(),
                reason: why.explanation(name),
            })
            .collect(),
    })
}

fn labels(managed: &ManagedSecretSpec) -> Result<BTreeMap<String, String>, SecretError> {
    for (key, value) in &managed.labels {
        check_metadata_key("labels", key)?;
        if !(value.is_empty() || is_qualified_name(value)) {
            return Err(SecretError::Metadata {
                field: "labels",
                key: key.clone(),
                problem: "a label's value is empty, or letters, digits, `-`, `_` and `.`, at most 63, with a letter or digit at both ends",
            });
        }
    }
    let mut labels = managed.labels.clone();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    Ok(labels)
}

fn annotations(
    input: &DesiredInput<'_>,
    content_hash: &str,
) -> Result<BTreeMap<String, String>, SecretError> {
    let mut size = 0;
    for (key, value) in &input.managed.annotations {
        check_metadata_key("annotations", key)?;
        size += key.len() + value.len();
        if size > MAX_ANNOTATION_BYTES - 4096 {
            return Err(SecretError::Metadata {
                field: "annotations",
                key: key.clone(),
                problem: "annotations are 256 KiB at most, all together: write shorter ones",
            });
        }
    }
    let mut annotations = input.managed.annotations.clone();
    annotations.extend(
        [
            (BINDING_UID, input.binding_uid),
            (BINDING, input.binding),
            (PROJECT, input.project),
            (CONFIG, input.config),
            (CONTENT_HASH, content_hash),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    Ok(annotations)
}

fn check_size(
    data: &BTreeMap<String, SecretString>,
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

fn check_metadata_key(field: &'static str, key: &str) -> Result<(), SecretError> {
    let invalid = |problem| {
        Err(SecretError::Metadata {
            field,
            key: key.to_owned(),
            problem,
        })
    };
    if key.contains("kubernetes.io/") || key.starts_with("doppler-prefect.dev/") {
        return invalid(
            "it means something to Kubernetes or to this operator; use a prefix of your own",
        );
    }
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if is_qualified_name(name) && prefix.is_none_or(is_domain) {
        Ok(())
    } else {
        invalid(
            "write a name such as `team` or `example.com/team`: letters, digits, `-`, `_` and `.`, at most 63, after a lower-case domain",
        )
    }
}

/// A label's name or value.
fn is_qualified_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_domain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(
        doppler: &DopplerSpec,
        managed: &ManagedSecretSpec,
        values: &[(&str, &str)],
    ) -> Result<Desired, SecretError> {
        let key = HashKey::from_bytes(&[1; 32]).unwrap();
        let input = DesiredInput {
            binding: "my-project-dev",
            binding_uid: "u1",
            namespace: "flows",
            doppler,
            managed,
            project: "my-project",
            config: "dev",
            key: &key,
        };
        let values = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect();
        desired(&input, &values)
    }

    fn build_default(values: &[(&str, &str)]) -> Result<Desired, SecretError> {
        build(
            &DopplerSpec::default(),
            &ManagedSecretSpec::default(),
            values,
        )
    }

    #[test]
    fn copies_values_byte_for_byte() {
        let values = [
            ("A", ""),
            ("B", "a\nb\r\n\n"),
            ("C", "\"'$HOME`x`\\"),
            ("D", "🦀\u{7f}"),
            ("E", " x "),
        ];
        let desired = build_default(&values).unwrap();
        for (name, value) in values {
            assert_eq!(desired.data[name].expose_secret(), value);
        }
        assert!(!format!("{desired:?}").contains("🦀"));
    }

    #[test]
    fn excludes_a_value_with_a_nul_byte() {
        let desired = build_default(&[("A", "x"), ("B", "a\u{0}b")]).unwrap();
        assert!(desired.data.contains_key("A") && !desired.data.contains_key("B"));
        assert!(desired.excluded_keys[0].reason.contains("NUL"));
    }

    #[test]
    fn carries_owner_and_source_annotations() {
        let desired = build_default(&[("A", "b")]).unwrap();
        assert_eq!(
            (&*desired.name, &*desired.namespace),
            ("my-project-dev", "flows")
        );
        assert_eq!(desired.labels[MANAGED_BY_LABEL], MANAGED_BY);
        for (key, value) in [
            (BINDING_UID, "u1"),
            (BINDING, "my-project-dev"),
            (PROJECT, "my-project"),
            (CONFIG, "dev"),
            (CONTENT_HASH, &desired.content_hash),
        ] {
            assert_eq!(desired.annotations[key], value);
        }
        assert_eq!(desired.owner, None);
        let owner = desired.with_owner("my-project-dev").owner.unwrap();
        assert_eq!(
            (&*owner.kind, &*owner.uid, owner.controller),
            ("DopplerPrefectBinding", "u1", Some(true))
        );
    }

    #[test]
    fn lists_excluded_keys_and_leaves_them_out_of_the_hash() {
        let desired = build_default(&[("A", "b"), ("PATH", "/x"), ("a:b", "c")]).unwrap();
        assert_eq!(desired.data.len(), 1);
        assert_eq!(
            desired.content_hash,
            build_default(&[("A", "b")]).unwrap().content_hash
        );
        let names: Vec<_> = desired
            .excluded_keys
            .iter()
            .map(|held| held.name.as_str())
            .collect();
        assert_eq!(names, ["a:b", "PATH"]);
    }

    #[test]
    fn accepts_one_mebibyte_of_values_and_rejects_one_byte_more() {
        let half = "x".repeat(MAX_VALUE_BYTES / 2);
        assert!(build_default(&[("A", &half), ("B", &half)]).is_ok());
        let error = build_default(&[("A", &half), ("B", &half), ("C", "x")]).unwrap_err();
        assert_eq!(error.reason(), Reason::SecretTooLarge);
        assert!(error.to_string().contains("1048577 bytes"), "{error}");
    }

    #[test]
    fn rejects_names_that_exceed_the_etcd_request_limit() {
        let names: Vec<String> = (0..3000).map(|i| format!("{i:0>253}")).collect();
        let values: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(
            build_default(&values).unwrap_err().reason(),
            Reason::SecretTooLarge
        );
    }

    #[test]
    fn names_labels_that_the_api_server_would_reject() {
        for (key, value) in [
            ("team", "a b"),
            ("te am", "a"),
            ("app.kubernetes.io/name", "a"),
            ("A.b/c", "d"),
            ("/c", "d"),
            ("team", "-a"),
        ] {
            let managed = ManagedSecretSpec {
                labels: [(key.to_owned(), value.to_owned())].into(),
                ..Default::default()
            };
            let error = build(&DopplerSpec::default(), &managed, &[]).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidSpec);
            assert!(
                error.to_string().contains(&format!("labels has `{key}`")),
                "{error}"
            );
        }
        let managed = ManagedSecretSpec {
            labels: [("example.com/team".to_owned(), String::new())].into(),
            annotations: [("note".to_owned(), "any text\n🦀".to_owned())].into(),
            ..Default::default()
        };
        assert!(build(&DopplerSpec::default(), &managed, &[]).is_ok());
    }
}

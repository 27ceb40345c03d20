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
    key_filter::{Guard, Held, InvalidGlob},
};
use crate::{
    crd::{
        DopplerPrefectBinding, DopplerSpec, HeldBack, MANAGED_BY, MANAGED_BY_LABEL,
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
pub const MOST_VALUES: usize = 1024 * 1024;
/// Most bytes of the whole object. etcd takes requests of 1.5 MiB (1,572,864 bytes), in which values are raw (the API server stores protobuf,
/// not base64) and each key stands twice: in `data` and in the managed fields. 64 KiB are left for metadata of others and for encryption at rest.
/// The request itself, with its base64 (4/3 of 1 MiB) and keys, stays below the 3 MiB that the API server reads.
pub const MOST_TOTAL: usize = 1536 * 1024 - 64 * 1024;
/// Bytes that a key costs beside its name: `"f:":{},` in the managed fields, and tags and lengths in the map.
const PER_KEY: usize = 24;
/// Most bytes of annotations, as the API server counts them.
const MOST_ANNOTATIONS: usize = 256 * 1024;

/// What the Secret is made from, beside the values.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
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
    pub held_back: Vec<HeldBack>,
}

impl Desired {
    /// The same, to go with its binding by garbage collection.
    #[must_use]
    pub fn owned(self, binding: &str) -> Self {
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
        "the {keys} values are {values} bytes ({total} with names and metadata); a Kubernetes Secret holds {MOST_VALUES} ({MOST_TOTAL}): pass on fewer with spec.doppler.include or exclude, or split the config"
    )]
    TooLarge {
        /// How many values.
        keys: usize,
        /// Bytes of values.
        values: usize,
        /// Bytes in all, see [`MOST_TOTAL`].
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
    input: &Input<'_>,
    values: &BTreeMap<String, SecretString>,
) -> Result<Desired, SecretError> {
    let guard = Guard::new(input.doppler, input.managed)?;
    let mut data = BTreeMap::new();
    let mut held: Vec<(Held, &str)> = Vec::new();
    for (name, value) in values {
        match guard.holds(name) {
            Some(why) => held.push((why, name)),
            // No container starts with such an environment.
            None if value.expose_secret().contains('\0') => held.push((Held::Nul, name)),
            None => {
                data.insert(name.clone(), value.clone());
            }
        }
    }
    held.sort_unstable();

    let labels = labels(input.managed)?;
    let content_hash = input.key.content_hash(input.binding_uid, &data);
    let annotations = annotations(input, &content_hash)?;
    fits(&data, &labels, &annotations)?;

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
        held_back: held
            .into_iter()
            .map(|(why, name)| HeldBack {
                name: name.to_owned(),
                why: why.why(name),
            })
            .collect(),
    })
}

fn labels(managed: &ManagedSecretSpec) -> Result<BTreeMap<String, String>, SecretError> {
    for (key, value) in &managed.labels {
        check_key("labels", key)?;
        if !(value.is_empty() || is_name(value)) {
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
    input: &Input<'_>,
    content_hash: &str,
) -> Result<BTreeMap<String, String>, SecretError> {
    let mut size = 0;
    for (key, value) in &input.managed.annotations {
        check_key("annotations", key)?;
        size += key.len() + value.len();
        if size > MOST_ANNOTATIONS - 4096 {
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

fn fits(
    data: &BTreeMap<String, SecretString>,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> Result<(), SecretError> {
    let values: usize = data.values().map(|value| value.expose_secret().len()).sum();
    let keys: usize = data.keys().map(|key| 2 * key.len() + PER_KEY).sum();
    let metadata: usize = labels
        .iter()
        .chain(annotations)
        .map(|(key, value)| 2 * key.len() + value.len() + PER_KEY)
        .sum();
    let total = values + keys + metadata;
    if values > MOST_VALUES || total > MOST_TOTAL {
        return Err(SecretError::TooLarge {
            keys: data.len(),
            values,
            total,
        });
    }
    Ok(())
}

fn check_key(field: &'static str, key: &str) -> Result<(), SecretError> {
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
    if is_name(name) && prefix.is_none_or(is_domain) {
        Ok(())
    } else {
        invalid(
            "write a name such as `team` or `example.com/team`: letters, digits, `-`, `_` and `.`, at most 63, after a lower-case domain",
        )
    }
}

/// A label's name or value.
fn is_name(text: &str) -> bool {
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

    fn make(
        doppler: &DopplerSpec,
        managed: &ManagedSecretSpec,
        values: &[(&str, &str)],
    ) -> Result<Desired, SecretError> {
        let key = HashKey::from_bytes(&[1; 32]).unwrap();
        let input = Input {
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

    fn plain(values: &[(&str, &str)]) -> Result<Desired, SecretError> {
        make(
            &DopplerSpec::default(),
            &ManagedSecretSpec::default(),
            values,
        )
    }

    #[test]
    fn values_of_any_text_are_passed_on_exactly() {
        let values = [
            ("A", ""),
            ("B", "a\nb\r\n\n"),
            ("C", "\"'$HOME`x`\\"),
            ("D", "🦀\u{7f}"),
            ("E", " x "),
        ];
        let desired = plain(&values).unwrap();
        for (name, value) in values {
            assert_eq!(desired.data[name].expose_secret(), value);
        }
        assert!(!format!("{desired:?}").contains("🦀"));
    }

    #[test]
    fn a_value_with_which_no_container_starts_is_held_back() {
        let desired = plain(&[("A", "x"), ("B", "a\u{0}b")]).unwrap();
        assert!(desired.data.contains_key("A") && !desired.data.contains_key("B"));
        assert!(desired.held_back[0].why.contains("NUL"));
    }

    #[test]
    fn carries_whose_it_is_and_where_it_comes_from() {
        let desired = plain(&[("A", "b")]).unwrap();
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
        let owner = desired.owned("my-project-dev").owner.unwrap();
        assert_eq!(
            (&*owner.kind, &*owner.uid, owner.controller),
            ("DopplerPrefectBinding", "u1", Some(true))
        );
    }

    #[test]
    fn held_back_names_are_listed_with_why_and_do_not_enter_the_hash() {
        let desired = plain(&[("A", "b"), ("PATH", "/x"), ("a:b", "c")]).unwrap();
        assert_eq!(desired.data.len(), 1);
        assert_eq!(
            desired.content_hash,
            plain(&[("A", "b")]).unwrap().content_hash
        );
        let names: Vec<_> = desired
            .held_back
            .iter()
            .map(|held| held.name.as_str())
            .collect();
        assert_eq!(names, ["a:b", "PATH"]);
    }

    #[test]
    fn one_mebibyte_of_values_fits_and_a_byte_more_does_not() {
        let half = "x".repeat(MOST_VALUES / 2);
        assert!(plain(&[("A", &half), ("B", &half)]).is_ok());
        let error = plain(&[("A", &half), ("B", &half), ("C", "x")]).unwrap_err();
        assert_eq!(error.reason(), Reason::SecretTooLarge);
        assert!(error.to_string().contains("1048577 bytes"), "{error}");
    }

    #[test]
    fn names_that_would_not_fit_into_etcd_are_refused_although_values_would() {
        let names: Vec<String> = (0..3000).map(|i| format!("{i:0>253}")).collect();
        let values: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(plain(&values).unwrap_err().reason(), Reason::SecretTooLarge);
    }

    #[test]
    fn labels_and_annotations_that_the_api_server_would_refuse_are_named() {
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
            let error = make(&DopplerSpec::default(), &managed, &[]).unwrap_err();
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
        assert!(make(&DopplerSpec::default(), &managed, &[]).is_ok());
    }
}

//! Labels and annotations of the Secret.
//!
//! Input: the spec of the Secret, and the annotations of the operator.
//! Output: all labels and annotations, or which one the API server would reject.
//! Invariants: pure; the spec never replaces a label or an annotation of the operator.

use std::collections::BTreeMap;

use crate::crd::{MANAGED_BY, MANAGED_BY_LABEL, MAX_RECORD_BYTES, ManagedSecretSpec};

/// Annotation: UID of the binding that owns the Secret.
pub const BINDING_UID: &str = "doppler-prefect.dev/binding-uid";
/// Annotation: name of that binding.
pub const BINDING: &str = "doppler-prefect.dev/binding";
/// Annotation: Doppler project.
pub const PROJECT: &str = "doppler-prefect.dev/project";
/// Annotation: Doppler config.
pub const CONFIG: &str = "doppler-prefect.dev/config";
/// Annotation: keyed hash of the content.
pub const CONTENT_HASH: &str = "doppler-prefect.dev/content-hash";
/// Annotation: name of the binding that may adopt the Secret. Its owner sets it.
pub const ADOPT: &str = "doppler-prefect.dev/adopt";
/// Annotation: the binding adopted the Secret, so that by default it outlives the binding.
pub const ADOPTED: &str = "doppler-prefect.dev/adopted";
/// Limit of all annotations in bytes, as the API server counts them.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;
/// The part of it that the operator's own annotations may take.
const MAX_OWN_BYTES: usize = MAX_RECORD_BYTES + 4096;

/// A label or an annotation that the API server would reject.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.managedSecret.{field} has `{key}`: {problem}")]
pub struct InvalidMetadata {
    /// `labels` or `annotations`.
    pub field: &'static str,
    /// Its key.
    pub key: String,
    /// What to write instead.
    pub problem: &'static str,
}

/// The labels of the operator and of the spec.
///
/// # Errors
/// If the API server would reject a label of the spec.
pub(super) fn labels(
    managed: &ManagedSecretSpec,
) -> Result<BTreeMap<String, String>, InvalidMetadata> {
    for (key, value) in &managed.labels {
        check_metadata_key("labels", key)?;
        if !(value.is_empty() || is_qualified_name(value)) {
            return Err(InvalidMetadata {
                field: "labels",
                key: key.clone(),
                problem: "a label's value must be empty, or consist of at most 63 letters, digits, `-`, `_` and `.`, with a letter or a digit at both ends",
            });
        }
    }
    let mut labels = managed.labels.clone();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    Ok(labels)
}

/// The annotations of the operator and of the spec.
///
/// # Errors
/// If the API server would reject an annotation of the spec.
pub(super) fn annotations(
    managed: &ManagedSecretSpec,
    own: &[(&str, &str)],
) -> Result<BTreeMap<String, String>, InvalidMetadata> {
    let mut bytes = 0;
    for (key, value) in &managed.annotations {
        check_metadata_key("annotations", key)?;
        bytes += key.len() + value.len();
        if bytes > MAX_ANNOTATION_BYTES - MAX_OWN_BYTES {
            return Err(InvalidMetadata {
                field: "annotations",
                key: key.clone(),
                problem: "the total size limit of all annotations is 256 KiB: use shorter ones",
            });
        }
    }
    let mut annotations = managed.annotations.clone();
    annotations.extend(
        own.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    Ok(annotations)
}

fn check_metadata_key(field: &'static str, key: &str) -> Result<(), InvalidMetadata> {
    let invalid = |problem| {
        Err(InvalidMetadata {
            field,
            key: key.to_owned(),
            problem,
        })
    };
    if key.contains("kubernetes.io/") || key.starts_with("doppler-prefect.dev/") {
        return invalid(
            "this prefix belongs to Kubernetes or to this operator; use a prefix of your own",
        );
    }
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if is_qualified_name(name) && prefix.is_none_or(is_domain) {
        Ok(())
    } else {
        invalid(
            "use a name such as `team` or `example.com/team`: at most 63 letters, digits, `-`, `_` and `.`, optionally after a lower-case domain and a slash",
        )
    }
}

/// Whether it is valid as the name of a label or as its value.
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

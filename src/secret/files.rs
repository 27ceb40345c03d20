//! Makes the files of the Secret. Pure.
//!
//! Input: `spec.managedSecret.files`, and the values that become keys.
//! Output: the content of each file, and the files that are excluded with the reason.
//! Invariants: a file holds no name that the operator's flags forbid, and a file of all keys holds
//! those of the environment only. No message contains a value.

use std::collections::BTreeMap;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{
    format::{self, NameClash},
    key_filter::is_key,
    keys::Keys,
    template::{self, TemplateError},
};
use crate::{
    crd::{ExcludedKey, FileEncoding, FileSpec},
    printable,
    reason::Reason,
};

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The files of the spec.
pub type FileSpecs = BTreeMap<String, FileSpec>;

/// The content of the files.
#[derive(Debug, Default)]
pub struct Files {
    /// Content by name.
    pub data: BTreeMap<String, SecretSlice<u8>>,
    /// Files that are excluded.
    pub excluded: Vec<ExcludedKey>,
}

/// Why there are no files.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// The name of a file is no key of a Secret.
    #[error(
        "spec.managedSecret.files has `{0}`, which Kubernetes does not accept as a key of a Secret: use at most 253 letters, digits, `-`, `_` and `.`"
    )]
    Name(String),
    /// A file has not exactly one source.
    #[error("spec.managedSecret.files: {0}: set exactly one of template, from and format")]
    Source(String),
    /// A template gives no text.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A value does not exist.
    #[error(
        "spec.managedSecret.files: {file}: {name} in from is no name that Doppler returned, or excluded: correct it"
    )]
    Unknown {
        /// The file.
        file: String,
        /// The name of the value.
        name: String,
    },
    /// The keys do not fit into the format.
    #[error("spec.managedSecret.files: {file}: {clash}")]
    Format {
        /// The file.
        file: String,
        /// Why.
        clash: NameClash,
    },
}

impl FilesError {
    /// The reason for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Name(_) | Self::Source(_) => Reason::InvalidSpec,
            Self::Template(_) | Self::Unknown { .. } | Self::Format { .. } => {
                Reason::TemplateInvalid
            }
        }
    }
}

/// Makes the files for `keys`.
///
/// # Errors
/// If the spec is invalid, or a template or a name in it. Then there are no files at all.
pub fn files(specs: &FileSpecs, keys: &Keys<'_>) -> Result<Files, FilesError> {
    check_specs(specs)?;
    let rendered = template::render(&templates(specs), &keys.named)?;
    let mut files = Files {
        data: rendered,
        excluded: Vec::new(),
    };
    for (file, spec) in specs {
        if let Some(format) = spec.format {
            let clash = |clash| FilesError::Format {
                file: file.clone(),
                clash,
            };
            let text = format::write(format, &keys.data).map_err(clash)?;
            files.data.insert(file.clone(), bytes(text));
        } else if let Some(name) = &spec.from {
            let unknown = || FilesError::Unknown {
                file: file.clone(),
                name: printable::name(name),
            };
            let value = keys.named.get(name).ok_or_else(unknown)?;
            match decode(spec.encoding, value) {
                Some(content) => {
                    files.data.insert(file.clone(), content);
                }
                None => files.excluded.push(ExcludedKey {
                    name: file.clone(),
                    reason: format!(
                        "the value of {} is not base64, as encoding in spec.managedSecret.files says; correct the value or the encoding to include it",
                        printable::name(name)
                    ),
                }),
            }
        }
    }
    Ok(files)
}

/// Checks the files without values.
///
/// # Errors
/// If the spec is invalid, or the syntax of a template.
pub fn check(specs: &FileSpecs) -> Result<(), FilesError> {
    check_specs(specs)?;
    Ok(template::check_syntax(&templates(specs))?)
}

/// The rules of the CRD, which an older one may not have checked.
fn check_specs(specs: &FileSpecs) -> Result<(), FilesError> {
    for (file, spec) in specs {
        if !is_key(file) {
            return Err(FilesError::Name(printable::name(file)));
        }
        let FileSpec {
            template,
            from,
            format,
            encoding: _,
        } = spec;
        let sources = [template.is_some(), from.is_some(), format.is_some()];
        if sources.into_iter().filter(|is_set| *is_set).count() != 1 {
            return Err(FilesError::Source(file.clone()));
        }
    }
    Ok(())
}

fn templates(specs: &FileSpecs) -> BTreeMap<&str, &str> {
    let templates = specs
        .iter()
        .filter_map(|(file, spec)| Some((file.as_str(), spec.template.as_deref()?)));
    templates.collect()
}

fn bytes(text: String) -> SecretSlice<u8> {
    SecretSlice::from(text.into_bytes())
}

/// The content for a value. None if it is not in the encoding. Line breaks in base64 do not count.
fn decode(encoding: Option<FileEncoding>, value: &SecretString) -> Option<SecretSlice<u8>> {
    let value = value.expose_secret();
    match encoding.unwrap_or(FileEncoding::Plain) {
        FileEncoding::Plain => Some(bytes(value.to_owned())),
        FileEncoding::Base64 => {
            let text: Vec<u8> = value
                .bytes()
                .filter(|byte| !byte.is_ascii_whitespace())
                .collect();
            let decoded = BASE64.decode(text).ok()?;
            Some(SecretSlice::from(decoded))
        }
    }
}

#[cfg(test)]
mod tests;

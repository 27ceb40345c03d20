//! Reads bindings from files.
//!
//! Input: files of one or more YAML documents.
//! Output: the bindings in them, or why a document is not one.
//! Invariants: reads at most 4 MiB of a file; skips documents of other kinds.

use std::{
    io::{self, Read},
    path::Path,
};

use super::error::CheckError;
use crate::crd::DopplerPrefectBinding;

/// Size limit of a file in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Reads a file. `-` is standard input.
///
/// # Errors
/// If the file cannot be read or is not UTF-8.
pub(super) fn read_file(file: &Path) -> Result<String, CheckError> {
    let failed = |source| CheckError::File {
        file: file.display().to_string(),
        source,
    };
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().take(MAX_FILE_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(file)
            .map_err(failed)?
            .take(MAX_FILE_BYTES)
            .read_to_string(&mut text)
    };
    read.map_err(failed)?;
    Ok(text)
}

/// The bindings in a text of one or more YAML documents. Documents of other kinds are skipped.
pub(super) fn parse_bindings(text: &str) -> Vec<Result<DopplerPrefectBinding, String>> {
    #[derive(serde::Deserialize)]
    struct TypeMeta {
        #[serde(default)]
        kind: String,
    }
    text.split("\n---")
        .filter(|document| has_content(document))
        .filter_map(
            |document| match serde_saphyr::from_str::<TypeMeta>(document) {
                Ok(meta) if meta.kind != "DopplerPrefectBinding" => None,
                Ok(_) => Some(
                    serde_saphyr::from_str(document)
                        .map_err(|error| first_line(&error.to_string())),
                ),
                Err(error) => Some(Err(first_line(&error.to_string()))),
            },
        )
        .collect()
}

fn has_content(document: &str) -> bool {
    document.lines().any(|line| {
        !line.trim().is_empty() && !line.trim_start().starts_with('#') && line.trim() != "---"
    })
}

/// The first line of a message.
pub(super) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_other_kinds_and_reports_broken_documents() {
        let smallest = include_str!("../../examples/smallest.yaml");
        let text = format!("kind: ConfigMap\napiVersion: v1\n---\n{smallest}\n---\n# nothing\n");
        assert_eq!(parse_bindings(&text).len(), 1);
        assert!(parse_bindings("kind: DopplerPrefectBinding\nspec: {prefect: 3}\n")[0].is_err());
        assert!(parse_bindings(": : :\n\t- x")[0].is_err());
    }
}

//! Reads bindings from files.
//!
//! Input: files of one or more YAML documents, also lists.
//! Output: the bindings in them, or why a document is not one.
//! Invariants: refuses a file of more than 32 MiB; skips documents of other kinds.

use std::{
    io::{self, Read},
    path::Path,
};

use serde_json::Value;

use super::{
    error::CheckError,
    schema::{API_VERSION, stored},
};
use crate::{crd::DopplerPrefectBinding, printable};

/// Size limit of a file in bytes.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
const KIND: &str = "DopplerPrefectBinding";
/// The kind of servers that many namespaces share.
const SERVER_KIND: &str = "ClusterPrefectServer";

/// Reads a file. `-` is standard input.
///
/// # Errors
/// If the file cannot be read or is not UTF-8.
pub(crate) fn read_file(file: &Path) -> Result<String, CheckError> {
    let failed = |source| CheckError::File {
        file: file.display().to_string(),
        source,
    };
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin()
            .take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(file)
            .map_err(failed)?
            .take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
    };
    if read.map_err(failed)? as u64 > MAX_FILE_BYTES {
        return Err(failed(io::Error::other("it has more than 32 MiB")));
    }
    Ok(text)
}

/// The bindings in a text of one or more YAML documents, as they are written. The items of a list
/// count as documents. Documents of other kinds are skipped.
pub(crate) fn parse_documents(text: &str) -> Vec<Result<Value, String>> {
    parse_kind(text, KIND)
}

/// The `ClusterPrefectServer`s in a text, as they are written. Documents that are no YAML are left to
/// [`parse_documents`].
pub(super) fn parse_servers(text: &str) -> Vec<Result<Value, String>> {
    let documents = text.split("\n---");
    let valid = documents.filter(|document| serde_saphyr::from_str::<Value>(document).is_ok());
    valid
        .flat_map(|document| parse_kind(document, SERVER_KIND))
        .collect()
}

fn parse_kind(text: &str, kind: &str) -> Vec<Result<Value, String>> {
    let mut found = Vec::new();
    for document in text.split("\n---").filter(|document| has_content(document)) {
        match serde_saphyr::from_str::<Value>(document) {
            Ok(object) => add_objects(object, kind, &mut found),
            Err(error) => found.push(Err(first_line(&error.to_string()))),
        }
    }
    found
}

/// Adds an object if it is of `wanted`, or those of a list, as `kubectl get -o yaml` prints it.
fn add_objects(mut object: Value, wanted: &str, found: &mut Vec<Result<Value, String>>) {
    let kind = object["kind"].as_str().unwrap_or_default();
    if kind == "List" || kind.strip_suffix("List") == Some(wanted) {
        if let Value::Array(items) = object["items"].take() {
            for item in items {
                add_objects(item, wanted, found);
            }
        }
        return;
    }
    if kind != wanted {
        return;
    }
    let version = object["apiVersion"].as_str().unwrap_or_default();
    if version != API_VERSION {
        found.push(Err(format!(
            "no kind {wanted} in apiVersion {}: write apiVersion: {API_VERSION}",
            printable::name(version)
        )));
        return;
    }
    found.push(Ok(object));
}

/// The binding with this version's types.
///
/// # Errors
/// If a field has another type.
pub(super) fn typed(stored: Value) -> Result<DopplerPrefectBinding, String> {
    serde_json::from_value(stored).map_err(|error| first_line(&error.to_string()))
}

/// The bindings in a text, with this version's types.
pub(super) fn parse_bindings(text: &str) -> Vec<Result<DopplerPrefectBinding, String>> {
    let documents = parse_documents(text).into_iter();
    documents
        .map(|document| typed(stored(&document?)))
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
        assert!(parse_bindings("a: 1\na: 2\nkind: DopplerPrefectBinding\n")[0].is_err());
    }

    #[test]
    fn other_api_versions_are_refused() {
        let smallest = include_str!("../../examples/smallest.yaml");
        for version in ["doppler-prefect.dev/v1", "v1", "example.com/v1alpha1"] {
            let error = parse_bindings(&smallest.replace(API_VERSION, version)).remove(0);
            let error = error.unwrap_err();
            assert!(
                error.contains(version) && error.contains(API_VERSION),
                "{error}"
            );
        }
        let error = parse_documents("kind: DopplerPrefectBinding\n").remove(0);
        assert!(error.unwrap_err().contains("apiVersion"));
    }

    #[test]
    fn items_of_lists_count_as_documents() {
        let smallest = include_str!("../../examples/smallest.yaml");
        let item: Value = serde_saphyr::from_str(smallest).unwrap();
        let other = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap"});
        for (version, kind) in [("v1", "List"), (API_VERSION, "DopplerPrefectBindingList")] {
            let list = serde_json::json!({"apiVersion": version, "kind": kind, "items": [item, other, item]});
            let text = format!("{list}\n---\n{smallest}");
            let names: Vec<_> = parse_bindings(&text)
                .into_iter()
                .map(|binding| binding.unwrap().metadata.name.unwrap())
                .collect();
            assert_eq!(names, ["my-project-dev"; 3]);
        }
        assert!(parse_bindings(r#"{"kind": "List", "items": null}"#).is_empty());
    }
}

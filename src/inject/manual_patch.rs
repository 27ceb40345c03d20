//! The entry as a patch for the tool that owns the base job template.
//!
//! Input: the entry, and the template if it is known.
//! Output: text to paste.
//! Invariants: sends and writes nothing.

use serde_json::json;
use serde_json::value::RawValue;

use super::template::{Entry, has_list};
use crate::{args::PatchForm, printable};

/// JSON pointer of the list that takes the entry in a base job template.
const ENV_FROM_POINTER: &str =
    "/job_configuration/job_manifest/spec/template/spec/containers/0/envFrom";

/// The JSON Patch operation that adds the entry: before the existing sources, or as a new list.
///
/// Without a template the list counts as missing, as in Prefect's default template.
#[must_use]
pub fn add_operation(entry: &Entry, template: Option<&RawValue>) -> serde_json::Value {
    if template.is_some_and(has_list) {
        json!({"op": "add", "path": format!("{ENV_FROM_POINTER}/0"), "value": entry.json()})
    } else {
        json!({"op": "add", "path": ENV_FROM_POINTER, "value": [entry.json()]})
    }
}

/// The text to paste where another tool owns the template of the pool.
#[must_use]
pub fn patch_text(
    form: PatchForm,
    pool: &str,
    entry: &Entry,
    template: Option<&RawValue>,
) -> String {
    let operation = add_operation(entry, template);
    let list = template.is_some_and(has_list);
    let Entry { secret, optional } = entry;
    // A line break in a name would begin a line of the text.
    let (secret, shown_pool) = (printable::name(secret), printable::name(pool));
    match form {
        PatchForm::Json => format!("[{operation}]\n"),
        PatchForm::PrefectOperator => {
            let path = operation["path"].as_str().unwrap_or_default();
            let value = if list {
                format!("          secretRef: {{name: {secret}, optional: {optional}}}")
            } else {
                format!("          - secretRef: {{name: {secret}, optional: {optional}}}")
            };
            format!(
                "# kubectl edit prefectworkpool (the object of work pool {shown_pool})\nspec:\n  baseJobTemplate:\n    patches:\n      - op: add\n        path: {path}\n        value:\n{value}\n"
            )
        }
        PatchForm::Terraform => format!(
            "# in the job manifest of resource \"prefect_work_pool\" with name = {}: base_job_template = jsonencode({{…}})\n\
             # at job_configuration.job_manifest.spec.template.spec.containers[0], before other sources\n\
             envFrom = [\n  {{ secretRef = {{ name = \"{secret}\", optional = {optional} }} }},\n]\n",
            json!(pool)
        ),
        PatchForm::Helm => format!(
            "# the prefect-worker chart writes worker.config.baseJobTemplate.configuration (JSON text, or the ConfigMap of\n\
             # existingConfigMapName) to work pool {shown_pool} at each start of the worker: add this to the first container\n\
             # of that JSON, before other sources\n\
             \"envFrom\": [{}]\n",
            entry.json()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            secret: "my-secret".to_owned(),
            optional: true,
        }
    }

    #[test]
    fn a_line_break_in_a_name_begins_no_line() {
        for form in [
            PatchForm::PrefectOperator,
            PatchForm::Helm,
            PatchForm::Terraform,
        ] {
            let lines = |pool| patch_text(form, pool, &entry(), None).lines().count();
            assert_eq!(lines("a\nspec: {}"), lines("a"), "{form:?}");
        }
    }

    const BARE: &str = r#"{"job_configuration":{"job_manifest":{"spec":{"template":{"spec":{"containers":[{"name":"x"}]}}}}}}"#;
    const LISTED: &str = r#"{"job_configuration":{"job_manifest":{"spec":{"template":{"spec":{"containers":[{"envFrom":[{"secretRef":{"name":"u"}}]}]}}}}}}"#;

    #[test]
    fn the_json_patch_adds_the_entry_before_others() {
        for (text, count) in [(BARE, 1), (LISTED, 2)] {
            let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
            let patch = patch_text(PatchForm::Json, "k8s", &entry(), Some(&raw));
            let patch: json_patch::Patch = serde_json::from_str(&patch).unwrap();
            let mut template: serde_json::Value = serde_json::from_str(text).unwrap();
            json_patch::patch(&mut template, &patch).unwrap();
            let sources = template
                .pointer(ENV_FROM_POINTER)
                .unwrap()
                .as_array()
                .unwrap();
            assert_eq!((sources.len(), &sources[0]), (count, &entry().json()));
        }
    }

    #[test]
    fn the_prefect_operator_form_is_yaml_of_the_same_patch() {
        for text in [BARE, LISTED] {
            let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
            let yaml = patch_text(PatchForm::PrefectOperator, "k8s", &entry(), Some(&raw));
            let value: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
            assert_eq!(
                value.pointer("/spec/baseJobTemplate/patches/0"),
                Some(&add_operation(&entry(), Some(&raw)))
            );
        }
    }

    #[test]
    fn every_form_names_pool_and_secret() {
        for form in [
            PatchForm::PrefectOperator,
            PatchForm::Terraform,
            PatchForm::Helm,
        ] {
            let text = patch_text(form, "k8s", &entry(), None);
            assert!(text.contains("my-secret") && text.contains("k8s"), "{text}");
        }
    }
}

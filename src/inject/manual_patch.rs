//! The entry as a patch for the tool that owns the base job template.
//!
//! Input: the entry, and the template if it is known.
//! Output: text to paste.
//! Invariants: sends and writes nothing.

use std::fmt::Write;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::template::{Entry, EntryKey, EntryState, has_list, has_volume_lists, leading_entries};
use super::template::{declaration_of, declared_variable, entry_state};
use super::template::{volume_json, volume_mount_json};
use crate::{args::PatchForm, crd::MountSpec, printable};

/// JSON pointer of the pod's spec in a base job template.
const POD_POINTER: &str = "/job_configuration/job_manifest/spec/template/spec";
/// JSON pointer of the list that takes the entry in a base job template.
const ENV_FROM_POINTER: &str =
    "/job_configuration/job_manifest/spec/template/spec/containers/0/envFrom";

/// The JSON Patch operations that add the entry, and the name to its variable.
///
/// The entry goes before the existing sources, and that of a variable behind the entries for all
/// runs. Without a template the list and the variable count as missing, as in Prefect's default
/// template.
fn operations(entry: &Entry, template: Option<&RawValue>) -> Vec<Value> {
    if let Some(mount) = &entry.mount {
        return mount_operations(entry, mount, template);
    }
    let list = template.is_some_and(has_list);
    let at = template.map_or(0, leading_entries);
    let Some(variable) = &entry.variable else {
        return vec![add_source(entry, list.then_some(0))];
    };
    let declared = template.and_then(|template| declared_variable(template, variable));
    let path = format!("/variables/properties/{variable}");
    let name = match declared.map(|declared| declared.names) {
        Some(Some(_)) => {
            json!({"op": "add", "path": format!("{path}/enum/-"), "value": entry.secret})
        }
        _ => json!({"op": "add", "path": path, "value": declaration_of([&*entry.secret])}),
    };
    let placeholder = entry.json()["secretRef"]["name"].clone();
    let placeholder = EntryKey::all(placeholder.as_str().unwrap_or_default());
    let is_there = template.is_some_and(|template| {
        entry_state(template, placeholder).is_ok_and(|state| state != EntryState::Absent)
    });
    let source = (!is_there).then(|| add_source(entry, list.then_some(at)));
    [name].into_iter().chain(source).collect()
}

/// The operations that add the volume and its mount behind others.
fn mount_operations(entry: &Entry, mount: &MountSpec, template: Option<&RawValue>) -> Vec<Value> {
    let (has_volumes, has_mounts) = template.map_or((false, false), has_volume_lists);
    let add = |pointer: &str, has_list: bool, value: Value| {
        if has_list {
            json!({"op": "add", "path": format!("{POD_POINTER}/{pointer}/-"), "value": value})
        } else {
            json!({"op": "add", "path": format!("{POD_POINTER}/{pointer}"), "value": [value]})
        }
    };
    let volume = volume_json(&entry.secret, entry.optional, mount);
    let volume_mount = volume_mount_json(&entry.secret, mount);
    vec![
        add("volumes", has_volumes, volume),
        add("containers/0/volumeMounts", has_mounts, volume_mount),
    ]
}

/// The operation that adds the entry to the list at this place, or as a new list.
fn add_source(entry: &Entry, at: Option<usize>) -> Value {
    match at {
        Some(at) => {
            json!({"op": "add", "path": format!("{ENV_FROM_POINTER}/{at}"), "value": entry.json()})
        }
        None => json!({"op": "add", "path": ENV_FROM_POINTER, "value": [entry.json()]}),
    }
}

/// The operations in one line.
#[must_use]
pub(super) fn operations_text(entry: &Entry, template: Option<&RawValue>) -> String {
    let operations = operations(entry, template);
    let operations: Vec<String> = operations.iter().map(Value::to_string).collect();
    operations.join(", ")
}

/// The text to paste where another tool owns the template of the pool. `entries` are the entry of the
/// Secret, and the mount of its files if there is one.
#[must_use]
pub fn patch_text(
    form: PatchForm,
    pool: &str,
    entries: &[Entry],
    template: Option<&RawValue>,
) -> String {
    // A line break in a name would begin a line of the text.
    let shown_pool = printable::name(pool);
    match form {
        PatchForm::Json => {
            let texts = entries.iter().map(|entry| operations_text(entry, template));
            format!("[{}]\n", texts.collect::<Vec<_>>().join(", "))
        }
        PatchForm::PrefectOperator => {
            let mut text = format!(
                "# kubectl edit prefectworkpool (the object of work pool {shown_pool})\nspec:\n  baseJobTemplate:\n    patches:\n"
            );
            let operations = entries.iter().flat_map(|entry| operations(entry, template));
            for operation in operations {
                let (path, value) = (&operation["path"], &operation["value"]);
                // JSON is YAML. A line break in a text is an escape in it.
                let _ = write!(
                    text,
                    "      - op: add\n        path: {path}\n        value: {value}\n"
                );
            }
            text
        }
        PatchForm::Terraform => entries.iter().map(|entry| terraform(pool, entry)).collect(),
        PatchForm::Helm => entries
            .iter()
            .map(|entry| helm(&shown_pool, entry))
            .collect(),
    }
}

fn helm(shown_pool: &str, entry: &Entry) -> String {
    if let Some(mount) = &entry.mount {
        return format!(
            "# and this to the spec of the pod in that JSON\n\"volumes\": [{}]\n# and this to the first container\n\"volumeMounts\": [{}]\n",
            volume_json(&entry.secret, entry.optional, mount),
            volume_mount_json(&entry.secret, mount)
        );
    }
    let variable = entry.variable.as_ref().map(|variable| {
        let declaration = declaration_of([&*entry.secret]);
        format!(
            "# and this to variables.properties of that JSON; if it is there already, add the name to its enum\n\
             \"{variable}\": {declaration}\n"
        )
    });
    format!(
        "# the prefect-worker chart writes worker.config.baseJobTemplate.configuration (JSON text, or the ConfigMap of\n\
         # existingConfigMapName) to work pool {shown_pool} at each start of the worker: add this to the first container\n\
         # of that JSON, before other sources{}\n\
         \"envFrom\": [{}]\n{}",
        behind(entry),
        entry.json(),
        variable.unwrap_or_default()
    )
}

/// Where the entry of a variable stands among those of bindings.
const fn behind(entry: &Entry) -> &'static str {
    if entry.variable.is_some() {
        " and behind the entries for all runs"
    } else {
        ""
    }
}

fn terraform(pool: &str, entry: &Entry) -> String {
    if let Some(mount) = &entry.mount {
        // JSON is an expression of Terraform.
        return format!(
            "# at job_configuration.job_manifest.spec.template.spec\nvolumes = [{}]\n# at its containers[0]\nvolumeMounts = [{}]\n",
            volume_json(&entry.secret, entry.optional, mount),
            volume_mount_json(&entry.secret, mount)
        );
    }
    let source = entry.json();
    let (name, optional) = (&source["secretRef"]["name"], entry.optional);
    let variable = entry.variable.as_ref().map(|variable| {
        let declaration = declaration_of([&*entry.secret]);
        let members = declaration.as_object().into_iter().flatten();
        let members: Vec<String> = members
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        format!(
            "# at variables.properties; if it is there already, add the name to its enum\n{variable} = {{ {} }}\n",
            members.join(", ")
        )
    });
    format!(
        "# in the job manifest of resource \"prefect_work_pool\" with name = {}: base_job_template = jsonencode({{…}})\n\
         # at job_configuration.job_manifest.spec.template.spec.containers[0], before other sources{}\n\
         envFrom = [\n  {{ secretRef = {{ name = {name}, optional = {optional} }} }},\n]\n{}",
        json!(pool),
        behind(entry),
        variable.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::template::standing_mount;

    fn entry() -> Entry {
        Entry {
            secret: "my-secret".to_owned(),
            optional: true,
            ..Entry::default()
        }
    }

    fn selected(secret: &str) -> Entry {
        Entry {
            secret: secret.to_owned(),
            variable: Some("doppler_config".to_owned()),
            ..entry()
        }
    }

    #[test]
    fn a_line_break_in_a_name_begins_no_line() {
        for form in [
            PatchForm::PrefectOperator,
            PatchForm::Helm,
            PatchForm::Terraform,
        ] {
            for entry in [entry(), selected("s")] {
                let lines = |pool| {
                    patch_text(form, pool, std::slice::from_ref(&entry), None)
                        .lines()
                        .count()
                };
                assert_eq!(lines("a\nspec: {}"), lines("a"), "{form:?}");
            }
        }
    }

    const BARE: &str = r#"{"job_configuration":{"job_manifest":{"spec":{"template":{"spec":{"containers":[{"name":"x"}]}}}}},"variables":{"properties":{}}}"#;
    const LISTED: &str = r#"{"job_configuration":{"job_manifest":{"spec":{"template":{"spec":{"containers":[{"envFrom":[{"secretRef":{"name":"u"}}]}]}}}}},"variables":{"properties":{}}}"#;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    /// The template after the printed patch.
    fn patched(text: &str, entry: &Entry) -> String {
        let patch = patch_text(
            PatchForm::Json,
            "k8s",
            std::slice::from_ref(entry),
            Some(&raw(text)),
        );
        let patch: json_patch::Patch = serde_json::from_str(&patch).unwrap();
        let mut template: Value = serde_json::from_str(text).unwrap();
        json_patch::patch(&mut template, &patch).unwrap();
        template.to_string()
    }

    fn sources(text: &str) -> Vec<Value> {
        let template: Value = serde_json::from_str(text).unwrap();
        let list = template.pointer(ENV_FROM_POINTER).unwrap();
        list.as_array().unwrap().clone()
    }

    #[test]
    fn the_json_patch_adds_the_entry_before_others() {
        for (text, count) in [(BARE, 1), (LISTED, 2)] {
            let sources = sources(&patched(text, &entry()));
            assert_eq!((sources.len(), &sources[0]), (count, &entry().json()));
        }
    }

    #[test]
    fn the_json_patch_adds_variable_and_entry_behind_those_for_all_runs() {
        for (text, others) in [(BARE, 0), (LISTED, 1)] {
            let text = patched(&patched(text, &entry()), &selected("a"));
            let text = patched(&text, &selected("b"));
            let found = sources(&text);
            assert_eq!(found.len(), 2 + others, "{text}");
            assert_eq!(found[0], entry().json());
            assert_eq!(found[1], selected("a").json());
            assert!(text.contains(r#""enum":["none","a","b"]"#), "{text}");
        }
    }

    #[test]
    fn the_prefect_operator_form_is_yaml_of_the_same_patch() {
        for text in [BARE, LISTED] {
            for entry in [entry(), selected("s")] {
                let raw = raw(text);
                let yaml = patch_text(
                    PatchForm::PrefectOperator,
                    "k8s",
                    std::slice::from_ref(&entry),
                    Some(&raw),
                );
                let value: Value = serde_saphyr::from_str(&yaml).unwrap();
                assert_eq!(
                    value.pointer("/spec/baseJobTemplate/patches"),
                    Some(&Value::Array(operations(&entry, Some(&raw))))
                );
            }
        }
    }

    #[test]
    fn every_form_names_pool_and_secret() {
        for form in [
            PatchForm::PrefectOperator,
            PatchForm::Terraform,
            PatchForm::Helm,
        ] {
            let text = patch_text(form, "k8s", &[entry()], None);
            assert!(text.contains("my-secret") && text.contains("k8s"), "{text}");
            let text = patch_text(form, "k8s", &[selected("s")], None);
            for part in ["{{ doppler_config }}", "\"none\",\"s\"", "k8s"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
    }

    #[test]
    fn every_form_has_the_volume_and_its_mount() {
        let mount = Entry {
            mount: Some(MountSpec {
                path: "/srv/x".to_owned(),
                files: vec!["a.yml".to_owned()],
            }),
            ..entry()
        };
        let entries = [entry(), mount.clone()];
        let mounted = BARE.replace(
            r#""name":"x""#,
            r#""name":"x","volumeMounts":[{"name":"u","mountPath":"/u"}]"#,
        );
        for (text, others) in [(BARE, 0), (mounted.as_str(), 1)] {
            let patch = patch_text(PatchForm::Json, "k8s", &entries, Some(&raw(text)));
            let patch: json_patch::Patch = serde_json::from_str(&patch).unwrap();
            let mut template: Value = serde_json::from_str(text).unwrap();
            json_patch::patch(&mut template, &patch).unwrap();
            let pod = template.pointer(POD_POINTER).unwrap();
            assert_eq!(pod["volumes"][0]["secret"]["items"][0]["key"], "a.yml");
            let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
            assert_eq!(
                (mounts.len(), &mounts[others]["mountPath"]),
                (others + 1, &json!("/srv/x"))
            );
            // What the patch makes is exactly what the operator would write.
            let template = raw(&template.to_string());
            let standing = standing_mount(&template, "my-secret").unwrap();
            assert_eq!(standing.state, EntryState::Exact { optional: true });
            let yaml = patch_text(
                PatchForm::PrefectOperator,
                "k8s",
                &entries,
                Some(&raw(text)),
            );
            let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
            let patches = yaml.pointer("/spec/baseJobTemplate/patches").unwrap();
            assert_eq!(patches.as_array().unwrap().len(), 3);
        }
        for form in [PatchForm::Terraform, PatchForm::Helm] {
            let text = patch_text(form, "k8s", &entries, None);
            for part in [
                "envFrom",
                "doppler-my-secret-files",
                "\"mountPath\":\"/srv/x\"",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
    }
}

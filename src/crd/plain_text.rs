//! Text fields of a spec without control characters, line breaks and marks that reorder text.
//!
//! Input: a spec, which an older CRD may have admitted.
//! Output: the rule of the CRD, and the path of the first field that breaks it.
//! Invariants: rule and path agree on the characters. Inline values, templates, labels and annotations
//! of the Secret are free text.

use kube::core::Rule;
use serde::Serialize;
use serde_json::Value;

use crate::printable::has_control;

/// The rule of a text field: the characters of [`has_control`] are refused.
pub const PLAIN_TEXT_RULE: &str =
    r"self.matches(r'^[^\p{Cc}\x{061C}\x{200E}\x{200F}\x{2028}-\x{202E}\x{2066}-\x{2069}]*$')";
/// The same for each item of a list.
const PLAIN_TEXTS_RULE: &str = r"self.all(text, text.matches(r'^[^\p{Cc}\x{061C}\x{200E}\x{200F}\x{2028}-\x{202E}\x{2066}-\x{2069}]*$'))";
/// What to do about a field that breaks the rule.
const MESSAGE: &str = "remove control characters, line breaks and marks that reorder text";
/// Fields that may have any text: inline values, templates, and metadata that Kubernetes validates.
const FREE_TEXT: [&str; 4] = ["value", "template", "labels", "annotations"];

/// The rule of the CRD for a text field.
pub(super) fn plain_text() -> Rule {
    Rule::new(PLAIN_TEXT_RULE).message(MESSAGE)
}

/// The rule of the CRD for a list of texts.
pub(super) fn plain_texts() -> Rule {
    Rule::new(PLAIN_TEXTS_RULE).message(MESSAGE)
}

/// What the user has to correct in the first text field that has a control character.
#[must_use]
pub fn control_character(spec: &impl Serialize) -> Option<String> {
    let value = serde_json::to_value(spec).ok()?;
    path_of_control(&value).map(|path| format!("spec{path}: {MESSAGE}"))
}

fn path_of_control(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => has_control(text).then(String::new),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(at, item)| Some(format!("[{at}]{}", path_of_control(item)?))),
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !FREE_TEXT.contains(&name.as_str()))
            .find_map(|(name, field)| Some(format!(".{name}{}", path_of_control(field)?))),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::DopplerPrefectBindingSpec;
    use serde_json::json;

    fn correction(spec: Value) -> Option<String> {
        control_character(&serde_json::from_value::<DopplerPrefectBindingSpec>(spec).unwrap())
    }

    #[test]
    fn names_the_field_with_a_control_character() {
        let server = json!({"name": "prefect-server"});
        for (spec, path) in [
            (
                json!({"prefect": {"server": server, "block": {"name": "a\u{0}", "typeSlug": "secret"}}}),
                "spec.prefect.block.name",
            ),
            (
                json!({"prefect": {"server": server, "block": {"name": "a", "typeSlug": "secret\n"}}}),
                "spec.prefect.block.typeSlug",
            ),
            (
                json!({"prefect": {"server": {"remoteApiUrl": "https://a\t.example.com"}}}),
                "spec.prefect.server.remoteApiUrl",
            ),
            (
                json!({"inject": {"workPools": [{"name": "a"}, {"name": "k8\ts"}]}}),
                "spec.inject.workPools[1].name",
            ),
            (
                json!({"doppler": {"project": "a\u{202e}"}}),
                "spec.doppler.project",
            ),
            (
                json!({"doppler": {"config": "a\u{2028}"}}),
                "spec.doppler.config",
            ),
            (
                json!({"doppler": {"include": ["A", "B\u{7f}"]}}),
                "spec.doppler.include[1]",
            ),
            (
                json!({"doppler": {"accessToken": {"valueFrom": {"secretKeyRef": {"name": "a", "key": "b\r"}}}}}),
                "spec.doppler.accessToken.valueFrom.secretKeyRef.key",
            ),
            (
                json!({"managedSecret": {"name": "a\n"}}),
                "spec.managedSecret.name",
            ),
        ] {
            let text = correction(spec);
            assert_eq!(text, Some(format!("{path}: {MESSAGE}")));
        }
    }

    #[test]
    fn plain_and_free_text_are_valid() {
        for spec in [
            json!({}),
            json!({"inject": {"workPools": [{"name": "Größe 👩\u{200d}💻"}]}}),
            json!({"managedSecret": {"annotations": {"a": "two\nlines"}}}),
            json!({"managedSecret": {"files": {"a": {"template": "two\nlines\t"}}}}),
            json!({"prefect": {"server": {"name": "a", "apiKey": {"value": "k\n"}}}}),
        ] {
            assert_eq!(correction(spec), None);
        }
    }
}

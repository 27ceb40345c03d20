//! What a Prefect server says about a template that it refuses.
//!
//! Input: the body of the answer to a PATCH of a work pool, and the template that was sent.
//! Output: the server's own sentence, as one bounded line.
//! Invariants: pure. The body echoes the request, and a template may contain secrets: a sentence
//! that has a value of the template is not shown.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::printable::one_line;

/// The longest sentence that is shown, in bytes.
const MAX_SENTENCE: usize = 400;
/// A shorter value is no secret, and may be a word of any sentence.
const MIN_VALUE: usize = 6;

/// One error of the server's validation.
#[derive(Deserialize)]
struct ValidationError {
    #[serde(default)]
    msg: String,
}

/// One sentence, or the errors of the validation.
#[derive(Deserialize)]
#[serde(untagged)]
enum Detail {
    Sentence(String),
    Errors(Vec<ValidationError>),
}

#[derive(Deserialize)]
struct Body {
    exception_detail: Option<Detail>,
    detail: Option<Detail>,
    exception_message: Option<String>,
}

/// Whether the server refuses the template itself.
pub(super) const fn is_template_status(status: u16) -> bool {
    matches!(status, 400 | 409 | 413 | 422)
}

/// The server's sentence about the template. None if it says nothing that may be shown.
pub(super) fn sentence(body: &[u8], template: &RawValue) -> Option<String> {
    let body: Body = serde_json::from_slice(body).ok()?;
    let detail = body.exception_detail.or(body.detail);
    let text = match detail {
        Some(Detail::Sentence(text)) => text,
        Some(Detail::Errors(errors)) => {
            let first = errors.into_iter().next()?;
            let text = first.msg.strip_prefix("Value error, ");
            text.unwrap_or(&first.msg).to_owned()
        }
        None => body.exception_message?,
    };
    let text = one_line(&text, MAX_SENTENCE);
    let text = text.trim_end_matches('.');
    let template: Value = serde_json::from_str(template.get()).ok()?;
    let is_shown = !text.is_empty() && !has_value_of(text, &template);
    is_shown.then(|| text.to_owned())
}

/// Whether a text has a value of the template: of its job configuration, or of a default. Names of
/// variables and placeholders are no secrets.
fn has_value_of(text: &str, template: &Value) -> bool {
    let properties = template["variables"]["properties"].as_object();
    let defaults = properties.into_iter().flatten();
    let mut values = defaults.filter_map(|(_, property)| property.get("default"));
    contains_value(text, &template["job_configuration"])
        || values.any(|default| contains_value(text, default))
}

fn contains_value(text: &str, value: &Value) -> bool {
    match value {
        Value::String(value) => {
            value.len() >= MIN_VALUE && !value.contains("{{") && text.contains(value.as_str())
        }
        Value::Number(number) => {
            let number = number.to_string();
            number.len() >= MIN_VALUE && text.contains(&number)
        }
        Value::Array(items) => items.iter().any(|item| contains_value(text, item)),
        Value::Object(members) => members.values().any(|member| contains_value(text, member)),
        Value::Null | Value::Bool(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(body: &Value) -> Option<String> {
        let template = json!({
            "job_configuration": {"env": {"TOKEN": "canary-token", "PIN": 123_456_789}, "x": "{{ x }}"},
            "variables": {"properties": {"y": {"title": "variables", "default": ["canary-default"]}}},
        });
        let template = RawValue::from_string(template.to_string()).unwrap();
        sentence(&serde_json::to_vec(body).unwrap(), &template)
    }

    #[test]
    fn shows_the_sentence_of_each_form_of_answer() {
        let undeclared = "Your job configuration uses the following undeclared variable(s): x.";
        for (body, expected) in [
            (
                json!({"exception_message": "Invalid request received.",
                    "exception_detail": [{"loc": ["body"], "msg": format!("Value error, {undeclared}"), "input": {"TOKEN": "canary-token"}}],
                    "request_body": {"base_job_template": "canary-token"}}),
                Some(undeclared.trim_end_matches('.')),
            ),
            (json!({"detail": [{"msg": "a\nb"}]}), Some("a b")),
            (json!({"detail": "Too large."}), Some("Too large")),
            (json!({"exception_message": "Bad"}), Some("Bad")),
            (json!({"detail": {"other": 1}}), None),
            (json!({}), None),
            (json!({"detail": ""}), None),
        ] {
            assert_eq!(shown(&body).as_deref(), expected, "{body}");
        }
        let long = shown(&json!({"detail": "x".repeat(10_000)})).unwrap();
        assert!(long.len() <= MAX_SENTENCE);
    }

    #[test]
    fn a_sentence_with_a_value_of_the_template_is_not_shown() {
        for text in [
            "TOKEN is canary-token",
            "no canary-default",
            "PIN 123456789",
        ] {
            assert_eq!(shown(&json!({"detail": text})), None, "{text}");
        }
    }
}

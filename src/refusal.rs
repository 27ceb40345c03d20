//! Which part of the API server refused a request: authorization, a quota, or an admission policy.
//!
//! Input: the `Status` of a refused request.
//! Output: a [`Refusal`] with the names in it, and the sentence of the policy.
//! Invariants: pure. Names and sentences are bounded lines. A sentence may repeat what the request
//! held, so that a caller that sent values removes them with [`Sentence::without`].

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use kube::core::Status;

use crate::printable;

/// Longest sentence of a policy that is shown, in bytes.
const MAX_SENTENCE_BYTES: usize = 512;
/// Longest sentence that is kept until values are removed from it, in bytes.
const MAX_RAW_BYTES: usize = 64 * 1024;
/// Shorter values, such as `1` and `yes`, are part of many sentences.
const MIN_VALUE_BYTES: usize = 4;
/// Shorter lines of a value are not searched by themselves.
const MIN_LINE_BYTES: usize = 8;

/// What the API server's message says after the object's name.
const FORBIDDEN: &str = " is forbidden: ";

/// The part of the API server that refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Authorization: no Role grants the verb.
    Rbac,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// A `ResourceQuota` is used up.
    Quota {
        /// Name of the `ResourceQuota`.
        name: String,
        /// What was requested, used and allowed.
        sentence: Sentence,
    },
    /// An admission policy rejected the object.
    Policy {
        /// The policy.
        policy: Policy,
        /// Its own words.
        sentence: Sentence,
    },
    /// An admission webhook that must answer cannot be called.
    WebhookFailed {
        /// Name of the webhook.
        name: String,
    },
    /// An admission webhook cannot answer a dry run.
    NoDryRun {
        /// Name of the webhook.
        name: String,
    },
    /// The request is too large for the API server or etcd.
    TooLarge,
    /// Something else.
    Other,
}

/// What rejected an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A `ValidatingAdmissionPolicy`, by its name.
    Validating(String),
    /// An admission webhook, by its name.
    Webhook(String),
    /// An admission plugin of the API server, which gives no name.
    Plugin,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Validating(name) => write!(f, "ValidatingAdmissionPolicy {name}"),
            Self::Webhook(name) => write!(f, "admission webhook {name}"),
            Self::Plugin => f.write_str("an admission plugin of the API server"),
        }
    }
}

/// The words of a policy, as it wrote them. They are shown as one bounded line.
#[derive(Clone, PartialEq, Eq)]
pub struct Sentence(String);

impl Sentence {
    fn new(text: &str) -> Self {
        Self(text[..text.floor_char_boundary(MAX_RAW_BYTES)].to_owned())
    }

    /// The sentence with `[value]` in place of each of `values`, in clear and in base64. Short
    /// values stay. Lines of a long value count as values.
    #[must_use]
    pub fn without<'a>(self, values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut text = self.0;
        let mut parts: Vec<&str> = Vec::new();
        for value in values {
            parts.push(value);
            if value.trim_end().contains('\n') {
                parts.extend(value.lines().filter(|line| line.len() >= MIN_LINE_BYTES));
            }
        }
        // A value that contains another one is replaced as a whole.
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        for part in parts {
            if part.len() < MIN_VALUE_BYTES {
                continue;
            }
            for form in [part, part.trim(), &*BASE64_STANDARD.encode(part)] {
                if form.len() >= MIN_VALUE_BYTES && text.contains(form) {
                    text = text.replace(form, "[value]");
                }
            }
        }
        Self(text)
    }

    /// The sentence in parentheses, to follow the name of the policy. Empty if it is not known.
    #[must_use]
    pub fn quoted(&self) -> String {
        let sentence = self.to_string();
        if sentence.is_empty() {
            return sentence;
        }
        format!(" (\"{sentence}\")")
    }

    /// A sentence that may repeat unknown values is not shown.
    #[must_use]
    pub fn hidden(self) -> Self {
        Self(String::new())
    }
}

impl fmt::Debug for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sentence")
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable::one_line(&self.0, MAX_SENTENCE_BYTES))
    }
}

impl Refusal {
    /// Finds out what refused the request. The words of the API server come first in its message, so
    /// that no policy can pass for another part by its own sentence.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let message = status.message.as_str();
        if let Some(policy) = by_webhook(message) {
            return policy;
        }
        let causes = status
            .details
            .as_ref()
            .map(|details| details.causes.as_slice());
        let causes = causes.unwrap_or_default();
        let is_terminating = |cause: &kube::core::response::StatusCause| {
            cause.reason == "NamespaceTerminating" && status.code == 403
        };
        if causes.iter().any(is_terminating) {
            return Self::NamespaceTerminating;
        }
        if let Some(sentence) = after_forbidden(message) {
            return by_admission(sentence, status.code);
        }
        if status.code == 413 || message.contains("request is too large") {
            return Self::TooLarge;
        }
        match status.code {
            403 => Self::Rbac,
            _ => Self::Other,
        }
    }
}

/// A webhook that denied the request, or could not be asked. It chooses status code and reason
/// itself.
fn by_webhook(message: &str) -> Option<Refusal> {
    if let Some((name, rest)) = quoted(message, "admission webhook \"") {
        if rest.starts_with(" does not support dry run") {
            return Some(Refusal::NoDryRun { name });
        }
        let sentence = rest.strip_prefix(" denied the request")?;
        return Some(Refusal::Policy {
            policy: Policy::Webhook(name),
            sentence: Sentence::new(sentence.trim_start_matches(':').trim_start()),
        });
    }
    let internal = message
        .strip_prefix("Internal error occurred: ")
        .unwrap_or(message);
    let (name, _) = quoted(internal, "failed calling webhook \"")?;
    Some(Refusal::WebhookFailed { name })
}

/// What follows `secrets "name" is forbidden: `. The name of an object holds no quotation mark.
fn after_forbidden(message: &str) -> Option<&str> {
    let (object, sentence) = message.split_once(FORBIDDEN)?;
    let (resource, name) = object.split_once(' ').unwrap_or((object, "\"\""));
    let is_name = name.len() >= 2
        && name.starts_with('"')
        && name.ends_with('"')
        && !name[1..name.len() - 1].contains('"');
    (is_name && !resource.contains(' ')).then_some(sentence)
}

fn by_admission(sentence: &str, code: u16) -> Refusal {
    for prefix in ["exceeded quota: ", "failed quota: "] {
        if let Some(rest) = sentence.strip_prefix(prefix) {
            let (name, rest) = rest.split_once([',', ':']).unwrap_or((rest, ""));
            return Refusal::Quota {
                name: printable::name(name),
                sentence: Sentence::new(rest.trim_start()),
            };
        }
    }
    if let Some((name, rest)) = sentence
        .strip_prefix("ValidatingAdmissionPolicy '")
        .and_then(|rest| rest.split_once('\''))
    {
        let sentence = rest.split_once("denied request: ");
        return Refusal::Policy {
            policy: Policy::Validating(printable::name(name)),
            sentence: Sentence::new(sentence.map_or(rest, |(_, sentence)| sentence)),
        };
    }
    if code == 403 && sentence.starts_with("User \"") {
        return Refusal::Rbac;
    }
    Refusal::Policy {
        policy: Policy::Plugin,
        sentence: Sentence::new(sentence),
    }
}

/// The name in quotation marks after `prefix`, and what follows it.
fn quoted<'a>(text: &'a str, prefix: &str) -> Option<(String, &'a str)> {
    let (name, rest) = text.strip_prefix(prefix)?.split_once('"')?;
    Some((printable::name(name), rest))
}

#[cfg(test)]
mod tests;

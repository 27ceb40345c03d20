//! The CEL rules of the CRD, as functions.
//!
//! Input: a rule, and the part of a binding that it is about.
//! Output: whether the rule holds.
//! Invariants: pure. Every rule of the CRD has its function, and both agree: `tests/it/check.rs`
//! compares them with the API server.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;
use serde_json::{Value, json};

use crate::{
    crd::{NO_CONFIG, RESERVED_ROOTS, RESERVED_TREES},
    inject::job_labels,
    printable::has_control,
    secret::key_filter::is_key,
};

/// The headers that the operator sets itself.
const OWN_HEADERS: [&str; 8] = [
    "authorization",
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
];
/// The longest prefix and name of a label or annotation.
const MAX_KEY_CHARS: usize = 317;

/// A part of the rule for the values of labels.
const LABEL_VALUE: &str = "size(self) <= 63 && self.matches(";

type Rule = fn(&Value) -> bool;

/// Each rule, by a part of its text that no other rule has, in this order.
const RULES: [(&str, Rule); 39] = [
    ("self.all(text, text.matches(", |items| {
        items
            .as_array()
            .is_none_or(|items| items.iter().all(is_plain))
    }),
    ("self.all(audience, !audience.startsWith(", |items| {
        let is_free = |audience: &Value| !text(audience).starts_with("dopplerPrefectBinding:");
        items
            .as_array()
            .is_none_or(|items| items.iter().all(is_free))
    }),
    (
        "!(has(self.accessToken) && has(self.identity))",
        |doppler| !(has(doppler, "accessToken") && has(doppler, "identity")),
    ),
    ("self.all(k, size(k) <= 317 && k.matches(", |map| {
        map.as_object()
            .is_none_or(|map| map.keys().all(|key| job_labels::is_key(key)))
    }),
    (LABEL_VALUE, |value| job_labels::is_value(text(value))),
    ("self.matches(r'^[^\\p{Cc}", is_plain),
    ("self[a] != self[b]", |map| {
        let map = map.as_object();
        let names: Vec<&str> = map
            .into_iter()
            .flat_map(|map| map.values().map(text))
            .collect();
        let distinct: BTreeSet<&&str> = names.iter().collect();
        distinct.len() == names.len()
    }),
    ("self.startsWith('https://') ||", |url| {
        let url = text(url);
        url.starts_with("https://") || url.starts_with("http://")
    }),
    ("!k.contains('kubernetes.io/')", |map| {
        map.as_object().is_none_or(|map| {
            map.keys().all(|key| {
                key.chars().count() <= MAX_KEY_CHARS
                    && !key.contains("kubernetes.io/")
                    && !key.starts_with("doppler-prefect.dev/")
            })
        })
    }),
    (
        "has(self.secretKeyRef) != has(self.configMapKeyRef)",
        |of| has(of, "secretKeyRef") != has(of, "configMapKeyRef"),
    ),
    ("has(self.value) != has(self.valueFrom)", |of| {
        has(of, "value") != has(of, "valueFrom")
    }),
    ("self.lowerAscii() in [", |name| {
        !OWN_HEADERS.contains(&&*text(name).to_ascii_lowercase())
    }),
    ("!(has(self.name) && has(self.remoteApiUrl))", |server| {
        !(has(server, "name") && has(server, "remoteApiUrl"))
    }),
    ("has(self.name) || has(self.remoteApiUrl) ||", |server| {
        has(server, "name")
            || has(server, "remoteApiUrl")
            || (has(server, "accountId") && has(server, "workspaceId"))
    }),
    ("has(self.accountId) == has(self.workspaceId)", |server| {
        has(server, "accountId") == has(server, "workspaceId")
    }),
    ("!has(self.name) || !has(self.accountId)", |server| {
        !has(server, "name") || !has(server, "accountId")
    }),
    ("!has(self.__namespace__) || has(self.name)", |server| {
        !has(server, "namespace") || has(server, "name")
    }),
    ("has(self.name) == has(self.__namespace__)", |server| {
        has(server, "name") == has(server, "namespace")
    }),
    ("!(has(self.server) && has(self.serverRef))", |prefect| {
        !(has(prefect, "server") && has(prefect, "serverRef"))
    }),
    ("!(has(self.apiKey) && has(self.basicAuth))", |server| {
        !(has(server, "apiKey") && has(server, "basicAuth"))
    }),
    ("duration(self) >= duration('10s')", |interval| {
        // A text that is not a duration breaks the next rule.
        seconds(text(interval)).is_none_or(|seconds| (10..=24 * 3600).contains(&seconds))
    }),
    (
        "self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && size(self) > 0",
        |interval| seconds(text(interval)).is_some(),
    ),
    ("has(self.prefect) || (has(self.doppler) &&", |spec| {
        has(spec, "prefect")
            || spec.get("doppler").is_some_and(|doppler| {
                let all_have = |names: &[&str]| names.iter().all(|field| has(doppler, field));
                let identity = doppler.get("identity");
                let has_id = identity.is_some_and(|identity| has(identity, "id"));
                let has_credential = has_id || all_have(&["accessToken"]);
                match doppler.get("configs").and_then(Value::as_array) {
                    Some(items) => {
                        has_credential || items.iter().all(|item| has(item, "accessToken"))
                    }
                    None => has_credential && all_have(&["project", "config"]),
                }
            })
    }),
    ("size(self.configs) == 0 ||", |doppler| {
        let configs = doppler.get("configs").and_then(Value::as_array);
        configs.is_none_or(Vec::is_empty) || !(has(doppler, "project") || has(doppler, "config"))
    }),
    ("has(self.template) ? 1 : 0", |file| {
        let sources = ["template", "from", "format"].into_iter();
        sources.filter(|field| has(file, field)).count() == 1
    }),
    ("!has(self.encoding) || has(self.from)", |file| {
        !has(file, "encoding") || has(file, "from")
    }),
    ("!has(self.type) || !has(self.files)", |secret| {
        let Some(files) = secret.get("files").filter(|files| **files != json!({})) else {
            return true;
        };
        match text(&secret["type"]) {
            "kubernetes.io/tls" => has(files, "tls.crt") && has(files, "tls.key"),
            "kubernetes.io/dockerconfigjson" => has(files, ".dockerconfigjson"),
            "kubernetes.io/ssh-auth" => has(files, "ssh-privatekey"),
            "kubernetes.io/basic-auth" => has(files, "username") || has(files, "password"),
            _ => true,
        }
    }),
    ("!has(self.files) || !has(self.name)", |secret| {
        !has(secret, "files") || text(&secret["name"]).chars().count() <= 247
    }),
    ("k != '.' && !k.startsWith('..')", |files| {
        files
            .as_object()
            .is_none_or(|files| files.keys().all(|name| is_key(name)))
    }),
    ("self.metadata.name) != 'none'", |binding| {
        let named = binding.pointer("/spec/managedSecret/name");
        let named = named.filter(|name| !name.is_null());
        text(named.unwrap_or(&binding["metadata"]["name"])) != NO_CONFIG
    }),
    ("!has(self.variable) || (has(self.runs)", |pool| {
        !has(pool, "variable") || text(&pool["runs"]) == "Selected"
    }),
    ("!has(self.runs) || self.runs != 'Selected' ||", |pool| {
        text(&pool["runs"]) != "Selected" || pool["optional"] != false
    }),
    (
        "self.all(one, self.exists_one(other, other == one))",
        |list| {
            let items = list.as_array().map_or(&[][..], Vec::as_slice);
            let distinct: BTreeSet<&str> = items.iter().map(text).collect();
            distinct.len() == items.len()
        },
    ),
    ("!self.matches('/[.][.]?(/|$)')", |path| {
        let mut parts = text(path).split('/');
        !parts.any(|part| matches!(part, "." | ".."))
    }),
    ("!self.matches('^/(bin|", |path| is_free_path(text(path))),
    ("!has(self.mount) || !has(self.runs)", |pool| {
        !has(pool, "mount") || text(&pool["runs"]) != "Selected"
    }),
    (
        "self.inject.workPools.all(pool, !has(pool.mount)))",
        |spec| {
            let files = spec.pointer("/managedSecret/files");
            let has_files = files.is_some_and(|files| !files.is_null() && *files != json!({}));
            has_files || mounts(spec).next().is_none()
        },
    ),
    ("file in self.managedSecret.files", |spec| {
        let Some(files) = spec.pointer("/managedSecret/files") else {
            return true;
        };
        let mut named = mounts(spec)
            .filter_map(|mount| mount.get("files")?.as_array())
            .flatten();
        named.all(|name| has(files, text(name)))
    }),
    ("has(self.prefect) || !has(self.inject)", |spec| {
        has(spec, "prefect")
            || spec
                .pointer("/inject/workPools")
                .and_then(Value::as_array)
                .is_none_or(Vec::is_empty)
    }),
];

/// Whether `rule` holds for `value`. `None` if the rule is not known.
pub(super) fn holds(rule: &str, value: &Value) -> Option<bool> {
    let found = RULES.iter().find(|(part, _)| rule.contains(part));
    found.map(|(_, holds)| holds(value))
}

/// The message about a value that breaks `rule`, if it depends on the value.
pub(super) fn message(rule: &str, value: &Value) -> Option<String> {
    let slug = rule
        .contains(LABEL_VALUE)
        .then(|| job_labels::slug(text(value)))
        .flatten()?;
    Some(format!(
        "this value cannot be a label: write the slug that Prefect's worker writes, {slug}"
    ))
}

/// A field with the value null is absent.
fn has(of: &Value, field: &str) -> bool {
    of.get(field).is_some_and(|value| !value.is_null())
}

/// The mounts of a spec.
fn mounts(spec: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["/inject/workPools", "/inject/jobs"].into_iter();
    let items = lists.filter_map(|list| spec.pointer(list)?.as_array());
    let mounts = items.flatten().filter_map(|item| item.get("mount"));
    mounts.filter(|mount| !mount.is_null())
}

/// Whether a mount may hide what the image has at this path.
fn is_free_path(path: &str) -> bool {
    static TREES: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(RESERVED_TREES).ok());
    let is_reserved = TREES.as_ref().is_none_or(|trees| trees.is_match(path));
    !is_reserved && !RESERVED_ROOTS.contains(&path)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_plain(value: &Value) -> bool {
    !has_control(text(value))
}

/// The seconds of a duration of hours, minutes and seconds, each with at most six digits. `None` if
/// it is empty or has another form.
fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0;
    for (unit, factor) in [('h', 3600), ('m', 60), ('s', 1)] {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if (1..=6).contains(&digits) && rest[digits..].starts_with(unit) {
            sum += rest[..digits].parse::<u64>().ok()? * factor;
            rest = &rest[digits + 1..];
        }
    }
    (rest.is_empty() && !text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_hours_minutes_and_seconds() {
        for (text, expected) in [
            ("30s", Some(30)),
            ("1h30m", Some(5400)),
            ("1h1m1s", Some(3661)),
            ("999999s", Some(999_999)),
            ("1000000s", None),
            ("1m1h", None),
            ("", None),
            ("1d", None),
            ("s", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn null_counts_as_absent() {
        let rule = "has(self.value) != has(self.valueFrom)";
        assert_eq!(
            holds(rule, &json!({"value": null, "valueFrom": {}})),
            Some(true)
        );
        assert_eq!(holds("another", &json!({})), None);
    }
}

//! The formats of a download.
//!
//! Input: names and values. Output: text and its media type.
//! Invariants: pure; the output is sorted by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::names::{Transformer, sections};

/// The values of `format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    DotnetJson,
    Env,
    EnvNoQuotes,
    Docker,
    Yaml,
}

impl Format {
    /// The format with that name, if Doppler supports it.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "json" => Self::Json,
            "dotnet-json" => Self::DotnetJson,
            "env" => Self::Env,
            "env-no-quotes" => Self::EnvNoQuotes,
            "docker" => Self::Docker,
            "yaml" => Self::Yaml,
            _ => return None,
        })
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::DotnetJson => "application/json; charset=utf-8",
            Self::Yaml => "application/x-yaml; charset=utf-8",
            Self::Env | Self::EnvNoQuotes | Self::Docker => "text/plain; charset=utf-8",
        }
    }

    /// The body of `secrets`, whose names are not transformed yet.
    pub(super) fn write(
        self,
        secrets: &BTreeMap<String, String>,
        transformer: Option<Transformer>,
    ) -> String {
        if self == Self::DotnetJson {
            return dotnet_json(secrets);
        }
        // Sorted by the transformed names, whose order can differ.
        let named: BTreeMap<String, &str> = secrets
            .iter()
            .map(|(name, value)| {
                (
                    transformer.map_or_else(|| name.clone(), |t| t.apply(name)),
                    value.as_str(),
                )
            })
            .collect();
        match self {
            Self::Json => serde_json::to_string(&named).unwrap_or_default(),
            Self::Env => lines(&named, |name, value| {
                format!("{name}=\"{}\"", in_quotes(value))
            }),
            Self::EnvNoQuotes | Self::Docker => lines(&named, |name, value| {
                format!("{name}={}", value.replace('\n', "\\n"))
            }),
            // Every JSON string is a valid YAML string.
            Self::Yaml | Self::DotnetJson => lines(&named, |name, value| {
                format!("{name}: {}", Value::from(value))
            }),
        }
    }
}

fn lines(named: &BTreeMap<String, &str>, line: impl Fn(&str, &str) -> String) -> String {
    named.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{}", line(name, value));
        text
    })
}

/// `$` is not escaped, as by Doppler; python-dotenv therefore interpolates the output.
fn in_quotes(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn dotnet_json(secrets: &BTreeMap<String, String>) -> String {
    let mut root = Map::new();
    for (name, value) in secrets {
        insert(&mut root, &sections(name), value);
    }
    Value::Object(root).to_string()
}

fn insert(object: &mut Map<String, Value>, path: &[String], value: &str) {
    match path {
        [] => {}
        [leaf] => {
            object.insert(leaf.clone(), Value::from(value));
        }
        [section, rest @ ..] => {
            let inner = object.entry(section.clone()).or_insert(Value::Null);
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> BTreeMap<String, String> {
        [("B", "a \"quoted\" $word"), ("A__LONG_NAME", "two\nlines")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn json_is_a_flat_sorted_map() {
        assert_eq!(
            Format::Json.write(&secrets(), None),
            r#"{"A__LONG_NAME":"two\nlines","B":"a \"quoted\" $word"}"#
        );
    }

    #[test]
    fn env_quotes_each_value_and_keeps_it_on_one_line() {
        assert_eq!(
            Format::Env.write(&secrets(), None),
            "A__LONG_NAME=\"two\\nlines\"\nB=\"a \\\"quoted\\\" $word\"\n"
        );
    }

    #[test]
    fn dotnet_json_nests_sections() {
        assert_eq!(
            Format::DotnetJson.write(&secrets(), None),
            r#"{"A":{"LongName":"two\nlines"},"B":"a \"quoted\" $word"}"#
        );
    }

    #[test]
    fn output_is_sorted_by_transformed_name() {
        let secrets = [("A_B", "1"), ("AA", "2")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .into();
        assert_eq!(
            Format::Json.write(&secrets, Some(Transformer::UpperCamel)),
            r#"{"AB":"1","Aa":"2"}"#
        );
        assert_eq!(
            Format::Json.write(&secrets, Some(Transformer::LowerKebab)),
            r#"{"a-b":"1","aa":"2"}"#
        );
    }
}

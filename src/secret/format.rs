//! Writes all keys of the environment as one file.
//!
//! Input: names and values.
//! Output: a text in the format that the spec names.
//! Invariants: pure; sorted by name. Every parser of the format gives the values back, apart from the
//! interpolation of `$` that some readers of `Env` do.

use std::{collections::BTreeMap, fmt::Write};

use secrecy::{ExposeSecret, SecretString};

use crate::crd::FileFormat;

/// The keys in `format`.
///
/// # Errors
/// With `DotnetJson`, the name of a value that has others inside of it: an object cannot hold both.
pub fn write(
    format: FileFormat,
    keys: &BTreeMap<String, SecretString>,
) -> Result<String, NameClash> {
    let mut text = String::new();
    match format {
        FileFormat::Json => {
            let nodes = keys
                .iter()
                .map(|(name, value)| (name.clone(), Node::Value(value)));
            object(&mut text, &nodes.collect());
        }
        FileFormat::Yaml => {
            for (name, value) in keys {
                // Every JSON string is a YAML string. Quotes keep `yes` and `1` texts.
                quoted(&mut text, name);
                text.push_str(": ");
                quoted(&mut text, value.expose_secret());
                text.push('\n');
            }
        }
        FileFormat::Env => {
            for (name, value) in keys {
                let value = value.expose_secret();
                let _ = writeln!(text, "{name}=\"{}\"", in_quotes(value));
            }
        }
        FileFormat::DotnetJson => {
            let mut root = BTreeMap::new();
            for (name, value) in keys {
                insert(&mut root, name, &sections(name), value)?;
            }
            object(&mut text, &root);
        }
    }
    if matches!(format, FileFormat::Json | FileFormat::DotnetJson) {
        text.push('\n');
    }
    Ok(text)
}

/// A name that is the beginning of another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "DotnetJson cannot hold both `{0}` and a name that begins with it and `__`, or two names that it spells alike: rename or exclude one"
)]
pub struct NameClash(String);

/// As Doppler writes it.
fn in_quotes(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

enum Node<'a> {
    Value(&'a SecretString),
    Section(BTreeMap<String, Node<'a>>),
}

/// The sections of a name, as .NET spells them: `A__LONG_NAME` is `LongName` in `A`.
fn sections(name: &str) -> Vec<String> {
    let camel = |section: &str| -> String {
        let words = section.split('_').map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            let rest = letters.as_str().to_ascii_lowercase();
            first.into_iter().collect::<String>() + &rest
        });
        words.collect()
    };
    name.split("__").map(camel).collect()
}

fn insert<'a>(
    object: &mut BTreeMap<String, Node<'a>>,
    name: &str,
    path: &[String],
    value: &'a SecretString,
) -> Result<(), NameClash> {
    let clash = || NameClash(name.to_owned());
    match path {
        [] => Err(clash()),
        [leaf] => match object.insert(leaf.clone(), Node::Value(value)) {
            None => Ok(()),
            Some(_) => Err(clash()),
        },
        [section, rest @ ..] => {
            let inner = object.entry(section.clone());
            match inner.or_insert_with(|| Node::Section(BTreeMap::new())) {
                Node::Section(inner) => insert(inner, name, rest, value),
                Node::Value(_) => Err(clash()),
            }
        }
    }
}

/// Writes a JSON object.
fn object(text: &mut String, fields: &BTreeMap<String, Node<'_>>) {
    text.push('{');
    for (at, (name, node)) in fields.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        quoted(text, name);
        text.push(':');
        match node {
            Node::Value(value) => quoted(text, value.expose_secret()),
            Node::Section(fields) => object(text, fields),
        }
    }
    text.push('}');
}

/// Writes a string that both JSON and YAML read back: characters that YAML does not print are escaped.
fn quoted(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn keys(pairs: &[(&str, &str)]) -> BTreeMap<String, SecretString> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect()
    }

    #[test]
    fn writes_each_format() {
        let keys = keys(&[
            ("A__LONG_NAME", "two\nlines"),
            ("B", "a \"quoted\" $word \\ yes"),
        ]);
        for (format, expected) in [
            (
                FileFormat::Json,
                r#"{"A__LONG_NAME":"two\nlines","B":"a \"quoted\" $word \\ yes"}"#,
            ),
            (
                FileFormat::Yaml,
                "\"A__LONG_NAME\": \"two\\nlines\"\n\"B\": \"a \\\"quoted\\\" $word \\\\ yes\"",
            ),
            (
                FileFormat::Env,
                "A__LONG_NAME=\"two\\nlines\"\nB=\"a \\\"quoted\\\" $word \\\\ yes\"",
            ),
            (
                FileFormat::DotnetJson,
                r#"{"A":{"LongName":"two\nlines"},"B":"a \"quoted\" $word \\ yes"}"#,
            ),
        ] {
            assert_eq!(write(format, &keys).unwrap(), format!("{expected}\n"));
        }
    }

    #[test]
    fn dotnet_json_names_what_it_cannot_hold() {
        for pair in [["A", "A__B"], ["A_B", "A_b"], ["A__B", "A__B__C"]] {
            let keys = keys(&pair.map(|name| (name, "secret")));
            let clash = write(FileFormat::DotnetJson, &keys)
                .unwrap_err()
                .to_string();
            let named = pair.iter().any(|name| clash.contains(&format!("`{name}`")));
            assert!(named && !clash.contains("secret"), "{clash}");
        }
    }

    proptest! {
        #[test]
        fn json_and_yaml_give_every_value_back(
            values in btree_map("[A-Za-z0-9_.-]{1,6}", "(\\PC|[\u{0}-\u{1f}\u{7f}-\u{9f}\u{2028}\u{feff}]){0,20}", 0..6),
        ) {
            let pairs: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let json = write(FileFormat::Json, &keys(&pairs)).unwrap();
            let read: BTreeMap<String, String> = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&read, &values);
            let yaml = write(FileFormat::Yaml, &keys(&pairs)).unwrap();
            let read: BTreeMap<String, String> = if values.is_empty() {
                BTreeMap::new()
            } else {
                serde_saphyr::from_str(&yaml).unwrap()
            };
            prop_assert_eq!(&read, &values);
        }
    }
}

use super::*;

fn snapshot(pairs: &[(&str, &str)], etag: &str) -> Snapshot {
    let values = pairs
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.into()))
        .collect();
    Snapshot::new(values, Some(etag.to_owned()))
}

#[test]
fn parses_every_value_exactly() {
    let body = r#"{"A":"","B":"a\nb\"c$d\\","C":"Grüße 🎉","D":"\u0000","E":"{\"x\":1}"}"#;
    let values = parse(body.as_bytes()).unwrap();
    let read: Vec<_> = values
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose_secret()))
        .collect();
    assert_eq!(
        read,
        [
            ("A", ""),
            ("B", "a\nb\"c$d\\"),
            ("C", "Grüße 🎉"),
            ("D", "\0"),
            ("E", "{\"x\":1}")
        ]
    );
    assert!(parse(b"{}").unwrap().is_empty());
}

#[test]
fn rejects_other_shapes_without_quoting_them() {
    for (body, problem) in [
        (r#"{"A":1}"#, "has a value that is not a string"),
        (r#"{"A":-1.5}"#, "has a value that is not a string"),
        (r#"{"A":true}"#, "has a value that is not a string"),
        (r#"{"A":null}"#, "has a value that is not a string"),
        (r#"{"A":["canary"]}"#, "has a value that is not a string"),
        (
            r#"{"A":{"raw":"canary"}}"#,
            "has a value that is not a string",
        ),
        (
            r#"{"messages":[],"success":false}"#,
            "has a value that is not a string",
        ),
        (r#"{"A":"x","A":"canary"}"#, "has one name twice"),
        (r#"{"A":"x","A":"x"}"#, "has one name twice"),
        (r#"["canary"]"#, "is not a JSON object"),
        (r#""canary""#, "is not a JSON object"),
        ("null", "is not a JSON object"),
        ("", "ends too early"),
        (r#"{"A":"cana"#, "ends too early"),
        (r#"{"A":"x"} canary"#, "is not JSON"),
        ("<html>canary</html>", "is not JSON"),
    ] {
        assert_eq!(parse(body.as_bytes()).unwrap_err(), problem, "{body}");
    }
    assert_eq!(parse(b"{\"A\":\"\xff\"}").unwrap_err(), "is not UTF-8");
}

#[test]
fn equality_ignores_the_etag() {
    assert_eq!(snapshot(&[("A", "1")], "x"), snapshot(&[("A", "1")], "y"));
    assert_ne!(snapshot(&[("A", "1")], "x"), snapshot(&[("A", "2")], "x"));
    assert_ne!(snapshot(&[("A", "1")], "x"), snapshot(&[("B", "1")], "x"));
    assert_ne!(snapshot(&[("A", "1")], "x"), snapshot(&[], "x"));
}

#[test]
fn debug_output_omits_the_values() {
    let snapshot = snapshot(&[("A", "canary")], "canary");
    assert!(!format!("{snapshot:?} {snapshot:#?}").contains("canary"));
}

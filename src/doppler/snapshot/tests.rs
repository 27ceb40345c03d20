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
        (
            r#"{"A":1}"#,
            "has a number as the value of A, and not a string",
        ),
        (
            r#"{"A":-1.5}"#,
            "has a number as the value of A, and not a string",
        ),
        (
            r#"{"A":true}"#,
            "has a boolean as the value of A, and not a string",
        ),
        (
            r#"{"A":null}"#,
            "has null as the value of A, and not a string",
        ),
        (
            r#"{"A":["canary"]}"#,
            "has a list as the value of A, and not a string",
        ),
        (
            r#"{"A":{"raw":"canary"}}"#,
            "has an object as the value of A, and not a string",
        ),
        (
            r#"{"messages":[],"success":false}"#,
            "has a list as the value of messages, and not a string",
        ),
        (r#"{"A":"x","A":"canary"}"#, "has the name A twice"),
        (r#"{"A":"x","A":"x"}"#, "has the name A twice"),
        (r#"["canary"]"#, "is not a JSON object"),
        (r#""canary""#, "is not a JSON object"),
        ("null", "is not a JSON object"),
        ("", "ends too early"),
        (r#"{"A":"cana"#, "ends too early"),
        (r#"{"A":"x"} canary"#, "is not JSON"),
        ("<html>canary</html>", "is not JSON"),
    ] {
        assert_eq!(
            parse(body.as_bytes()).unwrap_err().to_string(),
            problem,
            "{body}"
        );
    }
    assert_eq!(
        parse(b"{\"A\":\"\xff\"}").unwrap_err().to_string(),
        "is not UTF-8"
    );
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

#[test]
fn rejects_a_config_that_is_larger_than_any() {
    let large = format!(r#"{{"A":"{}"}}"#, "x".repeat(MAX_BYTES));
    assert_eq!(parse(large.as_bytes()).unwrap_err(), Invalid::TooLarge);
    let largest = format!(r#"{{"A":"{}"}}"#, "x".repeat(MAX_BYTES - 1));
    assert_eq!(parse(largest.as_bytes()).unwrap().len(), 1);
    let names: Vec<String> = (0..=MAX_NAMES).map(|n| format!(r#""N{n}":"""#)).collect();
    let many = format!("{{{}}}", names.join(","));
    assert_eq!(
        parse(many.as_bytes()).unwrap_err().to_string(),
        "has more than 10,000 names"
    );
    let most = format!("{{{}}}", names[1..].join(","));
    assert_eq!(parse(most.as_bytes()).unwrap().len(), MAX_NAMES);
}

#[test]
fn a_problem_does_not_hide_that_the_body_ends_too_early() {
    assert_eq!(
        parse(br#"{"A":1,"B"#).unwrap_err().to_string(),
        "ends too early"
    );
}

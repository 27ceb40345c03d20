use super::*;

fn parse(message: &str) -> ErrorMessages {
    let body = serde_json::json!({"messages": [message], "success": false}).to_string();
    ErrorMessages::parse(body.as_bytes(), &"dp.st.dev.canary".into())
}

#[test]
fn a_quote_is_one_short_line() {
    let messages = parse("Could not find\nrequested\u{7} project\u{202e} 'x'");
    assert_eq!(
        messages.into_quote().as_deref(),
        Some("Could not find requested project 'x'")
    );
    assert_eq!(
        parse(&"é".repeat(1000)).into_quote(),
        Some(format!("{}…", "é".repeat(MAX_QUOTE_CHARS)))
    );
    let exact = "x".repeat(MAX_QUOTE_CHARS);
    assert_eq!(parse(&exact).into_quote(), Some(exact));
}

#[test]
fn quotes_nothing_of_a_message_that_contains_a_token() {
    for message in [
        "Invalid Auth token dp.st.dev.canary",
        "Invalid Auth token dp.st.dev.\ncanary",
        "Invalid Auth token dp.pt.of-another-user",
    ] {
        let messages = parse(message);
        assert!(messages.rejects_token(), "{message}");
        assert_eq!(messages.into_quote(), None, "{message}");
    }
}

#[test]
fn quotes_nothing_of_a_body_of_another_shape() {
    for body in [
        &b"<html>canary</html>"[..],
        br#"{"messages":["canary"]}"#,
        br#"{"messages":["canary"],"success":true}"#,
        br#"{"messages":"canary","success":false}"#,
        br#""canary""#,
        b"",
        b"\xff",
    ] {
        let messages = ErrorMessages::parse(body, &"t".into());
        assert_eq!(messages.into_quote(), None);
    }
}

//! Which status becomes which error.

use super::*;

fn read(status: u16, message: &str) -> DopplerError {
    let body = serde_json::json!({"messages": [message], "success": false}).to_string();
    let messages = ErrorMessages::parse(body.as_bytes(), &"dp.st.dev.canary".into());
    error_for_status(status, &key("https://api.doppler.com"), messages)
}

#[test]
fn each_error_status_has_its_reason() {
    for (status, message, reason) in [
        (401, "Invalid Auth token", Reason::DopplerUnauthorized),
        (401, "", Reason::DopplerUnauthorized),
        (400, "Invalid Service token", Reason::DopplerUnauthorized),
        (
            400,
            "This token does not have access to requested config 'dev'",
            Reason::DopplerForbidden,
        ),
        (
            400,
            "Invalid: this token does not have access to requested project 'x'",
            Reason::DopplerForbidden,
        ),
        (
            400,
            "dp.st.dev.canary does not have access",
            Reason::DopplerForbidden,
        ),
        (403, "no", Reason::DopplerForbidden),
        (
            404,
            "Could not find requested project 'x'",
            Reason::ConfigMissing,
        ),
        (
            400,
            "Could not find requested config 'invalid-token'",
            Reason::ConfigMissing,
        ),
        (400, "", Reason::ConfigMissing),
        (307, "", Reason::DopplerError),
        (302, "", Reason::DopplerError),
        (204, "", Reason::DopplerError),
        (206, "", Reason::DopplerError),
        (418, "", Reason::DopplerError),
        (500, "", Reason::DopplerUnreachable),
        (503, "", Reason::DopplerUnreachable),
        (408, "", Reason::DopplerUnreachable),
    ] {
        assert_eq!(read(status, message).reason(), reason, "{status} {message}");
    }
}

#[test]
fn quotes_doppler_on_one_short_line() {
    assert_eq!(
        read(404, "Could not find\nrequested\u{7} project\u{202e} 'x'").to_string(),
        "Doppler has no config dev of project my-project, or hides it from this token: correct the names, or use another token \
         (Doppler says: Could not find requested project 'x')"
    );
    let DopplerError::Unauthorized { quote: Some(quote) } = read(401, &"é".repeat(1000)) else {
        panic!("no quote")
    };
    assert_eq!(
        quote,
        format!("{}…", "é".repeat(error_messages::MAX_QUOTE_CHARS))
    );
    let exact = "x".repeat(error_messages::MAX_QUOTE_CHARS);
    assert_eq!(
        read(401, &exact),
        DopplerError::Unauthorized { quote: Some(exact) }
    );
}

#[test]
fn quotes_nothing_of_a_message_that_contains_a_token() {
    for message in [
        "Invalid Auth token dp.st.dev.canary",
        "Invalid Auth token dp.st.dev.\ncanary",
        "Invalid Auth token dp.pt.of-another-user",
    ] {
        let error = read(401, message);
        assert_eq!(error, DopplerError::Unauthorized { quote: None });
    }
}

#[test]
fn a_name_does_not_break_the_message_into_lines() {
    let key = ConfigKey {
        project: "p\nq".to_owned(),
        config: "c".repeat(500),
        ..key("https://h.example")
    };
    let text = error_for_status(404, &key, ErrorMessages::default()).to_string();
    assert!(!text.contains('\n') && text.len() < 400, "{text}");
}

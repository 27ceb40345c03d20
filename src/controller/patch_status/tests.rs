use kube::core::Status;
use serde_json::json;

use super::*;

fn error(code: u16, message: &str, causes: &serde_json::Value) -> StatusError {
    let status = json!({
        "status": "Failure", "code": code, "reason": "Invalid", "message": message,
        "details": {"causes": causes},
    });
    let status: Status = serde_json::from_value(status).unwrap();
    StatusError::of(kube::Error::Api(Box::new(status)))
}

#[test]
fn refusals_differ_from_deletions_and_outages() {
    let none = json!([]);
    let cause = json!([{"reason": "FieldValueNotSupported", "field": "status.workPools[0].state", "message": "m"}]);
    for (code, message, causes) in [
        (422, "status.workPools[0].state: Unsupported value", &cause),
        (
            422,
            "ValidatingAdmissionPolicy 'p' denied request: no",
            &none,
        ),
        (413, "too large", &none),
        (403, "forbidden", &none),
        (404, "admission webhook \"w\" denied the request: no", &none),
        (500, "admission webhook \"w\" denied the request: no", &none),
    ] {
        let found = error(code, message, causes);
        assert!(
            matches!(found, StatusError::Refused(_)),
            "{code}: {found:?}"
        );
        assert!(found.to_string().contains(message), "{found}");
    }
    for (code, message) in [(404, "not found"), (422, TEST_FAILED)] {
        let found = error(code, message, &none);
        assert!(matches!(found, StatusError::Gone), "{code}: {found:?}");
    }
    for code in [429, 500, 503] {
        let found = error(code, "later", &none);
        assert!(
            matches!(found, StatusError::Unreachable),
            "{code}: {found:?}"
        );
    }
}

#[test]
fn answer_of_the_api_server_is_one_bounded_line() {
    let message = format!("no\nINFO forged {}", "x".repeat(100_000));
    let text = error(422, &message, &json!([{"message": "m"}])).to_string();
    assert!(text.lines().count() == 1 && text.len() < 2000, "{text}");
}

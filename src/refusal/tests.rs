use serde_json::json;

use super::*;

fn refusal(code: u16, message: &str) -> Refusal {
    let status =
        json!({"status": "Failure", "code": code, "reason": "Forbidden", "message": message});
    Refusal::of(&serde_json::from_value(status).unwrap())
}

/// The policy and its sentence.
fn policy(code: u16, message: &str) -> (String, String) {
    let Refusal::Policy { policy, sentence } = refusal(code, message) else {
        panic!("{message}")
    };
    (policy.to_string(), sentence.to_string())
}

#[test]
fn tells_authorization_quota_and_policies_apart() {
    let rbac = "secrets is forbidden: User \"system:serviceaccount:a:b\" cannot create resource \"secrets\" in API group \"\" in the namespace \"flows\"";
    assert_eq!(refusal(403, rbac), Refusal::Rbac);
    let quota = "secrets \"b\" is forbidden: exceeded quota: few-secrets, requested: count/secrets=1, used: count/secrets=2, limited: count/secrets=2";
    let Refusal::Quota { name, sentence } = refusal(403, quota) else {
        panic!()
    };
    assert_eq!(name, "few-secrets");
    assert_eq!(
        sentence.to_string(),
        "requested: count/secrets=1, used: count/secrets=2, limited: count/secrets=2"
    );
    let quota = "secrets \"b\" is forbidden: failed quota: few: must specify memory";
    let Refusal::Quota { name, sentence } = refusal(403, quota) else {
        panic!()
    };
    assert_eq!(
        (&*name, &*sentence.to_string()),
        ("few", "must specify memory")
    );
    for (code, message, expected) in [
        (
            422,
            "secrets \"b\" is forbidden: ValidatingAdmissionPolicy 'owned' with binding 'all' denied request: set the label team",
            ("ValidatingAdmissionPolicy owned", "set the label team"),
        ),
        (
            403,
            "secrets \"b\" is forbidden: ValidatingAdmissionPolicy 'owned' denied request: it's late",
            ("ValidatingAdmissionPolicy owned", "it's late"),
        ),
        (
            409,
            "admission webhook \"a.example.com\" denied the request: no \"secrets\"",
            ("admission webhook a.example.com", "no \"secrets\""),
        ),
        (
            400,
            "admission webhook \"a.example.com\" denied the request without explanation",
            ("admission webhook a.example.com", "without explanation"),
        ),
        (
            403,
            "secrets \"b\" is forbidden: cannot set blockOwnerDeletion",
            (
                "an admission plugin of the API server",
                "cannot set blockOwnerDeletion",
            ),
        ),
    ] {
        let (name, sentence) = policy(code, message);
        assert_eq!((&*name, &*sentence), expected);
    }
    for (code, message, expected) in [
        (
            500,
            "Internal error occurred: failed calling webhook \"a.example.com\": failed to call webhook: Post",
            Refusal::WebhookFailed {
                name: "a.example.com".to_owned(),
            },
        ),
        (
            400,
            "admission webhook \"a.example.com\" does not support dry run",
            Refusal::NoDryRun {
                name: "a.example.com".to_owned(),
            },
        ),
        (413, "limit is 3145728", Refusal::TooLarge),
        (500, "etcdserver: request is too large", Refusal::TooLarge),
        (403, "", Refusal::Rbac),
        (500, "etcdserver: request timed out", Refusal::Other),
    ] {
        assert_eq!(refusal(code, message), expected);
    }
}

#[test]
fn a_sentence_cannot_pass_for_another_part() {
    let message = "secrets \"b\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: secrets \"b\" is forbidden: User \"x\" cannot create";
    assert_eq!(policy(403, message).0, "ValidatingAdmissionPolicy p");
    let message = "admission webhook \"w\" denied the request: secrets \"b\" is forbidden: exceeded quota: q, requested";
    assert_eq!(policy(403, message).0, "admission webhook w");
    let message = "secrets \"b\" is forbidden: exceeded quota: q, requested: User \"x\" cannot";
    assert!(matches!(refusal(403, message), Refusal::Quota { .. }));
}

#[test]
fn a_sentence_is_a_bounded_line_without_values() {
    let values = [
        "canary-value",
        "first line ok\nsecond canary\n",
        "yes",
        "canary",
    ];
    let encoded = BASE64_STANDARD.encode("canary-value");
    let text = format!(
        "got canary-value and {encoded},\nthen second canary, and canary; say yes{}",
        "x".repeat(2 * MAX_SENTENCE_BYTES)
    );
    let sentence = Sentence::new(&text).without(values);
    let shown = sentence.to_string();
    assert!(
        shown.starts_with("got [value] and [value], then [value], and [value]; say yes"),
        "{shown}"
    );
    assert!(shown.len() <= MAX_SENTENCE_BYTES && shown.lines().count() == 1);
    assert!(!format!("{sentence:?}").contains("say"));
    assert_eq!(sentence.hidden().to_string(), "");
}

use super::*;
use crate::reason::Reason;
use axum::{Json, Router, http::StatusCode, response::IntoResponse};
use serde_json::{Value, json};

/// A client of an API server that gives the same response to every request.
fn answering(code: u16, body: Value) -> SecretClient {
    let code = StatusCode::from_u16(code).unwrap();
    let router = Router::new().fallback(move || async move { (code, Json(body)).into_response() });
    SecretClient::new(Client::new(router, "default"), Duration::from_secs(5))
}

fn status(code: u16, word: &str, causes: &Value) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "reason": word, "message": "canary", "details": {"causes": causes}})
}

fn observed() -> ObservedSecret {
    ObservedSecret::from_metadata(&ObjectMeta {
        uid: Some("s".into()),
        resource_version: Some("7".into()),
        ..ObjectMeta::default()
    })
}

#[tokio::test]
async fn maps_api_errors_and_drops_the_server_message() {
    for (code, word, causes, reason) in [
        (409, "Conflict", json!([]), Reason::KubernetesError),
        (
            422,
            "Invalid",
            json!([{"reason": "FieldValueForbidden", "field": "data", "message": "m"}]),
            Reason::SecretImmutable,
        ),
        (
            422,
            "Invalid",
            json!([{"reason": "FieldValueTooLong", "field": "data", "message": "m"}]),
            Reason::SecretTooLarge,
        ),
        (
            413,
            "RequestEntityTooLarge",
            json!([]),
            Reason::SecretTooLarge,
        ),
        (403, "Forbidden", json!([]), Reason::SecretForbidden),
        (
            403,
            "Forbidden",
            json!([{"reason": "NamespaceTerminating", "field": "x", "message": "m"}]),
            Reason::NamespaceTerminating,
        ),
        (500, "InternalError", json!([]), Reason::KubernetesError),
    ] {
        let secrets = answering(code, status(code, word, &causes));
        let error = secrets
            .disown("ns", "s", &observed(), "u")
            .await
            .unwrap_err();
        assert_eq!(error.reason(), reason, "{code} {causes}");
        assert!(
            !format!("{error} {error:?}").contains("canary"),
            "{error:?}"
        );
    }
    let patch = |causes| answering(422, status(422, "Invalid", &causes));
    assert_eq!(
        patch(json!([])).disown("ns", "s", &observed(), "u").await,
        Err(WriteError::Conflict)
    );
}

#[tokio::test]
async fn get_and_delete_accept_a_missing_secret() {
    let secrets = answering(404, status(404, "NotFound", &json!([])));
    assert!(secrets.get("ns", "s").await.unwrap().is_none());
    assert_eq!(secrets.delete("ns", "s", &observed()).await, Ok(()));
}

#[tokio::test]
async fn times_out_when_the_api_server_does_not_answer() {
    let router = Router::new().fallback(std::future::pending::<()>);
    let secrets = SecretClient::new(Client::new(router, "default"), Duration::from_millis(20));
    assert_eq!(
        secrets.get("ns", "s").await.err(),
        Some(WriteError::Timeout)
    );
}

#[tokio::test]
async fn compares_data_by_bytes_and_reports_what_blocks_an_update() {
    let body = json!({"metadata": {"uid": "s"}, "type": "Opaque", "data": {"A": "YQ==", "B": ""}});
    let found = answering(200, body).get("ns", "s").await.unwrap().unwrap();
    let data = |a: &str| {
        BTreeMap::from([
            ("A".to_owned(), SecretSlice::from(a.as_bytes().to_vec())),
            ("B".to_owned(), SecretSlice::from(Vec::new())),
        ])
    };
    assert!(found.data_equals(&data("a")));
    assert!(!found.data_equals(&data("b")));
    assert!(!found.data_equals(&BTreeMap::new()));
    assert_eq!(found.update_blocker(SecretType::Opaque), None);
    let typed = answering(200, json!({"metadata": {}, "type": "kubernetes.io/tls"}))
        .get("ns", "s")
        .await;
    assert_eq!(
        typed.unwrap().unwrap().update_blocker(SecretType::Opaque),
        Some(WriteError::WrongType)
    );
    let immutable = answering(
        200,
        json!({"metadata": {}, "type": "Opaque", "immutable": true}),
    )
    .get("ns", "s")
    .await;
    assert_eq!(
        immutable
            .unwrap()
            .unwrap()
            .update_blocker(SecretType::Opaque),
        Some(WriteError::Immutable)
    );
}

fn desired_with(value: &str) -> Desired {
    Desired {
        name: "s".to_owned(),
        namespace: "ns".to_owned(),
        binding_uid: "u".to_owned(),
        data: BTreeMap::from([("A".to_owned(), value.as_bytes().to_vec().into())]),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        owner: None,
        content_hash: String::new(),
        excluded_keys: Vec::new(),
        rename_note: None,
        collisions: Vec::new(),
        type_: SecretType::Opaque,
        files: None,
        removes_entries: false,
    }
}

#[tokio::test]
async fn names_the_policy_and_its_sentence_without_values() {
    let refused = |code: u16, message: &str| {
        let body = json!({"kind": "Status", "status": "Failure", "code": code, "reason": "Conflict", "message": message});
        answering(code, body)
    };
    let policy = "secrets \"s\" is forbidden: ValidatingAdmissionPolicy 'team' with binding 'b' denied request: canary has no team\nlabel";
    let secrets = refused(422, policy);
    let error = secrets.create(&desired_with("canary")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::SecretRejected);
    let text = error.to_string();
    assert!(
        text.starts_with("ValidatingAdmissionPolicy team rejects the request to create the Secret (\"[value] has no team label\")"),
        "{text}"
    );
    let update = secrets.update(&desired_with("canary"), &observed()).await;
    assert_eq!(update.unwrap_err().reason(), Reason::SecretRejected);
    // The values of the Secret that exists are not known here.
    let error = secrets.delete("ns", "s", &observed()).await.unwrap_err();
    assert!(error.to_string().contains("team") && !error.to_string().contains("canary"));

    // A webhook chooses the status code: neither a conflict nor a missing Secret.
    for code in [404, 409, 422, 500] {
        let message = "admission webhook \"w.example.com\" denied the request: not today";
        let error = refused(code, message).create(&desired_with("v")).await;
        let error = error.unwrap_err();
        assert_eq!(error.reason(), Reason::SecretRejected, "{code}");
        assert!(error.to_string().contains("w.example.com"), "{error}");
    }
    let quota = "secrets \"s\" is forbidden: exceeded quota: few, requested: count/secrets=1, used: count/secrets=1, limited: count/secrets=1";
    let error = refused(403, quota).create(&desired_with("v")).await;
    let error = error.unwrap_err();
    assert_eq!(error.reason(), Reason::QuotaExceeded);
    assert!(error.to_string().contains("ResourceQuota few"), "{error}");
}

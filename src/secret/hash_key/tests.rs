use std::time::Duration;

use axum::{Json, Router, http::StatusCode};
use kube::Client;
use serde_json::json;

use super::*;

#[tokio::test]
async fn reads_existing_hash_key_and_rejects_a_malformed_one() {
    let stored = |value: &'static str| {
        let router = Router::new().fallback(move |method: axum::http::Method| async move {
            if method == "POST" {
                (
                    StatusCode::CONFLICT,
                    Json(json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "AlreadyExists"})),
                )
            } else {
                (
                    StatusCode::OK,
                    Json(json!({"metadata": {}, "type": "Opaque", "data": {"key": value}})),
                )
            }
        });
        SecretClient::new(Client::new(router, "default"), Duration::from_secs(5))
    };
    // base64 of base64 of 32 bytes of 'A'.
    let good = stored("UVVGQlFVRkJRVUZCUVVGQlFVRkJRVUZCUVVGQlFVRkJRVUZCUVVGQlFVRT0=");
    let key = load_or_create_hash_key(&good, "op").await.unwrap();
    assert_eq!(key.expose(), &[b'A'; 32]);
    let error = load_or_create_hash_key(&stored("eA=="), "op")
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("delete it and restart the operator"),
        "{error}"
    );
}

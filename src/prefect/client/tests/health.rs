//! What a block does to the requests for other blocks of the same server.

use super::*;

const SHORT: Duration = Duration::from_secs(2);

/// Answers to reads of one block, each of which concerns this block alone.
fn faults() -> Vec<(&'static str, ResponseTemplate)> {
    vec![
        ("500", ResponseTemplate::new(500)),
        ("502", ResponseTemplate::new(502)),
        ("503", ResponseTemplate::new(503)),
        ("504", ResponseTemplate::new(504)),
        ("401", ResponseTemplate::new(401)),
        ("404", ResponseTemplate::new(404)),
        (
            "no JSON",
            ResponseTemplate::new(200).set_body_string("<html>"),
        ),
        (
            "not gzip",
            ResponseTemplate::new(200)
                .set_body_string("{}")
                .insert_header("content-encoding", "gzip"),
        ),
        (
            "stalled",
            ResponseTemplate::new(200).set_delay(Duration::from_mins(1)),
        ),
    ]
}

/// Reads a block, and fails if no request was sent for it.
async fn read(client: &Client, name: &str) -> Result<(), PrefectError> {
    let request = ReadRequest::interactive();
    let result = client.block("secret", name, &request).await.map(drop);
    assert!(
        !matches!(result, Err(PrefectError::CircuitOpen(_))),
        "{name}"
    );
    result
}

#[tokio::test]
async fn no_answer_for_one_block_stops_the_requests_for_another() {
    install_crypto_provider();
    for (fault, answer) in faults() {
        let server = MockServer::start().await;
        Mock::given(wiremock::matchers::path_regex("/name/well$"))
            .respond_with(status(200, r#"{"data": {}}"#))
            .with_priority(1)
            .mount(&server)
            .await;
        Mock::given(method("GET"))
            .respond_with(answer)
            .mount(&server)
            .await;
        let limiter = RateLimiter::small();
        let client = Client::new(&connection(&server), SHORT, limiter).unwrap();
        read(&client, "well").await.unwrap();
        for _ in 0..3 {
            let failing = ["a", "b", "c", "d"].map(|block| read(&client, block));
            for result in futures::future::join_all(failing).await {
                assert!(result.is_err(), "{fault}");
            }
            read(&client, "well").await.unwrap();
        }
    }
}

#[tokio::test]
async fn credentials_that_fail_do_not_stop_those_that_are_accepted() {
    install_crypto_provider();
    let server = MockServer::start().await;
    Mock::given(wiremock::matchers::header("authorization", "Bearer good"))
        .respond_with(status(200, r#"{"data": {}}"#))
        .with_priority(1)
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(502))
        .mount(&server)
        .await;
    let limiter = RateLimiter::small();
    let client = |key: &str| {
        let connection = Connection {
            auth: Auth::Bearer(key.into()),
            ..connection(&server)
        };
        Client::new(&connection, SHORT, limiter.clone()).unwrap()
    };
    let good = client("good");
    read(&good, "b").await.unwrap();
    for index in 0..10 {
        assert!(read(&client(&format!("junk-{index}")), "b").await.is_err());
        read(&good, "b").await.unwrap();
    }
}

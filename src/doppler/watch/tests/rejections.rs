//! Answers that no retry improves, and the rate limit.

use super::*;

#[tokio::test]
async fn a_rejection_quotes_doppler() {
    let doppler = doppler();
    for (status, reason) in [
        (400, Reason::DopplerForbidden),
        (401, Reason::DopplerUnauthorized),
        (402, Reason::DopplerError),
        (403, Reason::DopplerForbidden),
        (404, Reason::ConfigMissing),
        (204, Reason::DopplerError),
    ] {
        doppler.set_watch_mode(WatchMode::Refused(status, "Not on\nthis plan".to_owned()));
        let error = open_error(&doppler).await;
        assert!(error.is_rejection(), "{error}");
        assert_eq!(error.reason(), reason, "{error}");
        let words = if status == 204 {
            ""
        } else {
            ": Not on this plan"
        };
        let address = doppler.http_addr();
        assert_eq!(
            error.to_string(),
            format!(
                "{address} rejects the watch stream of this config (status {status}{words}): the operator polls the config"
            )
        );
    }
    doppler.set_watch_mode(WatchMode::Refused(403, format!("Not with {TOKEN}")));
    let error = open_error(&doppler).await;
    assert!(matches!(&error, WatchError::Rejected { message: None, .. }));
}

#[tokio::test]
async fn a_missing_config_or_a_foreign_token_is_a_rejection() {
    let doppler = doppler();
    doppler.revoke(TOKEN);
    assert!(open_error(&doppler).await.is_rejection());
    doppler.add_service_token(TOKEN, PROJECT, "prd");
    assert!(open_error(&doppler).await.is_rejection());
    doppler.add_account_token(TOKEN);
    doppler.remove_config(PROJECT, "dev");
    assert!(open_error(&doppler).await.is_rejection());
}

#[tokio::test]
async fn a_200_without_an_event_stream_is_a_rejection() {
    let doppler = doppler();
    for fault in [
        Fault::not_json(),
        Fault::empty_object(),
        Fault::Answer(200, String::new(), b"canary".to_vec()),
        Fault::Answer(200, "text/event-streams".to_owned(), b"canary".to_vec()),
    ] {
        let fault = doppler.fault(|_| true, fault);
        let error = open_error(&doppler).await;
        assert!(error.is_rejection(), "{error}");
        assert!(
            error.to_string().contains(
                "(status 200: the answer is not an event stream): the operator polls the config"
            ),
            "{error}"
        );
        doppler.remove_fault(fault);
    }
}

#[tokio::test]
async fn never_follows_a_redirect() {
    let (doppler, other) = (doppler(), doppler());
    for status in [301, 302, 303, 307, 308] {
        let server = wiremock::MockServer::start().await;
        let answer = wiremock::ResponseTemplate::new(status).insert_header("location", other.url());
        wiremock::Mock::given(wiremock::matchers::any())
            .respond_with(answer)
            .mount(&server)
            .await;
        let error = error_at(&server.uri()).await;
        assert!(error.is_rejection(), "{error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
    doppler.fault(|_| true, Fault::Redirect(other.url()));
    assert!(open_error(&doppler).await.is_rejection());
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn a_429_has_a_retry_after() {
    let doppler = doppler();
    doppler.set_rate_limit(RateLimit {
        reads: 0,
        ..RateLimit::TEAM
    });
    let error = open_error(&doppler).await;
    assert!(!error.is_rejection());
    assert_eq!(error.reason(), Reason::DopplerRateLimited);
    let wait = error.retry_after().unwrap();
    assert!(wait > SHORT && wait <= Duration::from_mins(1), "{wait:?}");

    let server = wiremock::MockServer::start().await;
    let answer = wiremock::ResponseTemplate::new(429);
    wiremock::Mock::given(wiremock::matchers::any())
        .respond_with(answer)
        .mount(&server)
        .await;
    let error = error_at(&server.uri()).await;
    assert_eq!(error.retry_after(), None);
    assert_eq!(error.reason(), Reason::DopplerRateLimited);
}

#[tokio::test]
async fn an_invalid_token_is_not_sent() {
    let doppler = doppler();
    for token in ["", "canary\n", "can ary", "canär"] {
        let key = ConfigKey {
            credential: token.into(),
            ..key(&doppler.url())
        };
        let Err(error) = client(LIMIT).watch(&key).await else {
            panic!("a stream")
        };
        assert_no_leak(&error);
        assert_eq!(error, WatchError::TokenInvalid);
        assert!(error.is_rejection());
    }
    assert!(doppler.requests().is_empty());
}

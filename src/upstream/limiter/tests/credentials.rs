//! Credentials that the upstream has yet to accept.

use super::*;

/// A key of the account 200 with these credentials, and a source of its own.
fn with_credentials(credentials: u8) -> LimitKey {
    LimitKey {
        credentials: Some([credentials; 32]),
        source: [credentials; 16],
        ..key("cloud", 200)
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_were_never_accepted_spend_nothing_of_the_account() {
    let f = fixture(8, Some(10));
    f.send_answered(&with_credentials(100)).await;
    let start = Instant::now();
    for junk in 0..9 {
        f.send(&with_credentials(junk), RequestOutcome::Unauthorized)
            .await;
    }
    for _ in 0..9 {
        f.send_answered(&with_credentials(100)).await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    f.send_answered(&with_credentials(100)).await;
    assert!(start.elapsed() >= MINUTE, "the account has its own budget");
}

#[tokio::test(start_paused = true)]
async fn all_credentials_that_were_never_accepted_share_a_budget() {
    let f = fixture(8, Some(10));
    let start = Instant::now();
    for junk in 0..21 {
        f.send(&with_credentials(junk), RequestOutcome::Unauthorized)
            .await;
    }
    assert!(start.elapsed() >= MINUTE * 2);
}

#[tokio::test(start_paused = true)]
async fn rejected_credentials_have_a_small_budget_of_their_own() {
    let f = fixture(8, Some(1000));
    let start = Instant::now();
    for _ in 0..9 {
        f.send(&with_credentials(7), RequestOutcome::Unauthorized)
            .await;
    }
    assert!(start.elapsed() >= MINUTE * 2);
}

#[tokio::test(start_paused = true)]
async fn revoked_credentials_leave_the_account() {
    let f = fixture(8, Some(10));
    for _ in 0..2 {
        f.send_answered(&with_credentials(7)).await;
    }
    for _ in 0..4 {
        f.send(&with_credentials(7), RequestOutcome::Unauthorized)
            .await;
    }
    let start = Instant::now();
    f.send_answered(&with_credentials(9)).await;
    for _ in 0..6 {
        f.send_answered(&with_credentials(9)).await;
    }
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "they spent three requests of it"
    );
}

#[tokio::test(start_paused = true)]
async fn queued_requests_go_on_once_their_credentials_are_accepted() {
    let f = fixture(8, Some(1000));
    let start = Instant::now();
    let callers = (0..50).map(|_| {
        let limiter = f.limiter.clone();
        tokio::spawn(async move {
            let request = ReadRequest::interactive();
            let permit = limiter.acquire(&with_credentials(7), &request).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            permit.unwrap().record(RequestOutcome::Answered(None));
        })
    });
    futures::future::try_join_all(callers).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(f.limiter.queue_depth(), 0);
}

//! Faults that a test plans: error statuses, broken responses, delays, and requests that hang.

use std::time::{Duration, Instant};

use anyhow::Result;
use testkit::doppler::{DOWNLOAD_PATH, Fault, RecordedRequest};

use super::{TIMEOUT, client, download, one_config, until};

#[tokio::test]
async fn applies_each_fault_once_and_recovers() -> Result<()> {
    let (doppler, token) = one_config()?;
    let once = |fault| doppler.fault_times(1, RecordedRequest::is_download, fault);
    once(Fault::Error(503, "Down".to_owned()));
    let down = download(&doppler, &token, "").await?;
    assert_eq!(
        (down.status().as_u16(), down.text().await?.as_str()),
        (503, r#"{"messages":["Down"],"success":false}"#)
    );
    once(Fault::empty_object());
    assert_eq!(download(&doppler, &token, "").await?.text().await?, "{}");
    once(Fault::not_json());
    assert!(
        download(&doppler, &token, "")
            .await?
            .text()
            .await?
            .starts_with("<!doctype")
    );
    once(Fault::Redirect("http://127.0.0.1:1/".to_owned()));
    let moved = download(&doppler, &token, "").await?;
    assert_eq!(
        (
            moved.status().as_u16(),
            moved.headers()["location"].to_str()?
        ),
        (302, "http://127.0.0.1:1/")
    );
    once(Fault::MediaType("text/html".to_owned()));
    assert_eq!(
        download(&doppler, &token, "").await?.headers()["content-type"],
        "text/html"
    );
    once(Fault::Close);
    assert!(download(&doppler, &token, "").await.is_err());
    once(Fault::Truncate(10));
    let cut = download(&doppler, &token, "").await?;
    assert_eq!(cut.status(), 200);
    assert!(cut.text().await.is_err());
    once(Fault::Huge(3 << 20));
    assert!(download(&doppler, &token, "").await?.text().await?.len() > 3 << 20);
    assert_eq!(download(&doppler, &token, "").await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn delays_responses_or_hangs_as_planned() -> Result<()> {
    let (doppler, token) = one_config()?;
    let late = Duration::from_millis(120);
    let fault = doppler.fault(|_| true, Fault::Delay(late));
    let sent = Instant::now();
    assert_eq!(download(&doppler, &token, "").await?.status(), 200);
    assert!(sent.elapsed() >= late);
    doppler.remove_fault(fault);
    doppler.fault(|_| true, Fault::Hang);
    let hanging = tokio::spawn({
        let (url, token) = (format!("{}{DOWNLOAD_PATH}", doppler.url()), token.clone());
        async move {
            client()
                .timeout(Duration::from_millis(300))
                .build()?
                .get(url)
                .bearer_auth(token)
                .send()
                .await
        }
    });
    until("the request that hangs", || doppler.counts().requests == 2).await?;
    assert!(hanging.await?.unwrap_err().is_timeout());
    assert_eq!(doppler.requests()[1].status, None);
    // Dropping the stand-in does not wait for requests that hang.
    let stopped = Instant::now();
    drop(doppler);
    assert!(stopped.elapsed() < TIMEOUT / 2);
    Ok(())
}

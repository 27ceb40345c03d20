//! Watch streams: events, pings, framing, and rejections.

use std::time::Duration;

use anyhow::Result;
use reqwest::Response;
use serde_json::{Value, json};
use testkit::doppler::{Doppler, Framing, WATCH_PATH, WatchMode};

use super::{client, one_config, until};

async fn watch(doppler: &Doppler, token: &str) -> Result<Response> {
    let url = format!("{}{WATCH_PATH}?project=shop&config=dev", doppler.url());
    Ok(client()
        .build()?
        .get(url)
        .bearer_auth(token)
        .header("accept", "text/event-stream")
        .send()
        .await?)
}

async fn chunk(stream: &mut Response) -> Result<String> {
    let chunk = stream.chunk().await?.unwrap_or_default();
    Ok(String::from_utf8(chunk.to_vec())?)
}

fn frame(kind: &str) -> String {
    format!("event: message\ndata: {{\"type\":\"{kind}\"}}\n\n")
}

#[tokio::test]
async fn streams_receive_changes_and_pings() -> Result<()> {
    let (doppler, token) = one_config()?;
    let mut stream = watch(&doppler, &token).await?;
    assert!(
        stream.headers()["content-type"]
            .to_str()?
            .starts_with("text/event-stream")
    );
    assert_eq!(chunk(&mut stream).await?, frame("connected"));
    assert_eq!(
        (
            doppler.open_streams(),
            doppler.open_streams_of("shop", "prd")
        ),
        (1, 0)
    );
    doppler.set("shop", "prd", "KEY", "of another config");
    doppler.set("shop", "dev", "SECRET_API_KEY", "2");
    assert_eq!(chunk(&mut stream).await?, frame("secrets.update"));
    doppler.send_update("shop", "dev");
    assert_eq!(chunk(&mut stream).await?, frame("secrets.update"));
    doppler.close_streams();
    assert_eq!(chunk(&mut stream).await?, "");
    doppler.set_ping_interval(Duration::from_millis(30));
    let mut stream = watch(&doppler, &token).await?;
    assert_eq!(chunk(&mut stream).await?, frame("connected"));
    assert_eq!(chunk(&mut stream).await?, frame("ping"));
    drop(stream);
    until("the stream to be closed", || doppler.open_streams() == 0).await?;
    Ok(())
}

#[tokio::test]
async fn splits_and_merges_frames_as_configured() -> Result<()> {
    let (doppler, token) = one_config()?;
    let mut stream = watch(&doppler, &token).await?;
    assert_eq!(chunk(&mut stream).await?, frame("connected"));
    doppler.set_framing(Framing::Split(vec![3, 20]));
    doppler.send_update("shop", "dev");
    let whole = frame("secrets.update");
    for part in [&whole[..3], &whole[3..20], &whole[20..]] {
        assert_eq!(chunk(&mut stream).await?, part);
    }
    doppler.set_framing(Framing::Merge(2));
    doppler.send_update("shop", "dev");
    doppler.send_update("shop", "dev");
    assert_eq!(chunk(&mut stream).await?, whole.repeat(2));
    doppler.send_chunks("shop", "dev", &[b": a comment\n".to_vec(), b"\n".to_vec()]);
    assert_eq!(chunk(&mut stream).await?, ": a comment\n");
    assert_eq!(chunk(&mut stream).await?, "\n");
    Ok(())
}

#[tokio::test]
async fn watch_can_be_silent_or_rejected() -> Result<()> {
    let (doppler, token) = one_config()?;
    doppler.set_watch_mode(WatchMode::Silent);
    doppler.set_ping_interval(Duration::from_millis(10));
    let mut stream = watch(&doppler, &token).await?;
    doppler.send_update("shop", "dev");
    // The first chunk shows that no event was sent before it.
    doppler.send_chunks("shop", "dev", &[b"first".to_vec()]);
    assert_eq!(chunk(&mut stream).await?, "first");
    doppler.set_watch_mode(WatchMode::Refused(403, "Not on this plan".to_owned()));
    let rejected = watch(&doppler, &token).await?;
    assert_eq!(rejected.status(), 403);
    assert_eq!(
        rejected.json::<Value>().await?,
        json!({"messages": ["Not on this plan"], "success": false})
    );
    Ok(())
}

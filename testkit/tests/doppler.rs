//! The stand-in for Doppler, over the wire: what docs and clients say of Doppler's API, it does.

use std::time::{Duration, Instant};

use anyhow::Result;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use testkit::doppler::{
    DOWNLOAD_PATH, Doppler, Fault, Framing, Quirks, RateLimit, RecordedRequest, WATCH_PATH,
    WatchMode, fingerprint,
};
use testkit::wait;

const LIMIT: Duration = Duration::from_secs(20);

fn client() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .timeout(LIMIT)
        .redirect(reqwest::redirect::Policy::none())
}

/// A stand-in with one secret, and a token for its config.
fn shop() -> Result<(Doppler, String)> {
    let doppler = Doppler::start()?;
    doppler.set("shop", "dev", "SECRET_API_KEY", "1234567890");
    let token = doppler.service_token("shop", "dev");
    Ok((doppler, token))
}

async fn download(doppler: &Doppler, token: &str, query: &str) -> Result<Response> {
    let url = format!("{}{DOWNLOAD_PATH}?{query}", doppler.url());
    Ok(client().build()?.get(url).bearer_auth(token).send().await?)
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    wait::until(LIMIT, what, async || holds().then_some(())).await
}

#[tokio::test]
async fn gives_the_secrets_of_a_config_as_a_flat_map() -> Result<()> {
    let (doppler, token) = shop()?;
    let answer = download(&doppler, &token, "").await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-ratelimit-limit"], "240");
    assert_eq!(answer.headers()["x-ratelimit-remaining"], "239");
    assert!(
        answer.headers()["x-ratelimit-reset"]
            .to_str()?
            .parse::<u64>()?
            > 1_700_000_000
    );
    assert!(!answer.headers().contains_key("retry-after"));
    let body = answer.text().await?;
    assert_eq!(
        body,
        r#"{"DOPPLER_CONFIG":"dev","DOPPLER_ENVIRONMENT":"dev","DOPPLER_PROJECT":"shop","SECRET_API_KEY":"1234567890"}"#
    );
    let env = download(&doppler, &token, "format=env&name_transformer=lower-snake").await?;
    assert!(
        env.text()
            .await?
            .contains("secret_api_key=\"1234567890\"\n")
    );
    Ok(())
}

#[tokio::test]
async fn answers_304_without_a_body_until_the_content_changes() -> Result<()> {
    let (doppler, token) = shop()?;
    let first = download(&doppler, &token, "").await?;
    let tag = first.headers()["etag"].clone();
    let text = tag.to_str()?;
    assert!(text.starts_with("W/\"") && text.len() == 68, "{text}");
    let again = || {
        let url = format!("{}{DOWNLOAD_PATH}", doppler.url());
        client().build().map(|client| {
            client
                .get(url)
                .bearer_auth(&token)
                .header("if-none-match", &tag)
                .send()
        })
    };
    let unchanged = again()?.await?;
    assert_eq!(unchanged.status(), 304);
    assert_eq!(unchanged.headers()["etag"], tag);
    assert!(unchanged.headers().contains_key("x-ratelimit-remaining"));
    assert_eq!(unchanged.text().await?, "");
    doppler.set("shop", "dev", "SECRET_API_KEY", "2");
    let changed = again()?.await?;
    assert_eq!(changed.status(), 200);
    assert_ne!(changed.headers()["etag"], tag);
    doppler.set("shop", "dev", "SECRET_API_KEY", "1234567890");
    assert_eq!(again()?.await?.status(), 304);
    assert_eq!(doppler.counts().not_modified(), 2);
    assert_eq!(doppler.counts().downloads, 4);
    Ok(())
}

#[tokio::test]
async fn the_tag_differs_by_format_unless_told_otherwise() -> Result<()> {
    let (doppler, token) = shop()?;
    let mut same = Vec::new();
    for one_etag_per_config in [false, true] {
        doppler.set_quirks(Quirks {
            one_etag_per_config,
            ..Quirks::default()
        });
        let json = download(&doppler, &token, "format=json").await?.headers()["etag"].clone();
        let env = download(&doppler, &token, "format=env").await?.headers()["etag"].clone();
        same.push(json == env);
    }
    assert_eq!(same, [false, true]);
    Ok(())
}

#[tokio::test]
async fn takes_the_token_as_the_user_of_basic_auth_too() -> Result<()> {
    let (doppler, token) = shop()?;
    let url = format!("{}{DOWNLOAD_PATH}", doppler.url());
    let answer = client()
        .build()?
        .get(url)
        .basic_auth(&token, Some(""))
        .send()
        .await?;
    assert_eq!(answer.status(), 200);
    Ok(())
}

#[tokio::test]
async fn refuses_in_dopplers_shape() -> Result<()> {
    let (doppler, token) = shop()?;
    doppler.set("shop", "prd", "KEY", "1");
    let account = doppler.account_token();
    let refusal = async |token: &str, query: &str| -> Result<(StatusCode, Value)> {
        let answer = download(&doppler, token, query).await?;
        Ok((answer.status(), answer.json().await?))
    };
    let error = |message: &str| json!({"messages": [message], "success": false});
    let (status, body) = refusal(&token, "project=shop&config=prd").await?;
    assert_eq!(status, 400);
    assert_eq!(
        body,
        error("This token does not have access to requested config 'prd'")
    );
    let (status, body) = refusal(&account, "project=bank&config=dev").await?;
    assert_eq!(status, 404);
    assert_eq!(body, error("Could not find requested project 'bank'"));
    doppler.revoke(&token);
    let (status, body) = refusal(&token, "").await?;
    assert_eq!(status, 401);
    assert_eq!(body, error("Invalid Auth token"));
    assert_eq!(
        doppler.counts().by_status,
        [(400, 1), (401, 1), (404, 1)].into()
    );
    Ok(())
}

#[tokio::test]
async fn says_who_a_token_is() -> Result<()> {
    let (doppler, token) = shop()?;
    let url = format!("{}/v3/me", doppler.url());
    let answer = client()
        .build()?
        .get(url)
        .bearer_auth(&token)
        .send()
        .await?;
    let me: Value = answer.json().await?;
    assert_eq!(me["type"], "service_token");
    assert!(!me.to_string().contains(&token));
    Ok(())
}

#[tokio::test]
async fn limits_each_token_and_says_when_to_come_back() -> Result<()> {
    let (doppler, token) = shop()?;
    let other = doppler.service_token("shop", "dev");
    doppler.set_rate_limit(RateLimit {
        secret_reads: 1,
        ..RateLimit::TEAM
    });
    assert_eq!(download(&doppler, &token, "").await?.status(), 200);
    let limited = download(&doppler, &token, "").await?;
    assert_eq!(limited.status(), 429);
    let seconds: u64 = limited.headers()["retry-after"].to_str()?.parse()?;
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(limited.headers()["x-ratelimit-remaining"], "0");
    let body: Value = limited.json().await?;
    let message = body["messages"][0].as_str().unwrap();
    assert!(
        message.starts_with("Exceeded rate limit of 1 secret read requests within 60 seconds."),
        "{message}"
    );
    assert_eq!(download(&doppler, &other, "").await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn compresses_for_a_client_that_takes_it() -> Result<()> {
    let (doppler, token) = shop()?;
    let value = "x".repeat(40_000);
    doppler.set("shop", "dev", "LONG", &value);
    let url = format!("{}{DOWNLOAD_PATH}", doppler.url());
    let raw = client().gzip(false).build()?;
    let ask = |client: Client| {
        client
            .get(&url)
            .bearer_auth(&token)
            .header("accept-encoding", "gzip")
            .send()
    };
    let packed = ask(raw).await?;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.bytes().await?.len() < 2_000);
    let body: Value = client()
        .build()?
        .get(&url)
        .bearer_auth(&token)
        .send()
        .await?
        .json()
        .await?;
    assert_eq!(body["LONG"], value);
    Ok(())
}

#[tokio::test]
async fn speaks_http2_over_tls_under_its_own_authority() -> Result<()> {
    let (doppler, token) = shop()?;
    let authority = reqwest::Certificate::from_pem(doppler.ca_pem().as_bytes())?;
    let client = client()
        .tls_certs_only([authority])
        .resolve("api.doppler.com", doppler.tls_addr())
        .build()?;
    for base in [
        doppler.tls_url(),
        format!("https://api.doppler.com:{}", doppler.tls_addr().port()),
    ] {
        let answer = client
            .get(format!("{base}{DOWNLOAD_PATH}"))
            .bearer_auth(&token)
            .send()
            .await?;
        assert_eq!(
            (answer.status().as_u16(), answer.version()),
            (200, reqwest::Version::HTTP_2)
        );
    }
    assert!(
        doppler
            .requests()
            .iter()
            .all(|call| call.version == "HTTP/2.0")
    );
    Ok(())
}

#[tokio::test]
async fn records_requests_but_never_a_token() -> Result<()> {
    let (doppler, token) = shop()?;
    download(&doppler, &token, "project=shop&config=dev&format=env").await?;
    let calls = doppler.requests();
    let [call] = calls.as_slice() else {
        panic!("{calls:?}")
    };
    assert!(call.is_download() && call.is_for("shop", "dev") && call.uses_token(&token));
    assert_eq!(
        (call.method.as_str(), call.version.as_str(), call.status),
        ("GET", "HTTP/1.1", Some(200))
    );
    assert_eq!(call.query["format"], "env");
    assert_eq!(
        call.headers["authorization"],
        format!("Bearer {}", fingerprint(&token))
    );
    assert!(!format!("{calls:?}").contains(&token));
    doppler.reset_requests();
    assert_eq!(
        (doppler.requests().len(), doppler.counts().requests),
        (0, 0)
    );
    Ok(())
}

#[tokio::test]
async fn shows_each_fault_and_then_recovers() -> Result<()> {
    let (doppler, token) = shop()?;
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
async fn delays_and_never_answers_on_demand() -> Result<()> {
    let (doppler, token) = shop()?;
    let late = Duration::from_millis(120);
    let fault = doppler.fault(|_| true, Fault::Delay(late));
    let asked = Instant::now();
    assert_eq!(download(&doppler, &token, "").await?.status(), 200);
    assert!(asked.elapsed() >= late);
    doppler.remove_fault(fault);
    doppler.fault(|_| true, Fault::Hang);
    let asked = tokio::spawn({
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
    until("the request that is left hanging", || {
        doppler.counts().requests == 2
    })
    .await?;
    assert!(asked.await?.unwrap_err().is_timeout());
    assert_eq!(doppler.requests()[1].status, None);
    // The end of the stand-in does not wait for what it never answers.
    let stopped = Instant::now();
    drop(doppler);
    assert!(stopped.elapsed() < LIMIT / 2);
    Ok(())
}

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
async fn tells_open_streams_of_a_change_and_pings() -> Result<()> {
    let (doppler, token) = shop()?;
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
    until("the stream to be forgotten", || doppler.open_streams() == 0).await?;
    Ok(())
}

#[tokio::test]
async fn cuts_and_joins_frames_on_demand() -> Result<()> {
    let (doppler, token) = shop()?;
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
async fn keeps_silent_or_refuses_to_be_watched() -> Result<()> {
    let (doppler, token) = shop()?;
    doppler.set_watch_mode(WatchMode::Silent);
    doppler.set_ping_interval(Duration::from_millis(10));
    let mut stream = watch(&doppler, &token).await?;
    doppler.send_update("shop", "dev");
    // What comes first shows that nothing came before.
    doppler.send_chunks("shop", "dev", &[b"first".to_vec()]);
    assert_eq!(chunk(&mut stream).await?, "first");
    doppler.set_watch_mode(WatchMode::Refused(403, "Not on this plan".to_owned()));
    let refused = watch(&doppler, &token).await?;
    assert_eq!(refused.status(), 403);
    assert_eq!(
        refused.json::<Value>().await?,
        json!({"messages": ["Not on this plan"], "success": false})
    );
    Ok(())
}

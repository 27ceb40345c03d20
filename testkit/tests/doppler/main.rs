//! The stand-in for Doppler over the network: it behaves as Doppler's documentation and clients
//! describe.

mod faults;
mod watch;

use std::time::Duration;

use anyhow::Result;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use testkit::doppler::{DOWNLOAD_PATH, Doppler, Quirks, RateLimit, fingerprint};
use testkit::wait;

const TIMEOUT: Duration = Duration::from_secs(20);

fn client() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
}

/// A stand-in with one config, and a token for it.
fn one_config() -> Result<(Doppler, String)> {
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
    wait::until(TIMEOUT, what, async || holds().then_some(())).await
}

#[tokio::test]
async fn downloads_the_secrets_of_a_config_as_a_flat_map() -> Result<()> {
    let (doppler, token) = one_config()?;
    let response = download(&doppler, &token, "").await?;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-ratelimit-limit"], "240");
    assert_eq!(response.headers()["x-ratelimit-remaining"], "239");
    assert!(
        response.headers()["x-ratelimit-reset"]
            .to_str()?
            .parse::<u64>()?
            > 1_700_000_000
    );
    assert!(!response.headers().contains_key("retry-after"));
    let body = response.text().await?;
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
async fn returns_304_without_a_body_until_the_content_changes() -> Result<()> {
    let (doppler, token) = one_config()?;
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
async fn etag_differs_by_format_unless_configured_otherwise() -> Result<()> {
    let (doppler, token) = one_config()?;
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
async fn accepts_the_token_as_user_of_basic_auth() -> Result<()> {
    let (doppler, token) = one_config()?;
    let url = format!("{}{DOWNLOAD_PATH}", doppler.url());
    let response = client()
        .build()?
        .get(url)
        .basic_auth(&token, Some(""))
        .send()
        .await?;
    assert_eq!(response.status(), 200);
    Ok(())
}

#[tokio::test]
async fn errors_have_dopplers_format() -> Result<()> {
    let (doppler, token) = one_config()?;
    doppler.set("shop", "prd", "KEY", "1");
    let account = doppler.account_token();
    let error_of = async |token: &str, query: &str| -> Result<(StatusCode, Value)> {
        let response = download(&doppler, token, query).await?;
        Ok((response.status(), response.json().await?))
    };
    let error = |message: &str| json!({"messages": [message], "success": false});
    let (status, body) = error_of(&token, "project=shop&config=prd").await?;
    assert_eq!(status, 400);
    assert_eq!(
        body,
        error("This token does not have access to requested config 'prd'")
    );
    let (status, body) = error_of(&account, "project=bank&config=dev").await?;
    assert_eq!(status, 404);
    assert_eq!(body, error("Could not find requested project 'bank'"));
    doppler.revoke(&token);
    let (status, body) = error_of(&token, "").await?;
    assert_eq!(status, 401);
    assert_eq!(body, error("Invalid Auth token"));
    assert_eq!(
        doppler.counts().by_status,
        [(400, 1), (401, 1), (404, 1)].into()
    );
    Ok(())
}

#[tokio::test]
async fn me_describes_the_token_without_showing_it() -> Result<()> {
    let (doppler, token) = one_config()?;
    let url = format!("{}/v3/me", doppler.url());
    let response = client()
        .build()?
        .get(url)
        .bearer_auth(&token)
        .send()
        .await?;
    let me: Value = response.json().await?;
    assert_eq!(me["type"], "service_token");
    assert!(!me.to_string().contains(&token));
    Ok(())
}

#[tokio::test]
async fn limits_each_token_and_sends_retry_after() -> Result<()> {
    let (doppler, token) = one_config()?;
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
async fn compresses_for_clients_that_accept_gzip() -> Result<()> {
    let (doppler, token) = one_config()?;
    let value = "x".repeat(40_000);
    doppler.set("shop", "dev", "LONG", &value);
    let url = format!("{}{DOWNLOAD_PATH}", doppler.url());
    let raw = client().gzip(false).build()?;
    let send = |client: Client| {
        client
            .get(&url)
            .bearer_auth(&token)
            .header("accept-encoding", "gzip")
            .send()
    };
    let packed = send(raw).await?;
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
async fn serves_http2_over_tls_with_its_own_authority() -> Result<()> {
    let (doppler, token) = one_config()?;
    let authority = reqwest::Certificate::from_pem(doppler.ca_pem().as_bytes())?;
    let client = client()
        .tls_certs_only([authority])
        .resolve("api.doppler.com", doppler.tls_addr())
        .build()?;
    for base in [
        doppler.tls_url(),
        format!("https://api.doppler.com:{}", doppler.tls_addr().port()),
    ] {
        let response = client
            .get(format!("{base}{DOWNLOAD_PATH}"))
            .bearer_auth(&token)
            .send()
            .await?;
        assert_eq!(
            (response.status().as_u16(), response.version()),
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
    let (doppler, token) = one_config()?;
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

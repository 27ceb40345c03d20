use std::pin::Pin;

use super::*;
use crate::{
    crd::NameTransformer,
    doppler::{Client, Download},
    outbound::install_crypto_provider,
    reason::Reason,
};
use futures::{StreamExt, TryStreamExt};
use testkit::{
    doppler::{Doppler, Fault, Framing, RateLimit, WatchMode},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use url::Url;

mod disconnects;
mod rejections;

/// Longer than any operation here.
const LIMIT: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);
const TOKEN: &str = "dp.st.dev.canary-token";
const PROJECT: &str = "my-project";

type Events = Pin<Box<dyn Stream<Item = Result<StreamEvent, WatchError>> + Send>>;

fn client(idle_timeout: Duration) -> WatchClient {
    install_crypto_provider();
    WatchClient::new(LIMIT, idle_timeout, RateLimiter::small()).unwrap()
}

fn key(host: &str) -> ConfigKey {
    ConfigKey {
        host: Url::parse(host).unwrap(),
        credential: TOKEN.into(),
        project: PROJECT.to_owned(),
        config: "dev".to_owned(),
        transformer: None,
    }
}

fn doppler() -> Doppler {
    let doppler = Doppler::start().unwrap();
    doppler.set(PROJECT, "dev", "SECRET_API_KEY", "canary-value");
    doppler.add_service_token(TOKEN, PROJECT, "dev");
    doppler
}

async fn open(doppler: &Doppler) -> Events {
    open_within(doppler, LIMIT).await
}

async fn open_within(doppler: &Doppler, idle_timeout: Duration) -> Events {
    let (client, key) = (client(idle_timeout), key(&doppler.url()));
    // In a task of its own, because a stream borrows neither the client nor the key.
    let opened = tokio::spawn(async move {
        let stream = client.watch(&key).await?;
        Ok::<Events, WatchError>(Box::pin(stream))
    });
    opened.await.unwrap().unwrap()
}

async fn events<const N: usize>(stream: &mut Events) -> [StreamEvent; N] {
    let events: Vec<_> = stream.take(N).try_collect().await.unwrap();
    events.try_into().unwrap()
}

/// The error of a stream that does not open, which must show neither token nor value.
async fn open_error(doppler: &Doppler) -> WatchError {
    error_at(&doppler.url()).await
}

async fn error_at(host: &str) -> WatchError {
    let Err(error) = client(LIMIT).watch(&key(host)).await else {
        panic!("a stream")
    };
    assert_no_leak(&error);
    error
}

/// The error that ends a stream, after any number of events.
async fn end_of(mut stream: Events) -> DisconnectCause {
    let error = loop {
        if let Err(error) = stream.next().await.unwrap() {
            break error;
        }
    };
    assert!(stream.next().await.is_none(), "no end after {error}");
    assert_no_leak(&error);
    assert!(!error.is_rejection());
    let WatchError::Disconnected { cause, .. } = error else {
        panic!("{error}")
    };
    cause
}

fn assert_no_leak(error: &WatchError) {
    assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
}

/// A server for answers that HTTP libraries cannot produce: it writes these bytes to the first
/// connection and closes it.
async fn writing(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(socket.read(&mut request).await.unwrap() > 0);
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
    });
    host
}

#[tokio::test]
async fn reports_each_change_at_once() {
    let doppler = doppler();
    let mut stream = open(&doppler).await;
    assert_eq!(events(&mut stream).await, [StreamEvent::Connected]);
    doppler.set(PROJECT, "dev", "SECRET_API_KEY", "canary-other");
    assert_eq!(events(&mut stream).await, [StreamEvent::Updated]);
    doppler.set(PROJECT, "prd", "SECRET_API_KEY", "canary-other");
    doppler.remove(PROJECT, "dev", "SECRET_API_KEY");
    doppler.send_update(PROJECT, "dev");
    assert_eq!(
        events(&mut stream).await,
        [StreamEvent::Updated, StreamEvent::Updated]
    );

    let call = &doppler.requests()[0];
    assert!(call.is_watch() && call.is_for(PROJECT, "dev") && call.uses_token(TOKEN));
    assert_eq!(call.query.len(), 2);
    assert_eq!(call.headers["accept"], "text/event-stream");
    assert_eq!(call.headers["cache-control"], "no-cache");
    assert!(call.headers["authorization"].starts_with("Bearer "));
    assert!(!call.headers.contains_key("accept-encoding"));
}

#[tokio::test]
async fn dropping_a_stream_closes_its_connection() {
    let doppler = doppler();
    let mut stream = open(&doppler).await;
    assert_eq!(events(&mut stream).await, [StreamEvent::Connected]);
    assert_eq!(doppler.open_streams(), 1);
    drop(stream);
    until(LIMIT, "the end of the stream", async || {
        (doppler.open_streams() == 0).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn requests_below_a_gateways_path_ignore_the_transformer() {
    install_crypto_provider();
    let server = wiremock::MockServer::start().await;
    let answer = wiremock::ResponseTemplate::new(200)
        .set_body_raw(": hi\n", "Text/Event-Stream;charset=UTF-8");
    wiremock::Mock::given(wiremock::matchers::path(
        "/doppler/v3/configs/config/secrets/watch",
    ))
    .respond_with(answer)
    .mount(&server)
    .await;
    let key = ConfigKey {
        project: "a&b=c d".to_owned(),
        transformer: Some(NameTransformer::DotnetEnv),
        ..key(&format!("{}/doppler/?x=1#y", server.uri()))
    };
    let mut stream: Events = Box::pin(client(LIMIT).watch(&key).await.unwrap());
    assert_eq!(events(&mut stream).await, [StreamEvent::KeepAlive]);
    assert_eq!(end_of(stream).await, DisconnectCause::Ended);
    let request = &server.received_requests().await.unwrap()[0];
    assert_eq!(request.url.query(), Some("project=a%26b%3Dc+d&config=dev"));
}

#[tokio::test]
async fn decodes_events_that_the_wire_splits_or_merges() {
    let doppler = doppler();
    doppler.set_framing(Framing::Split((1..64).collect()));
    let mut stream = open(&doppler).await;
    assert_eq!(events(&mut stream).await, [StreamEvent::Connected]);
    doppler.send_update(PROJECT, "dev");
    assert_eq!(events(&mut stream).await, [StreamEvent::Updated]);

    doppler.set_framing(Framing::Merge(3));
    for _ in 0..3 {
        doppler.send_update(PROJECT, "dev");
    }
    assert_eq!(events(&mut stream).await, [StreamEvent::Updated; 3]);
}

#[tokio::test]
async fn continues_after_comments_garbage_and_crlf() {
    let doppler = doppler();
    let mut stream = open(&doppler).await;
    let chunks = [
        &b": comment\n"[..],
        b"garbage\n\n",
        b"data: {\"type\":\"canary\"}\n\n",
        b"event: message\r\ndata: {\"type\":\"secrets.update\"}\r",
        b"\n\r\n",
    ];
    doppler.send_chunks(PROJECT, "dev", &chunks.map(<[u8]>::to_vec));
    assert_eq!(
        events(&mut stream).await,
        [
            StreamEvent::Connected,
            StreamEvent::KeepAlive,
            StreamEvent::KeepAlive,
            StreamEvent::KeepAlive,
            StreamEvent::Updated
        ]
    );
}

#[tokio::test]
async fn many_streams_do_not_delay_a_download() {
    const STREAMS: usize = 120;
    install_crypto_provider();
    let doppler = doppler();
    let ca = Some(doppler.ca_pem().as_bytes());
    let client = WatchClient {
        http: outbound::stream_client(LIMIT, ca).unwrap(),
        head_timeout: LIMIT,
        idle_timeout: LIMIT,
        limiter: RateLimiter::small(),
    };
    let key = key(&doppler.tls_url());
    let mut streams: Vec<Events> = stream::iter(0..STREAMS)
        .map(|_| async { Box::pin(client.watch(&key).await.unwrap()) as Events })
        .buffer_unordered(8)
        .collect()
        .await;
    assert_eq!(doppler.open_streams(), STREAMS);

    let client = Client::with_http(
        outbound::client(LIMIT, ca).unwrap(),
        LIMIT,
        RateLimiter::small(),
    );
    let download = client
        .download(&key, None, &ReadRequest::interactive())
        .await
        .unwrap();
    assert!(matches!(download, Download::Changed(_)));
    doppler.send_update(PROJECT, "dev");
    for stream in &mut streams {
        assert_eq!(
            events(stream).await,
            [StreamEvent::Connected, StreamEvent::Updated]
        );
    }
    for call in doppler.requests() {
        let version = if call.is_watch() {
            "HTTP/1.1"
        } else {
            "HTTP/2.0"
        };
        assert_eq!(call.version, version);
    }
}

use std::pin::Pin;

use super::*;
use crate::{
    crd::NameTransformer,
    doppler::{Client, Download},
    outbound::install_crypto_provider,
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

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);
const TOKEN: &str = "dp.st.dev.canary-token";
const PROJECT: &str = "my-project";

type Frames = Pin<Box<dyn Stream<Item = Result<StreamEvent, WatchError>> + Send>>;

fn watcher(silence: Duration) -> WatchClient {
    install_crypto_provider();
    WatchClient::new(LIMIT, silence, RateLimiter::small()).unwrap()
}

fn at(host: &str) -> ConfigKey {
    ConfigKey {
        host: Url::parse(host).unwrap(),
        token: TOKEN.into(),
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

async fn open(doppler: &Doppler) -> Frames {
    open_within(doppler, LIMIT).await
}

async fn open_within(doppler: &Doppler, silence: Duration) -> Frames {
    let (watcher, at) = (watcher(silence), at(&doppler.url()));
    // In a task of its own, as a stream is read: nothing of the watcher or the coordinates is borrowed.
    let opened = tokio::spawn(async move {
        let stream = watcher.watch(&at).await?;
        Ok::<Frames, WatchError>(Box::pin(stream))
    });
    opened.await.unwrap().unwrap()
}

async fn frames<const N: usize>(stream: &mut Frames) -> [StreamEvent; N] {
    let frames: Vec<_> = stream.take(N).try_collect().await.unwrap();
    frames.try_into().unwrap()
}

/// The error of a stream that does not open, after looking that it shows neither token nor value.
async fn refused(doppler: &Doppler) -> WatchError {
    error_at(&doppler.url()).await
}

async fn error_at(host: &str) -> WatchError {
    let Err(error) = watcher(LIMIT).watch(&at(host)).await else {
        panic!("a stream")
    };
    shows_nothing(&error);
    error
}

/// The error that ends a stream, whatever frames come before it.
async fn end_of(mut stream: Frames) -> DisconnectCause {
    let error = loop {
        if let Err(error) = stream.next().await.unwrap() {
            break error;
        }
    };
    assert!(stream.next().await.is_none(), "no end after {error}");
    shows_nothing(&error);
    assert!(!error.is_rejection());
    let WatchError::Disconnected { cause, .. } = error else {
        panic!("{error}")
    };
    cause
}

fn shows_nothing(error: &WatchError) {
    assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
}

/// A server for answers that an HTTP library refuses to give: it writes these bytes to the first connection and closes it.
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
async fn tells_of_a_change_as_it_happens() {
    let doppler = doppler();
    let mut stream = open(&doppler).await;
    assert_eq!(frames(&mut stream).await, [StreamEvent::Connected]);
    doppler.set(PROJECT, "dev", "SECRET_API_KEY", "canary-other");
    assert_eq!(frames(&mut stream).await, [StreamEvent::Updated]);
    doppler.set(PROJECT, "prd", "SECRET_API_KEY", "canary-other");
    doppler.remove(PROJECT, "dev", "SECRET_API_KEY");
    doppler.send_update(PROJECT, "dev");
    assert_eq!(
        frames(&mut stream).await,
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
async fn a_stream_that_is_dropped_closes_its_connection() {
    let doppler = doppler();
    let mut stream = open(&doppler).await;
    assert_eq!(frames(&mut stream).await, [StreamEvent::Connected]);
    assert_eq!(doppler.open_streams(), 1);
    drop(stream);
    until(LIMIT, "the end of the stream", async || {
        (doppler.open_streams() == 0).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn asks_the_same_below_a_gateways_path_whatever_the_transformer() {
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
    let at = ConfigKey {
        project: "a&b=c d".to_owned(),
        transformer: Some(NameTransformer::DotnetEnv),
        ..at(&format!("{}/doppler/?x=1#y", server.uri()))
    };
    let mut stream: Frames = Box::pin(watcher(LIMIT).watch(&at).await.unwrap());
    assert_eq!(frames(&mut stream).await, [StreamEvent::KeepAlive]);
    assert_eq!(end_of(stream).await, DisconnectCause::Ended);
    let request = &server.received_requests().await.unwrap()[0];
    assert_eq!(request.url.query(), Some("project=a%26b%3Dc+d&config=dev"));
}

#[tokio::test]
async fn reads_frames_however_the_wire_cuts_and_joins_them() {
    let doppler = doppler();
    doppler.set_framing(Framing::Split((1..64).collect()));
    let mut stream = open(&doppler).await;
    assert_eq!(frames(&mut stream).await, [StreamEvent::Connected]);
    doppler.send_update(PROJECT, "dev");
    assert_eq!(frames(&mut stream).await, [StreamEvent::Updated]);

    doppler.set_framing(Framing::Merge(3));
    for _ in 0..3 {
        doppler.send_update(PROJECT, "dev");
    }
    assert_eq!(frames(&mut stream).await, [StreamEvent::Updated; 3]);
}

#[tokio::test]
async fn goes_on_after_comments_garbage_and_other_line_ends() {
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
        frames(&mut stream).await,
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
async fn is_lost_after_silence_and_not_while_it_is_pinged() {
    let doppler = doppler();
    doppler.set_ping_interval(Duration::from_millis(20));
    let mut stream = open(&doppler).await;
    assert_eq!(
        frames(&mut stream).await,
        [
            StreamEvent::Connected,
            StreamEvent::KeepAlive,
            StreamEvent::KeepAlive
        ]
    );

    doppler.set_watch_mode(WatchMode::Silent);
    let stream = open_within(&doppler, SHORT).await;
    assert_eq!(end_of(stream).await, DisconnectCause::IdleTimeout(SHORT));
}

#[tokio::test]
async fn bytes_that_never_become_a_frame_are_silence() {
    let doppler = doppler();
    let stream = open_within(&doppler, SHORT).await;
    let chunks = [&b"\n\n\n"[..], b"event: message\n", b"data: {\"type\":"];
    doppler.send_chunks(PROJECT, "dev", &chunks.map(<[u8]>::to_vec));
    assert_eq!(end_of(stream).await, DisconnectCause::IdleTimeout(SHORT));
}

#[tokio::test]
async fn a_refusal_says_so_in_dopplers_words() {
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
        let error = refused(&doppler).await;
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
                "{address} refuses to push changes of this config (status {status}{words}): it is polled"
            )
        );
    }
    doppler.set_watch_mode(WatchMode::Refused(403, format!("Not with {TOKEN}")));
    let error = refused(&doppler).await;
    assert!(matches!(&error, WatchError::Rejected { message: None, .. }));
}

#[tokio::test]
async fn a_config_that_is_not_there_and_a_token_for_another_are_refusals() {
    let doppler = doppler();
    doppler.revoke(TOKEN);
    assert!(refused(&doppler).await.is_rejection());
    doppler.add_service_token(TOKEN, PROJECT, "prd");
    assert!(refused(&doppler).await.is_rejection());
    doppler.add_account_token(TOKEN);
    doppler.remove_config(PROJECT, "dev");
    assert!(refused(&doppler).await.is_rejection());
}

#[tokio::test]
async fn an_answer_that_is_no_event_stream_is_a_refusal() {
    let doppler = doppler();
    for fault in [
        Fault::not_json(),
        Fault::empty_object(),
        Fault::Answer(200, String::new(), b"canary".to_vec()),
        Fault::Answer(200, "text/event-streams".to_owned(), b"canary".to_vec()),
    ] {
        let fault = doppler.fault(|_| true, fault);
        let error = refused(&doppler).await;
        assert!(error.is_rejection(), "{error}");
        assert!(
            error
                .to_string()
                .contains("(status 200: what it gives is not an event stream): it is polled"),
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
    assert!(refused(&doppler).await.is_rejection());
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn a_limit_says_when_to_come_back() {
    let doppler = doppler();
    doppler.set_rate_limit(RateLimit {
        reads: 0,
        ..RateLimit::TEAM
    });
    let error = refused(&doppler).await;
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
async fn a_fault_of_the_server_is_a_loss_without_its_words() {
    let doppler = doppler();
    for status in [408, 500, 502, 503, 504] {
        let fault = doppler.fault(|_| true, Fault::Error(status, "canary".to_owned()));
        let error = refused(&doppler).await;
        let WatchError::Disconnected { cause, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(*cause, DisconnectCause::ServerError(status));
        assert_eq!(error.reason(), Reason::DopplerUnreachable);
        doppler.remove_fault(fault);
    }
}

#[tokio::test]
async fn a_connection_that_fails_or_ends_is_a_loss() {
    let doppler = doppler();
    let stream = open(&doppler).await;
    doppler.close_streams();
    assert_eq!(end_of(stream).await, DisconnectCause::Ended);

    doppler.fault(|_| true, Fault::Close);
    let error = refused(&doppler).await;
    assert_eq!(
        error.to_string(),
        format!(
            "{} broke off in the middle of its answer: until it pushes changes of this config again, it is polled",
            doppler.http_addr()
        )
    );

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let error = error_at(&format!("http://{address}")).await;
    assert!(
        error.to_string().contains("could not be reached"),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_wire_is_a_loss() {
    for bytes in [
        // Cut in the middle of a frame, and garbled between two.
        &b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nff\r\ndata: canary"[..],
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\n:x\n\r\ncanary\r\n",
    ] {
        let host = writing(bytes).await;
        let stream = watcher(LIMIT).watch(&at(&host)).await.unwrap();
        let loss = end_of(Box::pin(stream)).await;
        assert!(matches!(loss, DisconnectCause::Transport(_)), "{loss}");
    }
}

#[tokio::test]
async fn what_is_no_text_or_too_large_is_a_loss() {
    let doppler = doppler();
    let stream = open(&doppler).await;
    doppler.send_chunks(PROJECT, "dev", &[b"data: canary\xff\n\n".to_vec()]);
    assert_eq!(end_of(stream).await, DisconnectCause::NotEventStream);

    let stream = open(&doppler).await;
    let piece = b"canary".repeat(MAX_EVENT_BYTES / 12 + 1);
    doppler.send_chunks(PROJECT, "dev", &[piece.clone(), piece]);
    let loss = end_of(stream).await;
    assert_eq!(
        loss,
        DisconnectCause::TooLarge {
            limit: MAX_EVENT_BYTES
        }
    );
}

#[tokio::test]
async fn does_not_wait_for_ever_for_a_head_or_the_body_of_a_refusal() {
    let doppler = doppler();
    doppler.fault(|_| true, Fault::Hang);
    install_crypto_provider();
    let watcher = WatchClient::new(SHORT, LIMIT, RateLimiter::small()).unwrap();
    let Err(error) = watcher.watch(&at(&doppler.url())).await else {
        panic!("a stream")
    };
    assert!(
        error.to_string().contains("did not answer within 0.3 s"),
        "{error}"
    );

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(socket.read(&mut request).await.unwrap() > 0);
        let head = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 100\r\n\r\n{";
        socket.write_all(head).await.unwrap();
        std::future::pending::<()>().await;
    });
    // Long enough for the head, which comes at once.
    let watcher = WatchClient::new(Duration::from_secs(2), LIMIT, RateLimiter::small()).unwrap();
    let Err(error) = watcher.watch(&at(&host)).await else {
        panic!("a stream")
    };
    server.abort();
    assert!(error.is_rejection(), "{error}");
}

#[tokio::test]
async fn a_token_that_cannot_be_one_is_not_sent() {
    let doppler = doppler();
    for token in ["", "canary\n", "can ary", "canär"] {
        let at = ConfigKey {
            token: token.into(),
            ..at(&doppler.url())
        };
        let Err(error) = watcher(LIMIT).watch(&at).await else {
            panic!("a stream")
        };
        shows_nothing(&error);
        assert_eq!(error, WatchError::TokenInvalid);
        assert!(error.is_rejection());
    }
    assert!(doppler.requests().is_empty());
}

#[tokio::test]
async fn more_streams_than_a_connection_carries_do_not_hold_up_a_download() {
    const STREAMS: usize = 120;
    install_crypto_provider();
    let doppler = doppler();
    let ca = Some(doppler.ca_pem().as_bytes());
    let watcher = WatchClient {
        http: outbound::stream_client(LIMIT, ca).unwrap(),
        head_timeout: LIMIT,
        idle_timeout: LIMIT,
        limiter: RateLimiter::small(),
    };
    let at = at(&doppler.tls_url());
    let mut streams: Vec<Frames> = stream::iter(0..STREAMS)
        .map(|_| async { Box::pin(watcher.watch(&at).await.unwrap()) as Frames })
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
        .download(&at, None, &ReadRequest::interactive())
        .await
        .unwrap();
    assert!(matches!(download, Download::Changed(_)));
    doppler.send_update(PROJECT, "dev");
    for stream in &mut streams {
        assert_eq!(
            frames(stream).await,
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

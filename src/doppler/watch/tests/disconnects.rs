//! Streams that fail or end. A retry may help.

use super::*;

#[tokio::test]
async fn times_out_when_idle_but_not_while_pinged() {
    let doppler = doppler();
    doppler.set_ping_interval(Duration::from_millis(20));
    let mut stream = open(&doppler).await;
    assert_eq!(
        events(&mut stream).await,
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
async fn incomplete_events_do_not_reset_the_idle_timeout() {
    let doppler = doppler();
    let stream = open_within(&doppler, SHORT).await;
    let chunks = [&b"\n\n\n"[..], b"event: message\n", b"data: {\"type\":"];
    doppler.send_chunks(PROJECT, "dev", &chunks.map(<[u8]>::to_vec));
    assert_eq!(end_of(stream).await, DisconnectCause::IdleTimeout(SHORT));
}

#[tokio::test]
async fn a_server_error_disconnects_without_quoting_the_body() {
    let doppler = doppler();
    for status in [408, 500, 502, 503, 504] {
        let fault = doppler.fault(|_| true, Fault::Error(status, "canary".to_owned()));
        let error = open_error(&doppler).await;
        let WatchError::Disconnected { cause, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(*cause, DisconnectCause::ServerError(status));
        assert_eq!(error.reason(), Reason::DopplerUnreachable);
        doppler.remove_fault(fault);
    }
}

#[tokio::test]
async fn a_failed_or_ended_connection_disconnects() {
    let doppler = doppler();
    let stream = open(&doppler).await;
    doppler.close_streams();
    assert_eq!(end_of(stream).await, DisconnectCause::Ended);

    doppler.fault(|_| true, Fault::Close);
    let error = open_error(&doppler).await;
    assert_eq!(
        error.to_string(),
        format!(
            "{} closed the connection in the middle of its answer: the operator polls the config until the watch stream is open again",
            doppler.http_addr()
        )
    );

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let error = error_at(&format!("http://{address}")).await;
    assert!(
        error.to_string().contains("could not be reached"),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_chunk_encoding_disconnects() {
    for bytes in [
        // Cut in the middle of an event, and garbled between two.
        &b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nff\r\ndata: canary"[..],
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\n:x\n\r\ncanary\r\n",
    ] {
        let host = writing(bytes).await;
        let stream = client(LIMIT).watch(&key(&host)).await.unwrap();
        let loss = end_of(Box::pin(stream)).await;
        assert!(matches!(loss, DisconnectCause::Transport(_)), "{loss}");
    }
}

#[tokio::test]
async fn invalid_utf8_and_oversized_events_disconnect() {
    let doppler = doppler();
    let stream = open(&doppler).await;
    doppler.send_chunks(PROJECT, "dev", &[b"data: canary\xff\n\n".to_vec()]);
    assert_eq!(end_of(stream).await, DisconnectCause::NotEventStream);

    let stream = open(&doppler).await;
    let chunk = b"canary".repeat(MAX_EVENT_BYTES / 12 + 1);
    doppler.send_chunks(PROJECT, "dev", &[chunk.clone(), chunk]);
    let loss = end_of(stream).await;
    assert_eq!(
        loss,
        DisconnectCause::TooLarge {
            limit: MAX_EVENT_BYTES
        }
    );
}

#[tokio::test]
async fn head_and_rejection_body_have_a_time_limit() {
    let doppler = doppler();
    doppler.fault(|_| true, Fault::Hang);
    install_crypto_provider();
    let client = WatchClient::new(SHORT, LIMIT, RateLimiter::small()).unwrap();
    let Err(error) = client.watch(&key(&doppler.url())).await else {
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
    // Long enough for the head, which is sent at once.
    let client = WatchClient::new(Duration::from_secs(2), LIMIT, RateLimiter::small()).unwrap();
    let Err(error) = client.watch(&key(&host)).await else {
        panic!("a stream")
    };
    server.abort();
    assert!(error.is_rejection(), "{error}");
}

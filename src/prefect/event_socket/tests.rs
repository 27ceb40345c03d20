use std::{future::Future, sync::Arc};

use super::{handshake::SUBPROTOCOL, *};
use crate::outbound::install_crypto_provider;
use reqwest::header::{self, HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::pki_types::PrivateKeyDer};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        handshake::{
            derive_accept_key,
            server::{Request, Response as Accepted},
        },
        protocol::CloseFrame,
    },
};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

const CANARY: &str = "canary-7c0e";
const EVENT: &str = r#"{"type": "event", "event": {"resource": {"prefect.resource.id": "prefect.work-pool.1", "prefect.resource.name": "k8s"}}}"#;
/// Of a wait that a test does not expect to end.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

type ServerSocket<S = TcpStream> = WebSocketStream<S>;

/// What a server was asked.
struct SeenRequest {
    path: String,
    headers: HeaderMap,
    auth: Value,
    filter: Value,
}

fn limits() -> SocketLimits {
    SocketLimits {
        open_timeout: LONG,
        idle_timeout: LONG,
        silence_timeout: LONG * 2,
        ..SocketLimits::default()
    }
}

fn connection(url: &str) -> Connection {
    install_crypto_provider();
    Connection {
        api_url: format!("{url}/api").parse().unwrap(),
        auth: Auth::Basic(format!("user:{CANARY}").into()),
        headers: vec![("cf-access-client-secret".to_owned(), CANARY.into())],
        ca: None,
    }
}

/// A server of one connection, of which everything is the test's.
async fn serve_raw<F: Future<Output: Send + 'static> + Send>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (Connection, JoinHandle<F::Output>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    (connection(&url), served)
}

/// What the library's callback must return is large.
#[allow(clippy::result_large_err)]
async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> (ServerSocket<S>, Request) {
    let mut seen = None;
    let note = |request: &Request, mut answer: Accepted| {
        seen = Some(request.clone());
        let protocol = HeaderValue::from_static(SUBPROTOCOL);
        answer
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        Ok(answer)
    };
    let socket = accept_hdr_async(stream, note).await.unwrap();
    (socket, seen.unwrap())
}

async fn text<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut ServerSocket<S>) -> Value {
    let message = socket.next().await.unwrap().unwrap();
    serde_json::from_slice(&message.into_data()).unwrap()
}

/// A server that accepts the credentials and then does as the test wants.
async fn serve<F: Future<Output = ()> + Send>(
    then: impl FnOnce(ServerSocket) -> F + Send + 'static,
) -> (Connection, JoinHandle<SeenRequest>) {
    serve_raw(async move |stream| {
        let (mut socket, request) = accept(stream).await;
        let auth = text(&mut socket).await;
        let success = Message::text(r#"{"type": "auth_success"}"#);
        socket.send(success).await.unwrap();
        let filter = text(&mut socket).await;
        then(socket).await;
        SeenRequest {
            path: request.uri().to_string(),
            headers: request.headers().clone(),
            auth,
            filter,
        }
    })
    .await
}

/// Reads, and by it answers pings, until the other side is gone.
async fn drain(mut socket: ServerSocket) {
    while let Some(Ok(_)) = socket.next().await {}
}

async fn first(connection: &Connection, limits: SocketLimits) -> Result<ServerEvent, SocketError> {
    let mut stream = events(connection, limits).await?;
    let first = stream.next().await.unwrap();
    if first.is_err() {
        assert_eq!(stream.next().await, None, "an error is the end");
    }
    first
}

/// The error of the first event, which shows neither credentials nor the message.
async fn failure(connection: &Connection, limits: SocketLimits) -> SocketError {
    let error = first(connection, limits).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(CANARY), "{shown}");
    assert!(shown.contains("127.0.0.1:"), "{shown}");
    error
}

fn disconnection(error: SocketError) -> DisconnectCause {
    match error {
        SocketError::Disconnected { cause, .. } => cause,
        other => panic!("{other}"),
    }
}

fn rejection(error: SocketError) -> RejectionCause {
    match error {
        SocketError::Rejected { cause, .. } => cause,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn sends_credentials_in_header_and_message_and_then_the_filter() {
    let basic = format!("user:{CANARY}");
    for (auth, header, token) in [
        (Auth::None, None, Value::Null),
        (
            Auth::Bearer("pnu_key".into()),
            Some("Bearer pnu_key"),
            json!("pnu_key"),
        ),
        (
            Auth::Basic(basic.as_str().into()),
            Some("Basic dXNlcjpjYW5hcnktN2MwZQ=="),
            json!(basic),
        ),
    ] {
        let (mut connection, served) = serve(async |mut socket| {
            for text in [r#"{"type": "hello"}"#, EVENT] {
                socket.send(Message::text(text)).await.unwrap();
            }
        })
        .await;
        connection.auth = auth;
        let name = "k8s".to_owned();
        assert_eq!(
            first(&connection, limits()).await,
            Ok(ServerEvent::Pool { name }),
            "other messages are passed over"
        );
        let seen = served.await.unwrap();
        assert_eq!(seen.path, "/api/events/out");
        let sent = seen.headers.get("authorization");
        assert_eq!(sent.map(|value| value.to_str().unwrap()), header);
        assert_eq!(seen.headers["cf-access-client-secret"], CANARY);
        assert_eq!(seen.headers["sec-websocket-protocol"], "prefect");
        assert_eq!(seen.auth, json!({"type": "auth", "token": token}));
        assert_eq!(seen.filter["type"], "filter");
        let names = seen.filter["filter"]["event"]["name"].as_array().unwrap();
        assert!(names.contains(&json!("prefect.block-document.updated")));
    }
}

#[tokio::test]
async fn permanent_status_rejects_and_transient_status_disconnects() {
    for status in [200, 307, 401, 403, 404, 426, 429, 500, 501, 503] {
        let (server, other) = (MockServer::start().await, MockServer::start().await);
        let answer = ResponseTemplate::new(status)
            .insert_header("retry-after", "7")
            .insert_header("location", other.uri())
            .set_body_string(CANARY);
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let error = failure(&connection(&server.uri()), limits()).await;
        match status {
            429 | 500 | 503 => {
                assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
                assert!(matches!(
                    disconnection(error),
                    DisconnectCause::Status { .. }
                ));
            }
            307 => assert_eq!(rejection(error), RejectionCause::Redirect(307)),
            _ => assert_eq!(rejection(error), RejectionCause::Status(status)),
        }
        assert_eq!(server.received_requests().await.unwrap().len(), 1);
        assert!(other.received_requests().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn error_reads_as_a_sentence_in_a_condition() {
    let error = SocketError::Rejected {
        host: "prefect.example.com".to_owned(),
        cause: RejectionCause::Closed(1008),
    };
    assert_eq!(
        error.to_string(),
        "the Prefect server prefect.example.com rejects the event socket (it closed the socket with 1008: it does not accept the credentials): \
         blocks and work pools are polled"
    );
    let error = SocketError::Disconnected {
        host: "prefect.example.com".to_owned(),
        cause: DisconnectCause::Transport(TransportError::Timeout(Duration::from_secs(15))),
    };
    assert_eq!(
        error.to_string(),
        "the event socket of the Prefect server prefect.example.com is disconnected (it did not answer within 15 s): blocks and work pools are polled until it \
         is connected again"
    );
}

#[tokio::test]
async fn rejects_an_upgrade_to_another_protocol() {
    let answers: [fn(&str) -> String; 5] = [
        |_| "upgrade: websocket".to_owned(),
        |_| "upgrade: websocket\r\nsec-websocket-accept: AAAA".to_owned(),
        |accept| format!("upgrade: h2c\r\nsec-websocket-accept: {accept}"),
        |accept| {
            format!(
                "upgrade: websocket\r\nsec-websocket-accept: {accept}\r\nsec-websocket-protocol: soap"
            )
        },
        |accept| {
            format!(
                "upgrade: websocket\r\nsec-websocket-accept: {accept}\r\nsec-websocket-extensions: x"
            )
        },
    ];
    for answer in answers {
        let (connection, served) = serve_raw(async move |mut stream| {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            let key = request
                .lines()
                .find_map(|line| line.strip_prefix("sec-websocket-key: "));
            let answer = answer(&derive_accept_key(key.unwrap().as_bytes()));
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n{answer}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            // Nothing more is said before the answer has been judged.
            let _ = stream.read(&mut [0; 1]).await;
        })
        .await;
        let error = failure(&connection, limits()).await;
        assert_eq!(rejection(error), RejectionCause::Handshake);
        served.await.unwrap();
    }
}

fn close(code: u16) -> Message {
    Message::Close(Some(CloseFrame {
        code: code.into(),
        reason: CANARY.into(),
    }))
}

#[tokio::test]
async fn bad_credentials_reject_and_a_restart_disconnects() {
    let answers = [
        close(1008),
        close(1012),
        Message::text(format!(
            r#"{{"type": "auth_failure", "reason": "{CANARY}"}}"#
        )),
        Message::text(CANARY),
        Message::binary(vec![0xff]),
    ];
    for answer in answers {
        let sent = answer.clone();
        let (connection, _served) = serve_raw(async move |stream| {
            let (mut socket, _) = accept(stream).await;
            text(&mut socket).await;
            socket.send(sent).await.unwrap();
            drain(socket).await;
        })
        .await;
        let error = failure(&connection, limits()).await;
        match answer {
            answer if answer == close(1008) => {
                assert_eq!(rejection(error), RejectionCause::Closed(1008));
            }
            Message::Close(_) => assert_eq!(disconnection(error), DisconnectCause::Closed),
            _ => assert_eq!(rejection(error), RejectionCause::Authentication),
        }
    }
}

#[tokio::test]
async fn broken_socket_or_invalid_message_disconnects() {
    let limits = SocketLimits {
        max_message_bytes: 1000,
        ..limits()
    };
    let long = "x".repeat(1001);
    let frames = [
        (Message::text(CANARY), DisconnectCause::Undecodable),
        (
            Message::binary(vec![0xff; 10]),
            DisconnectCause::Undecodable,
        ),
        (
            Message::text(format!("\"{long}\"")),
            DisconnectCause::TooLarge(1000),
        ),
        (close(1001), DisconnectCause::Closed),
        (close(1011), DisconnectCause::Closed),
        (Message::Close(None), DisconnectCause::Closed),
    ];
    for (frame, cause) in frames {
        let (connection, _served) = serve(async move |mut socket| {
            socket.send(frame).await.unwrap();
            drain(socket).await;
        })
        .await;
        assert_eq!(disconnection(failure(&connection, limits).await), cause);
    }
    // The filter was not understood, and will not be.
    let (connection, _served) = serve(async |mut socket| {
        socket.send(close(1002)).await.unwrap();
        drain(socket).await;
    })
    .await;
    let error = failure(&connection, limits).await;
    assert_eq!(rejection(error), RejectionCause::Closed(1002));

    let (connection, _served) = serve(async |socket| drop(socket)).await;
    assert_eq!(
        disconnection(failure(&connection, limits).await),
        DisconnectCause::ConnectionLost
    );

    for bytes in [
        // Reserved bits and an opcode that is none; text that is not UTF-8; a frame that says it is longer than any memory.
        b"\xff\x00".to_vec(),
        b"\x81\x02\xff\xff".to_vec(),
        [b"\x81\x7f\x7f".to_vec(), vec![0xff; 7]].concat(),
    ] {
        let (connection, _served) = serve(async move |mut socket| {
            socket.get_mut().write_all(&bytes).await.unwrap();
            drain(socket).await;
        })
        .await;
        let cause = disconnection(failure(&connection, limits).await);
        assert!(
            matches!(
                cause,
                DisconnectCause::Undecodable | DisconnectCause::TooLarge(1000)
            ),
            "{cause}"
        );
    }
}

#[tokio::test]
async fn many_small_frames_are_one_message_that_has_the_same_bound() {
    let limits = SocketLimits {
        max_message_bytes: 1000,
        ..limits()
    };
    let (connection, _served) = serve(async |mut socket| {
        let stream = socket.get_mut();
        stream.write_all(b"\x01\x00").await.unwrap();
        // An empty beginning, then pieces of 100 bytes and no end.
        let piece = [b"\x00\x64".to_vec(), vec![b' '; 100]].concat();
        while stream.write_all(&piece).await.is_ok() {}
    })
    .await;
    let cause = disconnection(failure(&connection, limits).await);
    assert_eq!(cause, DisconnectCause::TooLarge(1000));
}

#[tokio::test]
async fn silent_server_is_pinged_and_then_disconnected() {
    let limits = SocketLimits {
        idle_timeout: SHORT,
        silence_timeout: SHORT * 4,
        ..limits()
    };
    let (connection, served) = serve(async |mut socket| {
        let mut seen = [0; 2];
        // Read past the library, which would answer.
        socket.get_mut().read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, [0x89, 0x80], "a masked ping without content");
        let mut rest = Vec::new();
        let _ = socket.get_mut().read_to_end(&mut rest).await;
        assert_eq!(rest.len(), 4, "one ping is enough: its mask, and the end");
    })
    .await;
    let started = Instant::now();
    let cause = disconnection(failure(&connection, limits).await);
    assert_eq!(cause, DisconnectCause::Silent(limits.silence_timeout));
    assert!(started.elapsed() >= limits.silence_timeout);
    served.await.unwrap();
}

#[tokio::test]
async fn answered_pings_keep_a_socket_alive_past_the_open_timeout() {
    let limits = SocketLimits {
        open_timeout: Duration::from_secs(1),
        idle_timeout: SHORT,
        silence_timeout: LONG,
        ..limits()
    };
    let (connection, _served) = serve(drain).await;
    let mut stream = events(&connection, limits).await.unwrap();
    let started = Instant::now();
    while started.elapsed() < limits.open_timeout * 2 {
        assert_eq!(stream.next().await, Some(Ok(ServerEvent::Heartbeat)));
    }
}

#[tokio::test]
async fn answers_pings_of_the_server() {
    let (connection, served) = serve(async |mut socket| {
        let ping = Message::Ping(Bytes::from_static(b"here?"));
        socket.send(ping).await.unwrap();
        let answer = socket.next().await.unwrap().unwrap();
        assert_eq!(answer, Message::Pong(Bytes::from_static(b"here?")));
    })
    .await;
    let cause = disconnection(failure(&connection, limits()).await);
    assert_eq!(cause, DisconnectCause::ConnectionLost);
    served.await.unwrap();
}

#[tokio::test]
async fn busy_socket_is_closed_at_its_maximum_lifetime() {
    let limits = SocketLimits {
        idle_timeout: SHORT,
        max_lifetime: SHORT * 4,
        ..limits()
    };
    let (connection, _served) = serve(
        async |mut socket| {
            while socket.send(Message::text("{}")).await.is_ok() {}
        },
    )
    .await;
    let cause = disconnection(failure(&connection, limits).await);
    assert_eq!(cause, DisconnectCause::LifetimeReached(limits.max_lifetime));
}

#[tokio::test]
async fn opening_ends_at_its_timeout() {
    let limits = SocketLimits {
        open_timeout: SHORT * 4,
        ..limits()
    };
    let late = DisconnectCause::Transport(TransportError::Timeout(limits.open_timeout));
    let (connection, _served) = serve_raw(async |mut stream| {
        let mut seen = Vec::new();
        let _ = stream.read_to_end(&mut seen).await;
    })
    .await;
    assert_eq!(disconnection(failure(&connection, limits).await), late);

    let (connection, _served) = serve_raw(async |stream| drain(accept(stream).await.0).await).await;
    assert_eq!(disconnection(failure(&connection, limits).await), late);
}

#[tokio::test]
async fn tls_is_that_of_every_other_request_over_http_1_1() {
    install_crypto_provider();
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (pem, certificate) = (own.cert.pem(), own.cert.der().clone());
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    // It would rather speak HTTP/2, on which there is no upgrade.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));
    for trusted in [true, false] {
        let tls = tls.clone();
        let (mut connection, _served) = serve_raw(async move |stream| {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let (mut socket, _) = accept(stream).await;
            text(&mut socket).await;
            let success = Message::text(r#"{"type": "auth_success"}"#);
            socket.send(success).await.unwrap();
            text(&mut socket).await;
            socket.send(Message::text(EVENT)).await.unwrap();
        })
        .await;
        connection.api_url.set_scheme("https").unwrap();
        connection.ca = trusted.then(|| pem.clone());
        if trusted {
            let name = "k8s".to_owned();
            let event = first(&connection, limits()).await;
            assert_eq!(event, Ok(ServerEvent::Pool { name }));
        } else {
            let cause = disconnection(failure(&connection, limits()).await);
            let cause = cause.to_string();
            assert!(cause.contains("certificate"), "{cause}");
        }
    }
}

#[tokio::test]
async fn refused_connection_disconnects() {
    let (connection, served) = serve_raw(async |_| ()).await;
    served.abort();
    assert!(served.await.is_err());
    let cause = disconnection(failure(&connection, limits()).await);
    assert_eq!(cause, DisconnectCause::Transport(TransportError::Connect));
}

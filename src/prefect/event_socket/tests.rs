mod connected;
mod opening;

use std::{future::Future, sync::Arc};

use super::{handshake::SUBPROTOCOL, *};
use crate::outbound::install_crypto_provider;
use crate::prefect::ServerVersion;
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
/// A time limit that the test does not reach.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

type ServerSocket<S = TcpStream> = WebSocketStream<S>;

/// The opening messages that a server received.
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
        shared: None,
    }
}

/// A server that accepts one connection and passes it to the test.
async fn serve_raw<F: Future<Output: Send + 'static> + Send>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (Connection, JoinHandle<F::Output>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    (connection(&url), served)
}

/// The library defines the large result type of the callback.
#[allow(clippy::result_large_err)]
async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> (ServerSocket<S>, Request) {
    let mut received = None;
    let record = |request: &Request, mut answer: Accepted| {
        received = Some(request.clone());
        let protocol = HeaderValue::from_static(SUBPROTOCOL);
        answer
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        Ok(answer)
    };
    let socket = accept_hdr_async(stream, record).await.unwrap();
    (socket, received.unwrap())
}

async fn text<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut ServerSocket<S>) -> Value {
    let message = socket.next().await.unwrap().unwrap();
    serde_json::from_slice(&message.into_data()).unwrap()
}

/// A server that accepts the credentials and then passes its socket to the test.
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

/// Reads until the client disconnects. Reading also answers pings.
async fn drain(mut socket: ServerSocket) {
    while let Some(Ok(_)) = socket.next().await {}
}

async fn first(connection: &Connection, limits: SocketLimits) -> Result<ServerEvent, SocketError> {
    let mut stream = events(connection, limits).await?;
    let first = stream.next().await.unwrap();
    if first.is_err() {
        assert_eq!(stream.next().await, None, "an error ends the stream");
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

#[test]
fn version_2_answers_500_because_it_has_no_socket() {
    let error = |status| SocketError::Disconnected {
        host: "prefect.example.com".to_owned(),
        cause: DisconnectCause::Status {
            status,
            retry_after: None,
        },
    };
    let version = |text| ServerVersion::parse(text);
    assert!(error(500).concerns_version() && !error(502).concerns_version());
    let old = error(500).of_version(version("2.20.25").as_ref());
    assert_eq!(rejection(old), RejectionCause::Status(500));
    // It may pass on a newer server, and on one whose version is unknown.
    for newer in [version("3.8.8"), None] {
        assert_eq!(error(500).of_version(newer.as_ref()), error(500));
    }
    assert_eq!(
        error(502).of_version(version("2.20.25").as_ref()),
        error(502)
    );
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
         the operator polls blocks and work pools"
    );
    let error = SocketError::Disconnected {
        host: "prefect.example.com".to_owned(),
        cause: DisconnectCause::Transport(TransportError::Timeout(Duration::from_secs(15))),
    };
    assert_eq!(
        error.to_string(),
        "the event socket of the Prefect server prefect.example.com is disconnected (it did not answer within 15 s): the operator polls blocks and work pools until it \
         is connected again"
    );
}

fn close(code: u16) -> Message {
    Message::Close(Some(CloseFrame {
        code: code.into(),
        reason: CANARY.into(),
    }))
}

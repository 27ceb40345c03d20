//! Opening: upgrade, TLS, credentials, and the time limit.

use super::*;

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
            "other messages are ignored"
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
            // Waits until the client has closed the connection.
            let _ = stream.read(&mut [0; 1]).await;
        })
        .await;
        let error = failure(&connection, limits()).await;
        assert_eq!(rejection(error), RejectionCause::Handshake);
        served.await.unwrap();
    }
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
async fn uses_the_connections_ca_and_http_1_1_over_tls() {
    install_crypto_provider();
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (pem, certificate) = (own.cert.pem(), own.cert.der().clone());
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    // The server prefers HTTP/2, which has no upgrade.
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

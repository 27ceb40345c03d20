//! A connected socket: messages, pings, and when it closes.

use super::*;

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
    // 1002 rejects the filter, which a retry would not change.
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
        // Reserved bits and an invalid opcode; invalid UTF-8; a frame with an impossible length.
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
async fn message_limit_covers_all_frames_of_a_message() {
    let limits = SocketLimits {
        max_message_bytes: 1000,
        ..limits()
    };
    let (connection, _served) = serve(async |mut socket| {
        let stream = socket.get_mut();
        stream.write_all(b"\x01\x00").await.unwrap();
        // An empty first frame, then continuations of 100 bytes without a last one.
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
        // Reads the raw stream, because the library would answer the ping.
        socket.get_mut().read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, [0x89, 0x80], "a masked ping without content");
        let mut rest = Vec::new();
        let _ = socket.get_mut().read_to_end(&mut rest).await;
        assert_eq!(rest.len(), 4, "one ping: only its mask follows");
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
        let ping = Message::Ping(Bytes::from_static(b"alive"));
        socket.send(ping).await.unwrap();
        let answer = socket.next().await.unwrap().unwrap();
        assert_eq!(answer, Message::Pong(Bytes::from_static(b"alive")));
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

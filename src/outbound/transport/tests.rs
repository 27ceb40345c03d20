use super::*;

#[test]
fn message_continues_a_host_name() {
    assert_eq!(
        TransportError::Timeout(Duration::from_secs(15)).to_string(),
        "did not answer within 15 s"
    );
    assert_eq!(
        TransportError::Timeout(Duration::from_millis(250)).to_string(),
        "did not answer within 0.25 s"
    );
}

#[test]
fn finds_a_certificate_error_inside_io_errors() {
    let inner = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    let error = io::Error::other(io::Error::other(inner.clone()));
    assert_eq!(find_source::<rustls::Error>(&error), Some(&inner));
}

#[tokio::test]
async fn reports_a_name_that_resolves_to_refused_addresses() {
    struct Refusing;
    impl reqwest::dns::Resolve for Refusing {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(async { Err(AddressRefused.into()) })
        }
    }
    crate::outbound::install_crypto_provider();
    let client = reqwest::Client::builder()
        .dns_resolver(Refusing)
        .no_proxy()
        .build()
        .unwrap();
    let error = client.get("http://x.example").send().await.unwrap_err();
    assert_eq!(
        TransportError::new(&error, Duration::ZERO),
        TransportError::AddressRefused
    );
}

/// What a request to a server fails with that sends `answer` and nothing else.
async fn answered(answer: String) -> TransportError {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    crate::outbound::install_crypto_provider();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
        // The client may still read.
        let _ = stream.read(&mut [0; 4096]).await;
    });
    let http = crate::outbound::client(Duration::from_secs(10), None).unwrap();
    let error = http.get(url).send().await.unwrap_err();
    server.abort();
    TransportError::new(&error, Duration::from_secs(10))
}

#[tokio::test]
async fn reports_response_headers_that_are_too_large() {
    let many = "x: 1\r\n".repeat(200);
    let long = format!("x: {}\r\n", "1".repeat(600_000));
    for headers in [many, long] {
        let answer = format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n");
        let error = answered(answer).await;
        assert!(matches!(error, TransportError::Headers(_)), "{error:?}");
        assert!(error.to_string().contains("are too large"), "{error}");
    }
    assert_eq!(
        answered("HTTP/1.1 200".to_owned()).await,
        TransportError::Interrupted
    );
    assert_eq!(answered(String::new()).await, TransportError::Interrupted);
    assert_eq!(
        answered("220 smtp ready\r\n\r\n".to_owned()).await,
        TransportError::Undecodable
    );
}

#[tokio::test]
async fn reports_http2_headers_that_are_too_large() {
    crate::outbound::install_crypto_provider();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let response = http::Response::builder().header("x", "1".repeat(20_000));
            let _ = respond.send_response(response.body(()).unwrap(), true);
        }
    });
    let http = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .unwrap();
    let error = http.get(url).send().await.unwrap_err();
    let error = TransportError::new(&error, Duration::from_secs(10));
    assert!(matches!(error, TransportError::Headers(_)), "{error:?}");
    server.abort();
}

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, date_time_ymd,
};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::outbound::{TransportError, client, install_crypto_provider, stream_client};

const LIMIT: Duration = Duration::from_secs(10);

/// A certificate with its key.
struct Made {
    chain: Vec<CertificateDer<'static>>,
    pem: String,
    key: PrivateKeyDer<'static>,
}

/// What a test changes in a certificate.
type Change = fn(&mut CertificateParams);

/// As `openssl req -x509 -addext subjectAltName=…` makes it: self-signed, and an authority.
fn openssl(name: &str, change: Change) -> Made {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    Made {
        chain: vec![certificate.der().clone()],
        pem: certificate.pem(),
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

/// A certificate of an authority, and the authority in PEM.
fn issued(name: &str, change: Change) -> (Made, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut params);
    let issuer: &Issuer<'_, _> = &authority;
    let certificate = params.signed_by(&key, issuer).unwrap();
    let made = Made {
        chain: vec![certificate.der().clone()],
        pem: certificate.pem(),
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    };
    (made, authority.pem())
}

/// Connects to a server with this certificate. Returns the failure, or the negotiated protocol.
async fn connect(server: &Made, http: &reqwest::Client) -> Result<Option<Vec<u8>>, TransportError> {
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(server.chain.clone(), server.key.clone_key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.ok()?;
        Some(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
    });
    let sent = http.get(format!("https://{address}/")).send().await;
    let error = TransportError::new(&sent.unwrap_err(), LIMIT);
    match accepted.await.unwrap() {
        // The server closes the connection after the handshake.
        Some(protocol) if !matches!(error, TransportError::Certificate(_)) => Ok(protocol),
        _ => Err(error),
    }
}

async fn problem(server: &Made, bundle: &str) -> String {
    install_crypto_provider();
    let http = client(LIMIT, Some(bundle.as_bytes())).unwrap();
    connect(server, &http).await.unwrap_err().to_string()
}

async fn protocol(server: &Made, bundle: &str) -> Option<Vec<u8>> {
    install_crypto_provider();
    let http = client(LIMIT, Some(bundle.as_bytes())).unwrap();
    connect(server, &http).await.unwrap()
}

#[tokio::test]
async fn accepts_a_server_certificate_that_is_in_the_bundle() {
    let server = openssl("127.0.0.1", |_| {});
    let other = openssl("other.example", |_| {});
    assert_eq!(protocol(&server, &server.pem).await, Some(b"h2".to_vec()));
    let both = format!("{}{}", other.pem, server.pem);
    assert_eq!(protocol(&server, &both).await, Some(b"h2".to_vec()));
    let http = stream_client(LIMIT, Some(server.pem.as_bytes())).unwrap();
    let negotiated = connect(&server, &http).await.unwrap();
    assert_eq!(negotiated, Some(b"http/1.1".to_vec()), "an event stream");
    // A certificate of an authority that is not in the bundle, and one that is no authority.
    let (server, authority) = issued("127.0.0.1", |_| {});
    assert!(protocol(&server, &server.pem).await.is_some());
    assert!(protocol(&server, &authority).await.is_some());
    let server = openssl("127.0.0.1", |params| params.is_ca = IsCa::NoCa);
    assert!(protocol(&server, &server.pem).await.is_some());
}

#[tokio::test]
async fn a_listed_certificate_is_refused_for_its_name_and_its_dates() {
    let makes: [fn(&str, Change) -> Made; 2] = [openssl, |name, change| issued(name, change).0];
    for make in makes {
        let server = make("other.example", |_| {});
        let text = problem(&server, &server.pem).await;
        assert!(
            text.ends_with("its certificate is for a different name: other.example"),
            "{text}"
        );
        let server = make("127.0.0.1", |params| {
            params.not_after = date_time_ymd(2020, 1, 2);
        });
        let text = problem(&server, &server.pem).await;
        assert!(
            text.ends_with("its certificate has expired (2020-01-02T00:00:00Z)"),
            "{text}"
        );
        let server = make("127.0.0.1", |params| {
            params.not_before = date_time_ymd(4000, 1, 2);
        });
        let text = problem(&server, &server.pem).await;
        assert!(
            text.contains("is not valid yet (valid from 4000-01-02T"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn only_the_same_bytes_count_as_listed() {
    // The same name and the same key, but another certificate.
    let server = openssl("127.0.0.1", |_| {});
    let key = KeyPair::try_from(&server.key).unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = date_time_ymd(4000, 1, 1);
    let twin = params.self_signed(&key).unwrap();
    let text = problem(&server, &twin.pem()).await;
    assert!(text.contains("is itself an authority (CA:TRUE)"), "{text}");

    let other = openssl("127.0.0.1", |params| {
        let name = rcgen::DnType::CommonName;
        params.distinguished_name.push(name, "other");
    });
    let (server, _) = issued("127.0.0.1", |_| {});
    let text = problem(&server, &other.pem).await;
    assert!(text.contains("an unknown authority"), "{text}");
}

#[tokio::test]
async fn the_handshake_must_be_signed_with_the_key_of_the_listed_certificate() {
    let server = openssl("127.0.0.1", |_| {});
    install_crypto_provider();
    let provider = CryptoProvider::get_default().unwrap();
    let verifier = BundleVerifier::new(server.chain.clone(), provider).unwrap();
    let thief = openssl("127.0.0.1", |_| {});
    let signing = provider.key_provider.load_private_key(thief.key).unwrap();
    let scheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    let signature = signing
        .choose_scheme(&[scheme])
        .unwrap()
        .sign(b"message")
        .unwrap();
    let mut encoded = vec![4, 3, 0, u8::try_from(signature.len()).unwrap()];
    encoded.extend_from_slice(&signature);
    let signed: DigitallySignedStruct =
        rustls::internal::msgs::codec::Codec::read_bytes(&encoded).unwrap();
    let answer = verifier.verify_tls13_signature(b"message", &server.chain[0], &signed);
    assert_eq!(
        answer.unwrap_err(),
        Error::InvalidCertificate(CertificateError::BadSignature)
    );
}

#[tokio::test]
async fn other_purposes_are_refused() {
    let (server, authority) = issued("127.0.0.1", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    for bundle in [&authority, &server.pem] {
        let text = problem(&server, bundle).await;
        assert!(text.contains("extended key usage"), "{text}");
    }
}

#[tokio::test]
async fn reports_a_server_without_tls() {
    install_crypto_provider();
    let server = wiremock::MockServer::start().await;
    let url = server.uri().replace("http://", "https://");
    let http = client(LIMIT, None).unwrap();
    let error = http.get(url).send().await.unwrap_err();
    let text = TransportError::new(&error, LIMIT).to_string();
    assert!(text.contains("does not speak TLS"), "{text}");
}

//! The HTTP clients, the same for both upstreams: one for requests, one for streams.
//!
//! In: a time limit and, if wanted, certificate authorities in PEM. Out: a client that follows no redirect, so that credentials go where they were
//! meant to go and nowhere else. For requests HTTP/2 is agreed upon by TLS, and plain HTTP stays HTTP/1.1; each stream has a connection of its own. A
//! proxy is taken from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`); it then resolves the names itself, so that the resolver's refusal
//! holds only for direct connections.

use std::{net::SocketAddr, time::Duration};

use reqwest::{
    Certificate, ClientBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};

use super::address::refused_address;
use crate::reason::Reason;

/// A server that is there answers a connection long before this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the usual interval between two polls, so that each finds its connection open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Why there is no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The certificate authorities cannot be read.
    #[error(
        "the CA bundle is not a list of certificates in PEM: give whole blocks from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
    )]
    CaBundle,
    /// The client cannot be made, which is a fault of the image: no certificate authorities, no crypto provider.
    #[error(
        "no HTTP client can be made: look whether the image has certificate authorities under /etc/ssl, or set SSL_CERT_FILE"
    )]
    Build,
}

impl ClientError {
    /// The word for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::CaBundle => Reason::ReferenceInvalid,
            Self::Build => Reason::KubernetesError,
        }
    }
}

/// Makes a client whose requests, from connecting to the last byte of the body, take at most `timeout`. `ca_bundle` is PEM, added to the system's
/// roots. To be kept and used again: it holds the connections.
///
/// # Errors
/// If the CA bundle is not PEM, or the system has no certificate authorities at all.
pub fn client(timeout: Duration, ca_bundle: Option<&[u8]>) -> Result<reqwest::Client, ClientError> {
    let builder = base_builder(timeout)
        .timeout(timeout)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .gzip(true);
    build(builder, ca_bundle)
}

/// Makes a client for answers that go on for as long as both sides like, event streams and sockets. Connecting takes at most `timeout`; the time
/// limits of the head and of the silence between two pieces are the caller's. Each has an HTTP/1.1 connection to itself: one of HTTP/2 carries a
/// limited number of streams, often a hundred, and requests would wait for their turn; nor can it become a `WebSocket`. Nothing is compressed, since
/// compression holds back what is short. A proxy passes on the upgrade of an https URL, which it cannot see; of an http URL most do not.
///
/// # Errors
/// As [`client`].
pub fn stream_client(
    timeout: Duration,
    ca_bundle: Option<&[u8]>,
) -> Result<reqwest::Client, ClientError> {
    let builder = base_builder(timeout)
        .http1_only()
        .pool_max_idle_per_host(0)
        .gzip(false);
    build(builder, ca_bundle)
}

/// Makes a client for other replicas, by address and past any proxy. Like [`client`] it follows no redirect.
///
/// # Errors
/// If the system has no certificate authorities at all.
pub fn direct_client(timeout: Duration) -> Result<reqwest::Client, ClientError> {
    let builder = base_builder(timeout)
        .timeout(timeout)
        .no_proxy()
        .pool_max_idle_per_host(0);
    build(builder, None)
}

/// What no client goes without.
fn base_builder(timeout: Duration) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!(
            "doppler-prefect-operator/",
            env!("CARGO_PKG_VERSION")
        ))
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(timeout.min(CONNECT_TIMEOUT))
        .dns_resolver(GuardedResolver)
}

fn build(
    mut builder: ClientBuilder,
    ca_bundle: Option<&[u8]>,
) -> Result<reqwest::Client, ClientError> {
    if let Some(pem) = ca_bundle {
        let roots = Certificate::from_pem_bundle(pem).map_err(|_| ClientError::CaBundle)?;
        if roots.is_empty() {
            return Err(ClientError::CaBundle);
        }
        builder = builder.tls_certs_merge(roots);
    }
    builder.build().map_err(|_| match ca_bundle {
        // The PEM was well formed but what it holds is no certificate.
        Some(_) => ClientError::CaBundle,
        None => ClientError::Build,
    })
}

/// Every address that the name resolves to is one that is never asked.
#[derive(Debug, thiserror::Error)]
#[error("the name resolves to refused addresses only")]
pub(super) struct AddressRefused;

/// The system's resolver, less the addresses that are never asked: a name that anybody may register must not be a way around the list.
struct GuardedResolver;

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(permitted(found)?)
        })
    }
}

fn permitted(found: impl Iterator<Item = SocketAddr>) -> Result<Addrs, AddressRefused> {
    let (refused, permitted): (Vec<_>, Vec<_>) =
        found.partition(|address| refused_address(address.ip()).is_some());
    if permitted.is_empty() && !refused.is_empty() {
        return Err(AddressRefused);
    }
    Ok(Box::new(permitted.into_iter()))
}

#[cfg(test)]
pub(crate) fn install_crypto_provider() {
    // A second call finds it installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::TransportError;
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

    const LIMIT: Duration = Duration::from_secs(10);

    fn new() -> reqwest::Client {
        install_crypto_provider();
        client(LIMIT, None).unwrap()
    }

    #[tokio::test]
    async fn sends_its_user_agent_and_accepts_gzip() {
        let server = MockServer::start().await;
        Mock::given(any())
            .respond_with(ResponseTemplate::new(200))
            .mount(&server)
            .await;
        new().get(server.uri()).send().await.unwrap();
        let request = &server.received_requests().await.unwrap()[0];
        assert_eq!(
            request.headers["user-agent"],
            concat!("doppler-prefect-operator/", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(request.headers["accept-encoding"], "gzip");
    }

    #[tokio::test]
    async fn requests_streams_uncompressed() {
        install_crypto_provider();
        let server = MockServer::start().await;
        Mock::given(any())
            .respond_with(ResponseTemplate::new(200))
            .mount(&server)
            .await;
        let client = stream_client(LIMIT, None).unwrap();
        client.get(server.uri()).send().await.unwrap();
        let request = &server.received_requests().await.unwrap()[0];
        assert!(request.headers.contains_key("user-agent"));
        assert!(!request.headers.contains_key("accept-encoding"));
    }

    #[tokio::test]
    async fn does_not_follow_a_redirect() {
        let (server, other) = (MockServer::start().await, MockServer::start().await);
        Mock::given(any())
            .respond_with(ResponseTemplate::new(307).insert_header("location", other.uri()))
            .mount(&server)
            .await;
        for client in [new(), stream_client(LIMIT, None).unwrap()] {
            let answer = client.get(server.uri()).send().await.unwrap();
            assert_eq!(answer.status(), 307);
        }
        assert!(other.received_requests().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn distinguishes_a_slow_server_from_an_absent_one() {
        install_crypto_provider();
        let limit = Duration::from_millis(200);
        let server = MockServer::start().await;
        Mock::given(any())
            .respond_with(ResponseTemplate::new(200).set_delay(Duration::from_secs(30)))
            .mount(&server)
            .await;
        let error = client(limit, None)
            .unwrap()
            .get(server.uri())
            .send()
            .await
            .unwrap_err();
        assert_eq!(
            TransportError::new(&error, limit),
            TransportError::Timeout(limit)
        );

        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let error = new()
            .get(format!("http://{address}/?canary"))
            .send()
            .await
            .unwrap_err();
        assert_eq!(TransportError::new(&error, LIMIT), TransportError::Connect);
    }

    #[tokio::test]
    async fn reports_a_name_that_does_not_resolve() {
        let error = new()
            .get("http://no-such-host.invalid/")
            .send()
            .await
            .unwrap_err();
        assert_eq!(TransportError::new(&error, LIMIT), TransportError::Dns);
    }

    #[test]
    fn leaves_out_refused_addresses_and_fails_if_none_is_left() {
        let at = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
        let mixed = [at("169.254.169.254"), at("10.0.0.1")];
        let left: Vec<_> = permitted(mixed.into_iter()).unwrap().collect();
        assert_eq!(left, [at("10.0.0.1")]);
        assert!(permitted([at("169.254.169.254"), at("fe80::1")].into_iter()).is_err());
    }

    #[test]
    fn refuses_a_ca_bundle_without_certificates() {
        install_crypto_provider();
        for pem in [
            "",
            "no PEM",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let error = client(LIMIT, Some(pem.as_bytes())).unwrap_err();
            assert_eq!(error, ClientError::CaBundle, "{pem}");
            assert_eq!(error.reason(), Reason::ReferenceInvalid);
        }
    }
}

//! The HTTP clients for both upstreams: one for requests, one for streams.
//!
//! Input: a time limit and optional certificate authorities in PEM.
//! Output: a client for requests (HTTP/2 over TLS, HTTP/1.1 otherwise) or for streams (one HTTP/1.1
//! connection each). Proxies come from `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
//! Invariants: no client follows a redirect, so credentials reach only the host that was checked.
//! The resolver drops refused addresses; a proxy resolves names itself and bypasses this.

use std::{net::SocketAddr, time::Duration};

use reqwest::{
    ClientBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};

use super::{address::refused_address, ca_bundle::tls_config, client_error::ClientError};

/// A reachable server accepts a connection much faster than this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the default poll interval, so that a poll reuses its connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Creates a client whose requests, from connecting to the last byte of the body, take at most
/// `timeout`. `ca_bundle` is PEM and extends the system's roots. Keep the client: it owns the
/// connection pool.
///
/// # Errors
/// If the CA bundle is not PEM, or the system has no certificate authorities at all.
pub fn client(timeout: Duration, ca_bundle: Option<&[u8]>) -> Result<reqwest::Client, ClientError> {
    let builder = base_builder(timeout)
        .timeout(timeout)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .gzip(true);
    build(builder, ca_bundle, &["h2", "http/1.1"])
}

/// Creates a client for event streams and `WebSockets`, which have no end of their own. Connecting
/// takes at most `timeout`; the caller limits the wait for the head and between two chunks.
///
/// Each stream has its own HTTP/1.1 connection: HTTP/2 limits the streams of a connection, often to
/// 100, and does not upgrade to a `WebSocket`. Responses are not compressed, since compression
/// delays short events. Most proxies pass the upgrade of an https URL, but not of an http URL.
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
    build(builder, ca_bundle, &["http/1.1"])
}

/// Creates a client for other replicas, which connects to an address without a proxy. Like
/// [`client`] it follows no redirect.
///
/// # Errors
/// If the system has no certificate authorities at all.
pub fn direct_client(timeout: Duration) -> Result<reqwest::Client, ClientError> {
    let builder = base_builder(timeout)
        .timeout(timeout)
        .no_proxy()
        .pool_max_idle_per_host(0);
    build(builder, None, &[])
}

/// Settings that all clients share.
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

/// `alpn` are the application protocols to offer over TLS with a CA bundle. Without one, the client
/// chooses them itself.
fn build(
    mut builder: ClientBuilder,
    ca_bundle: Option<&[u8]>,
    alpn: &[&str],
) -> Result<reqwest::Client, ClientError> {
    if let Some(pem) = ca_bundle {
        builder = builder.tls_backend_preconfigured(tls_config(pem, alpn)?);
    }
    builder.build().map_err(|_| ClientError::Build)
}

/// The name resolves to refused addresses only.
#[derive(Debug, thiserror::Error)]
#[error("the name resolves to refused addresses only")]
pub(super) struct AddressRefused;

/// The system's resolver without the refused addresses: anyone can register a name that points to a
/// metadata service, so the allowed hosts alone do not protect it.
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
    // A second call fails because the provider is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::TransportError;
    use crate::reason::Reason;
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
    async fn distinguishes_a_timeout_from_a_refused_connection() {
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
    async fn reports_a_dns_failure() {
        let error = new()
            .get("http://no-such-host.invalid/")
            .send()
            .await
            .unwrap_err();
        assert_eq!(TransportError::new(&error, LIMIT), TransportError::Dns);
    }

    #[test]
    fn drops_refused_addresses_and_fails_if_none_remains() {
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

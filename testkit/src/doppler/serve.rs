//! The listeners.
//!
//! Input: the router. Output: plain HTTP/1.1 on one port of 127.0.0.1, and TLS with h2 and HTTP/1.1
//! on another.
//! Invariants: the certificate authority is new for each server. The ports are bound when the
//! function returns.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum_server::tls_rustls::RustlsConfig;
use hyper::body::Incoming;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tower_service::Service;

use super::door::CloseConnection;
use crate::background::BackgroundServer;

/// The running servers.
pub(super) struct Server {
    pub(super) http: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) ca_pem: String,
    _background: BackgroundServer,
}

/// Serves `router` on two ports until the value is dropped.
pub(super) fn start(router: Router) -> Result<Server> {
    let (ca_pem, config) = certificate().context("certificates for the stand-in")?;
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for HTTP")?;
    let secure = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for TLS")?;
    let (http, tls) = (plain.local_addr()?, secure.local_addr()?);
    // The listeners are registered here, so that a failure is an error of the start.
    let servers = move || async move {
        let make = MakeConnectionService(ConnectionService(router));
        let (Ok(plain), Ok(secure)) = (
            axum_server::from_tcp(plain),
            axum_server::from_tcp_rustls(secure, RustlsConfig::from_config(config)),
        ) else {
            return;
        };
        // Both servers end with the first one that ends.
        tokio::select! {
            _ = plain.http1_only().serve(make.clone()) => {}
            _ = secure.serve(make) => {}
        }
    };
    let background = BackgroundServer::start("doppler-stand-in", servers)?;
    Ok(Server {
        http,
        tls,
        ca_pem,
        _background: background,
    })
}

fn certificate() -> Result<(String, Arc<rustls::ServerConfig>)> {
    let mut authority = CertificateParams::default();
    authority
        .distinguished_name
        .push(DnType::CommonName, "Test authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_key = KeyPair::generate()?;
    let ca_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let names = ["api.doppler.com", "localhost", "127.0.0.1"].map(str::to_owned);
    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name
        .push(DnType::CommonName, "api.doppler.com");
    leaf.use_authority_key_identifier_extension = true;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let leaf = leaf.signed_by(&key, &issuer)?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((ca_pem, Arc::new(config)))
}

/// The router. A response with the mark [`CloseConnection`] becomes an error, on which hyper closes
/// the connection without a response.
#[derive(Clone)]
struct ConnectionService(Router);

impl Service<Request<Incoming>> for ConnectionService {
    type Response = Response<Body>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let answer = self.0.call(request.map(Body::new));
        Box::pin(async move {
            let answer = answer.await.unwrap_or_else(|never| match never {});
            if answer.extensions().get::<CloseConnection>().is_some() {
                return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted));
            }
            Ok(answer)
        })
    }
}

#[derive(Clone)]
struct MakeConnectionService(ConnectionService);

impl Service<SocketAddr> for MakeConnectionService {
    type Response = ConnectionService;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<ConnectionService, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: SocketAddr) -> Self::Future {
        std::future::ready(Ok(self.0.clone()))
    }
}

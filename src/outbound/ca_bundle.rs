//! Which server certificates a client with a CA bundle accepts.
//!
//! Input: a CA bundle in PEM.
//! Output: the TLS configuration of a client.
//! Invariants: what the system's roots and the bundle's authorities sign is accepted as always. A
//! server certificate that is byte for byte in the bundle needs no issuer, so that it may also be an
//! authority, as `openssl req -x509` makes it. Its names, its dates, and the signature of the
//! handshake are checked all the same.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use rustls_platform_verifier::Verifier;

use super::client_error::ClientError;

/// The TLS configuration of a client that also trusts the certificates of `pem`, and offers the
/// application protocols `alpn`.
///
/// # Errors
/// If `pem` is not a list of certificates.
pub(super) fn tls_config(pem: &[u8], alpn: &[&str]) -> Result<ClientConfig, ClientError> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| ClientError::CaBundle)?;
    if certificates.is_empty() {
        return Err(ClientError::CaBundle);
    }
    let provider = CryptoProvider::get_default()
        .cloned()
        .ok_or(ClientError::Build)?;
    let verifier = BundleVerifier::new(certificates, &provider)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| ClientError::Build)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// Verifies server certificates with the system's roots and those of the bundle.
#[derive(Debug)]
struct BundleVerifier {
    by_issuer: Verifier,
    bundle: Vec<CertificateDer<'static>>,
    /// The certificates of the bundle, as the only authorities.
    bundle_roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl BundleVerifier {
    fn new(
        bundle: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, ClientError> {
        let mut bundle_roots = RootCertStore::empty();
        for certificate in &bundle {
            bundle_roots
                .add(certificate.clone())
                .map_err(|_| ClientError::CaBundle)?;
        }
        let by_issuer = Verifier::new_with_extra_roots(bundle.clone(), Arc::clone(provider))
            .map_err(|_| ClientError::CaBundle)?;
        Ok(Self {
            by_issuer,
            bundle,
            bundle_roots,
            provider: Arc::clone(provider),
        })
    }

    /// Verifies dates and names of a certificate that is in the bundle.
    fn verify_listed(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let by_bundle = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.bundle_roots,
            &[],
            now,
            algorithms,
        );
        // The dates are verified first. A later failure concerns the issuer, which is not needed.
        match by_bundle {
            Ok(()) => {}
            Err(Error::InvalidCertificate(problem)) if !concerns_itself(&problem) => {}
            Err(error) => return Err(error),
        }
        verify_server_name(&parsed, name)
    }
}

/// Whether a certificate is refused for what it says of itself, and not for its issuer.
fn concerns_itself(problem: &CertificateError) -> bool {
    !matches!(
        problem,
        CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
            | CertificateError::Other(_)
    )
}

impl ServerCertVerifier for BundleVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let by_issuer = self.by_issuer.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        if by_issuer.is_err() && self.bundle.iter().any(|listed| **listed == **end_entity) {
            self.verify_listed(end_entity, server_name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        by_issuer
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_issuer.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_issuer.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_issuer.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;

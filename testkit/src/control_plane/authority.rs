//! Keys and certificates of one control plane.
//!
//! Input: none. Output: a certificate authority, its serving certificate for 127.0.0.1, the key
//! that signs service account tokens, and the administrator's token.
//! Invariants: all of them are new for each control plane.

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use sha2::{Digest, Sha256};

/// The keys, certificates and tokens of the servers.
pub(super) struct Authority {
    pub(super) ca_pem: String,
    pub(super) ca_der: Vec<u8>,
    pub(super) serving_certificate_pem: String,
    pub(super) serving_key_pem: String,
    pub(super) service_account_key_pem: String,
    pub(super) service_account_public_key_pem: String,
    pub(super) admin_token: String,
}

impl Authority {
    pub(super) fn new() -> Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "testkit control plane");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let ca = params.self_signed(&ca_key)?;

        let serving_key = KeyPair::generate()?;
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let issuer = Issuer::from_params(&params, &ca_key);
        let serving = CertificateParams::new(names)?.signed_by(&serving_key, &issuer)?;

        let service_account_key = KeyPair::generate()?;

        Ok(Self {
            ca_pem: ca.pem(),
            ca_der: ca.der().to_vec(),
            serving_certificate_pem: serving.pem(),
            serving_key_pem: serving_key.serialize_pem(),
            service_account_key_pem: service_account_key.serialize_pem(),
            service_account_public_key_pem: service_account_key.public_key_pem(),
            admin_token: random_token()?,
        })
    }
}

/// A random token. A new key gives the randomness without another dependency.
fn random_token() -> Result<String> {
    let key = KeyPair::generate()?;
    Ok(URL_SAFE_NO_PAD.encode(Sha256::digest(key.serialized_der())))
}

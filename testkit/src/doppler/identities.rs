//! Service account identities: the exchange of an OIDC token for a token with a short life.
//!
//! Input: the identities that a test adds, and the tokens of requests. Output: tokens, or Doppler's
//! error.
//! Invariants: a token is given only for a JWT whose signature, issuer, audience, subject and times
//! are valid. Independent of HTTP.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use super::api_error::ApiError;

/// The rules of an identity, and what its tokens can do.
#[derive(Clone, Debug)]
pub struct IdentityRules {
    /// The issuer of the OIDC tokens.
    pub issuer: String,
    /// The keys of the issuer, as JSON (a JWK set).
    pub jwks: String,
    /// The accepted audiences. An OIDC token must have one of them.
    pub audiences: Vec<String>,
    /// The accepted subject.
    pub subject: String,
    /// Project and config that the tokens can read; none for all of the workplace.
    pub config: Option<(String, String)>,
    /// How long a token lives.
    pub life: Duration,
}

/// All identities, and the tokens that were given for them.
#[derive(Default)]
pub(super) struct Identities {
    pub(super) rules: HashMap<String, IdentityRules>,
    /// Whether the plan of the workplace lacks identities.
    pub(super) missing_in_plan: bool,
    /// When each token expires that is neither expired nor revoked.
    expiries: HashMap<String, Instant>,
    /// Every OIDC token that was received, and every token that was given.
    pub(super) seen: Vec<String>,
}

#[derive(Deserialize)]
struct NoClaims {}

impl Identities {
    /// The identity whose rules an OIDC token fulfils.
    pub(super) fn verify(&mut self, id: &str, jwt: &str) -> Result<IdentityRules, ApiError> {
        self.seen.push(jwt.to_owned());
        let refuse = |status, message: &str| ApiError {
            status,
            message: message.to_owned(),
        };
        if self.missing_in_plan {
            let message = "Service account identities are not included in your plan";
            return Err(refuse(403, message));
        }
        let Some(rules) = self.rules.get(id) else {
            return Err(refuse(404, "Could not find requested identity"));
        };
        verify_jwt(rules, jwt)
            .ok_or_else(|| refuse(401, "The OIDC token does not match the identity"))?;
        Ok(rules.clone())
    }

    /// Adds a token that was given.
    pub(super) fn issue(&mut self, token: &str, life: Duration) -> Instant {
        let expiry = Instant::now() + life;
        self.expiries.insert(token.to_owned(), expiry);
        self.seen.push(token.to_owned());
        expiry
    }

    /// Whether a token is one of an identity that has expired.
    pub(super) fn is_expired(&self, token: &str) -> bool {
        let expiry = self.expiries.get(token);
        expiry.is_some_and(|expiry| *expiry <= Instant::now())
    }

    /// When a token of an identity expires.
    pub(super) fn expiry(&self, token: &str) -> Option<Instant> {
        self.expiries.get(token).copied()
    }

    /// Removes a token.
    pub(super) fn revoke(&mut self, token: &str) {
        self.expiries.remove(token);
    }

    /// How many tokens are valid.
    pub(super) fn valid(&self) -> usize {
        let now = Instant::now();
        self.expiries
            .values()
            .filter(|expiry| **expiry > now)
            .count()
    }
}

fn verify_jwt(rules: &IdentityRules, jwt: &str) -> Option<()> {
    let header = decode_header(jwt).ok()?;
    let keys: JwkSet = serde_json::from_str(&rules.jwks).ok()?;
    let key = keys.find(header.kid.as_deref()?)?;
    let mut validation = Validation::new(header.alg);
    validation.leeway = 0;
    validation.validate_nbf = true;
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&[&rules.issuer]);
    validation.set_audience(&rules.audiences);
    validation.sub = Some(rules.subject.clone());
    let key = DecodingKey::from_jwk(key).ok()?;
    decode::<NoClaims>(jwt, &key, &validation).ok()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use rcgen::{KeyPair, PublicKeyData as _};
    use serde_json::{Value, json};

    const ID: &str = "identity";

    /// An issuer of tokens.
    struct Issuer(KeyPair);

    impl Issuer {
        fn new() -> Self {
            Self(KeyPair::generate().unwrap())
        }

        fn jwks(&self) -> String {
            // 4, x and y.
            let point = self.0.der_bytes();
            let [x, y] = [&point[1..33], &point[33..65]].map(|it| URL_SAFE_NO_PAD.encode(it));
            json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": x, "y": y}]})
                .to_string()
        }

        fn sign(&self, claims: &Value) -> String {
            let header = Header {
                kid: Some("k".to_owned()),
                ..Header::new(Algorithm::ES256)
            };
            let key = EncodingKey::from_ec_der(&self.0.serialize_der());
            encode(&header, claims, &key).unwrap()
        }
    }

    fn identities(issuer: &Issuer) -> Identities {
        let rules = IdentityRules {
            issuer: "https://k8s".to_owned(),
            jwks: issuer.jwks(),
            audiences: vec!["a".to_owned()],
            subject: "s".to_owned(),
            config: None,
            life: Duration::from_mins(1),
        };
        let mut identities = Identities::default();
        identities.rules.insert(ID.to_owned(), rules);
        identities
    }

    /// Claims that fulfil the rules.
    fn claims() -> Value {
        let now = jiff::Timestamp::now().as_second();
        json!({"iss": "https://k8s", "aud": ["a", "b"], "sub": "s", "exp": now + 60, "nbf": now - 1})
    }

    #[test]
    fn every_rule_has_to_be_fulfilled() {
        let issuer = Issuer::new();
        let mut identities = identities(&issuer);
        let valid = issuer.sign(&claims());
        assert!(identities.verify(ID, &valid).is_ok());
        assert_eq!(identities.verify("other", &valid).unwrap_err().status, 404);
        let now = jiff::Timestamp::now().as_second();
        for (claim, other) in [
            ("iss", json!("https://other")),
            ("aud", json!(["b"])),
            ("sub", json!("t")),
            ("exp", json!(now - 1)),
            ("nbf", json!(now + 60)),
            ("exp", json!(null)),
            ("sub", json!(null)),
        ] {
            let mut claims = claims();
            claims[claim] = other;
            let refused = identities.verify(ID, &issuer.sign(&claims));
            assert_eq!(refused.unwrap_err().status, 401, "{claims}");
        }
        // Another key of the same name, and a token that was changed.
        let forged = Issuer::new().sign(&claims());
        assert!(identities.verify(ID, &forged).is_err());
        let (head, signature) = valid.rsplit_once('.').unwrap();
        let (_, payload) = forged.rsplit_once('.').unwrap();
        assert!(identities.verify(ID, &format!("{head}.{payload}")).is_err());
        assert!(
            identities
                .verify(ID, &format!("{head}x.{signature}"))
                .is_err()
        );
        assert!(identities.verify(ID, "no token").is_err());
    }

    #[test]
    fn a_token_is_valid_until_it_expires_or_is_revoked() {
        let mut identities = identities(&Issuer::new());
        identities.issue("a", Duration::from_mins(1));
        identities.issue("b", Duration::ZERO);
        assert!(!identities.is_expired("a") && identities.is_expired("b"));
        assert_eq!(identities.valid(), 1);
        identities.revoke("a");
        assert_eq!(identities.valid(), 0);
    }
}

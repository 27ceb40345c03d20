//! What a service account's token says about itself: what Doppler compares with its rules.
//!
//! Input: a JWT, as the API server issued it.
//! Output: issuer, audiences and subject, which are no secrets.
//! Invariants: pure. The signature is neither checked nor shown.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::printable::name;

/// The claims that Doppler compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The issuer.
    pub issuer: String,
    /// The audiences.
    pub audiences: Vec<String>,
    /// The subject.
    pub subject: String,
}

/// A claim that is one text or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Payload {
    iss: String,
    aud: Texts,
    sub: String,
}

impl Claims {
    /// The claims of a JWT. None if it is not one.
    pub(super) fn of(jwt: &str) -> Option<Self> {
        let payload = jwt.split('.').nth(1)?;
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
        let Payload { iss, aud, sub } = serde_json::from_slice(&payload).ok()?;
        let audiences = match aud {
            Texts::One(one) => vec![one],
            Texts::Several(several) => several,
        };
        Some(Self {
            issuer: iss,
            audiences,
            subject: sub,
        })
    }
}

impl fmt::Display for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let audiences: Vec<String> = self.audiences.iter().map(|it| name(it)).collect();
        write!(
            f,
            "issuer {}, audience {}, subject {}",
            name(&self.issuer),
            audiences.join(" and "),
            name(&self.subject)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn jwt(payload: &Value) -> String {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(payload.to_string());
        format!("header.{payload}.signature")
    }

    #[test]
    fn reads_the_claims_and_no_signature() {
        let payload =
            json!({"iss": "https://k8s.example", "aud": ["a", "b"], "sub": "s", "exp": 1});
        let claims = Claims::of(&jwt(&payload)).unwrap();
        assert_eq!(
            claims.to_string(),
            "issuer https://k8s.example, audience a and b, subject s"
        );
        let payload = json!({"iss": "i", "aud": "a", "sub": "s"});
        assert_eq!(Claims::of(&jwt(&payload)).unwrap().audiences, ["a"]);
    }

    #[test]
    fn other_texts_have_no_claims() {
        let no_subject = jwt(&json!({"iss": "i", "aud": "a"}));
        for text in ["", "abc", "a.b.c", "a.!.c", &no_subject] {
            assert_eq!(Claims::of(text), None, "{text}");
        }
    }
}

//! Reads the body of a response, up to a bound.
//!
//! Input: a response, a bound and the client's time limit.
//! Output: the body as a secret, or a [`BodyError`].
//! Invariants: memory is bounded after decompression.

use std::time::Duration;

use secrecy::SecretSlice;

use super::TransportError;

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Larger than the bound.
    #[error("sent a response of more than {limit} bytes, which is not read")]
    TooLarge {
        /// The bound, in bytes.
        limit: usize,
    },
    /// The transfer failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// Reads the body, and stops as soon as it is larger than `limit` bytes, counted after
/// decompression. `timeout` is the client's time limit, for the message.
///
/// # Errors
/// If the body is too large, or does not arrive completely.
pub async fn read_bounded(
    mut response: reqwest::Response,
    limit: usize,
    timeout: Duration,
) -> Result<SecretSlice<u8>, BodyError> {
    let announced = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(BodyError::TooLarge { limit });
    }
    let mut body = Vec::with_capacity(announced);
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| TransportError::new(&error, timeout))?
    {
        if chunk.len() > limit - body.len() {
            return Err(BodyError::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::{client, install_crypto_provider};
    use base64::{Engine, prelude::BASE64_STANDARD};
    use secrecy::ExposeSecret;
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

    const TIMEOUT: Duration = Duration::from_secs(10);

    async fn read(answer: ResponseTemplate, limit: usize) -> Result<SecretSlice<u8>, BodyError> {
        install_crypto_provider();
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let client = client(TIMEOUT, None).unwrap();
        let response = client.get(server.uri()).send().await.unwrap();
        read_bounded(response, limit, TIMEOUT).await
    }

    #[tokio::test]
    async fn reads_a_body_up_to_the_bound() {
        let answer = || ResponseTemplate::new(200).set_body_bytes(*b"canary");
        let body = read(answer(), 6).await.unwrap();
        assert_eq!(body.expose_secret(), b"canary");
        assert!(!format!("{body:?}").contains("canary"));
        assert_eq!(
            read(answer(), 5).await.unwrap_err(),
            BodyError::TooLarge { limit: 5 }
        );
    }

    #[tokio::test]
    async fn counts_the_bound_after_decompression() {
        // 200,000 zeros compressed to 229 bytes.
        let bomb = [
            "H4sIAAAAAAACA+3BMQEAAADCoPVPbQZ/o",
            &"A".repeat(257),
            "CA1wB7WOBcQA0DAA==",
        ]
        .concat();
        let packed = BASE64_STANDARD.decode(bomb).unwrap();
        assert!(packed.len() < 1000);
        let answer = || {
            ResponseTemplate::new(200)
                .set_body_bytes(packed.clone())
                .insert_header("content-encoding", "gzip")
        };
        assert_eq!(
            read(answer(), 199_999).await.unwrap_err(),
            BodyError::TooLarge { limit: 199_999 }
        );
        let body = read(answer(), 200_000).await.unwrap();
        assert_eq!(body.expose_secret().len(), 200_000);
    }
}

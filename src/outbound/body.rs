//! Reads the body of a response, up to a bound.
//!
//! Input: a response, a bound and the client's time limit.
//! Output: the [`Body`] as a secret, or a [`BodyError`].
//! Invariants: memory is bounded after decompression: for each body, and for all bodies together. A
//! body of an ordinary size never waits for others.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::TransportError;

/// What all bodies together may take, in bytes, beyond [`UNRESERVED_BYTES`] of each.
const TOTAL_BYTES: usize = 8 << 20;
/// The first bytes of a body are not counted. Blocks, templates and most configs are smaller.
const UNRESERVED_BYTES: usize = 64 << 10;

static RESERVATIONS: Semaphore = Semaphore::const_new(TOTAL_BYTES);

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Larger than the bound.
    #[error("sent a response of more than {limit} bytes, which the operator does not read")]
    TooLarge {
        /// The bound, in bytes.
        limit: usize,
    },
    /// The transfer failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// A body that was read completely. Its share of the memory of all bodies is free again once it is
/// dropped.
#[derive(Debug)]
pub struct Body {
    bytes: SecretSlice<u8>,
    _reserved: Option<SemaphorePermit<'static>>,
}

impl Body {
    /// The bytes.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        self.bytes.expose_secret()
    }

    /// A body without bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            bytes: Vec::new().into(),
            _reserved: None,
        }
    }
}

/// Reads the body, and stops as soon as it is larger than `limit` bytes, counted after
/// decompression. `time_limit` is the client's, for the message, and for the wait until other large
/// bodies are dropped.
///
/// # Errors
/// If the body is too large, or does not arrive completely.
pub async fn read_bounded(
    mut response: reqwest::Response,
    limit: usize,
    time_limit: Duration,
) -> Result<Body, BodyError> {
    let announced = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(BodyError::TooLarge { limit });
    }
    let mut bytes = Vec::with_capacity(announced);
    let mut reserved: Option<SemaphorePermit<'static>> = None;
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| TransportError::new(&error, time_limit))?
    {
        if chunk.len() > limit - bytes.len() {
            return Err(BodyError::TooLarge { limit });
        }
        let held = reserved.as_ref().map_or(0, SemaphorePermit::num_permits);
        let needed = (bytes.len() + chunk.len()).saturating_sub(UNRESERVED_BYTES);
        if needed > held {
            let more = reserve(needed - held, time_limit).await?;
            match &mut reserved {
                Some(reserved) => reserved.merge(more),
                None => reserved = Some(more),
            }
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Body {
        bytes: bytes.into(),
        _reserved: reserved,
    })
}

/// Waits until other bodies leave room for `bytes` more.
async fn reserve(
    bytes: usize,
    time_limit: Duration,
) -> Result<SemaphorePermit<'static>, TransportError> {
    let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
    match timeout(time_limit, RESERVATIONS.acquire_many(permits)).await {
        Ok(Ok(permit)) => Ok(permit),
        // The semaphore is never closed.
        Ok(Err(_)) | Err(_) => Err(TransportError::Timeout(time_limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::{client, install_crypto_provider};
    use base64::{Engine, prelude::BASE64_STANDARD};
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

    const TIMEOUT: Duration = Duration::from_secs(10);

    async fn read(answer: ResponseTemplate, limit: usize) -> Result<Body, BodyError> {
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

    #[tokio::test]
    async fn large_bodies_share_a_bound_and_small_ones_need_none() {
        let large = || ResponseTemplate::new(200).set_body_bytes(vec![b'x'; 3 << 20]);
        let first = read(large(), 4 << 20).await.unwrap();
        let second = read(large(), 4 << 20).await.unwrap();
        let third = tokio::spawn(read(large(), 4 << 20));
        let small = ResponseTemplate::new(200).set_body_bytes(vec![b'x'; UNRESERVED_BYTES]);
        assert!(read(small, UNRESERVED_BYTES).await.is_ok());
        assert!(!third.is_finished(), "there is no room for it");
        drop(first);
        assert!(third.await.unwrap().is_ok());
        drop(second);
    }
}

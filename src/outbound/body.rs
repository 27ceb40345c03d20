//! Reading an answer, up to a bound.

use std::time::Duration;

use secrecy::SecretSlice;

use super::TransportError;

/// Why there is no body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Larger than the bound.
    #[error("gave an answer of more than {limit} bytes, which is not read")]
    TooLarge {
        /// The bound, in bytes.
        limit: usize,
    },
    /// Something went wrong on the way.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// Reads the body, and stops as soon as it is larger than `limit` bytes. They are counted after decompression, so that a small answer that unfolds
/// to a large one is stopped as well. `timeout` is the client's, for the message. A body may hold secrets, so it does not print itself.
///
/// # Errors
/// If the body is too large, or does not arrive whole.
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

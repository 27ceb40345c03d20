//! An error of the API.
//!
//! Input: why a request is refused. Output: the status and the message.
//! Invariants: data only.

/// An error: the status, and the text in `messages`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) message: String,
}

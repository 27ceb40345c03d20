//! Doppler's webhooks: `POST /webhooks/doppler`, on an address of its own.
//!
//! Input: requests of any client that reaches the address.
//! Output: one call of the handler for each webhook that a valid secret signed, at a bounded rate.
//! A standby replica forwards the webhook to the leader.
//! Invariants: a request without a valid signature changes nothing but a counter. Connections,
//! their duration and their size are bounded.
//!
//! Reading order: `secret_dir` (the secrets), [`crate::doppler::webhook`] (verification and
//! target), `receive` (what becomes of a request), `coalesce` (the rate), `forward` (from a standby
//! to the leader), [`super::serve`] (connections).

mod coalesce;
mod forward;
mod outcome;
mod receive;
mod secret_dir;

pub use forward::{FORWARDED_HEADER, Forwarder, PATH};
pub use receive::{MAX_BODY_BYTES, MAX_CONNECTIONS, OnWebhook, WebhookReceiver, router};
pub use secret_dir::{SecretDir, SecretDirError};

#[cfg(test)]
mod tests;

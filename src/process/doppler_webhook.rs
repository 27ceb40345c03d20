//! Doppler's webhooks, `POST /webhooks/doppler`, and requests to refresh a binding,
//! `POST /webhooks/refresh/NAMESPACE/NAME`, on an address of their own.
//!
//! Input: requests of any client that reaches the address.
//! Output: one call of the handler for each webhook that a valid secret signed. The rate of those of
//! Doppler is bounded here, that of the others in the pollers.
//! A standby replica forwards the webhook to the leader.
//! Invariants: a request without a valid signature changes nothing but a counter. Connections,
//! their duration and their size are bounded.
//!
//! Reading order: `secret_dir` (the secrets), [`crate::doppler::webhook`] (verification and
//! target), `endpoint` (the paths), `receive` (what becomes of a request), `coalesce` (the rate), `forward` (from a standby
//! to the leader), [`super::serve`] (connections).

mod coalesce;
mod endpoint;
mod forward;
mod outcome;
mod receive;
mod secret_dir;

pub use endpoint::DOPPLER_PATH;
pub use forward::{FORWARDED_HEADER, Forwarder, LeaderAnswer};
pub use receive::{
    Handlers, MAX_BODY_BYTES, MAX_CONNECTIONS, OnRefresh, OnWebhook, WebhookReceiver, router,
};
pub use secret_dir::{SecretDir, SecretDirError};

#[cfg(test)]
mod tests;

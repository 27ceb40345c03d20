//! Doppler's API: the download of one config, its watch stream, its webhooks, and the tokens of
//! identities.
//!
//! Input: a [`ConfigKey`], whose host [`crate::outbound::AllowedHosts`] has allowed, and the
//! last [`Snapshot`] of that key, if there is one.
//! Output: a new snapshot, "unchanged", or a [`DopplerError`] whose message says what to do.
//! [`WatchClient`] returns a stream of [`StreamEvent`]s, which carry no names and no values, or
//! a [`WatchError`] that says whether a retry can help.
//! Invariants: nothing here writes to Kubernetes or keeps values. Only `client`, `watch`, `send` and
//! `identity` see HTTP statuses. No answer of Doppler ever means "delete". [`webhook`] is pure: a signed request
//! goes in, the configs to read again come out.

mod client;
mod config_key;
mod credential;
mod error;
mod error_messages;
mod feed;
mod identity;
mod loss;
mod request;
mod send;
mod snapshot;
mod source;
mod sse;
mod watch;
mod watch_error;
pub mod webhook;

pub use client::{Client, Download};
pub use config_key::ConfigKey;
pub use credential::Credential;
pub use error::DopplerError;
pub use feed::{WatchStreams, watch_streams};
pub use identity::{Identities, Identity, IdentityError, IdentityKey, RequestJwt, Revoker};
pub use loss::{is_metadata, lost_names, missing_added};
pub use snapshot::Snapshot;
pub use source::{Configs, configs};
pub use sse::StreamEvent;
pub use watch::WatchClient;
pub use watch_error::{DisconnectCause, WatchError};

//! Doppler's API: one config, read whole, and the stream and the hooks that say when to read it again.
//!
//! In: [`ConfigKey`] (whose host [`crate::outbound::AllowedHosts`] has allowed) and, if there is one, the [`Snapshot`] they gave last. Out: a new
//! snapshot, the word that nothing changed, or a [`DopplerError`] that says what to do; from a [`WatchClient`], a stream of [`StreamEvent`]s that name nothing,
//! or a [`WatchError`] that says whether another attempt can help. This room writes nothing anywhere, keeps no values, and nobody outside it sees a
//! status code. No answer of Doppler ever means "delete". [`webhook`] is pure: a signed request in, which configs to read again out.

mod client;
mod config_key;
mod error;
mod rate_headers;
mod request;
mod snapshot;
mod sse;
mod watch;
pub mod webhook;

pub use client::{Client, Download};
pub use config_key::ConfigKey;
pub use error::DopplerError;
pub use snapshot::Snapshot;
pub use sse::StreamEvent;
pub use watch::{DisconnectCause, WatchClient, WatchError};

//! Doppler's API: one config, read whole, and the hooks that say when.
//!
//! In: [`Coordinates`] (whose host [`crate::outbound::AllowedHosts`] has allowed) and, if there is one, the [`Snapshot`] they gave last. Out: a new
//! snapshot, the word that nothing changed, or a [`DopplerError`] that says what to do. This room writes nothing anywhere, keeps no values, and
//! nobody outside it sees a status code. No answer of Doppler ever means "delete". [`hook`] is pure: a signed request in, which configs to read again out.

mod client;
mod coordinates;
mod error;
pub mod hook;
mod limits;
mod pacing;
mod snapshot;

pub use client::{Client, Download};
pub use coordinates::Coordinates;
pub use error::DopplerError;
pub use limits::RateLimit;
pub use snapshot::Snapshot;

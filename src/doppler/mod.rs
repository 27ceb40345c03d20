//! Doppler's API: one config, read whole.
//!
//! In: [`Coordinates`] (whose host [`crate::outbound::AllowedHosts`] has allowed) and, if there is one, the [`Snapshot`] they gave last. Out: a new
//! snapshot, the word that nothing changed, or a [`DopplerError`] that says what to do. This room writes nothing anywhere, keeps no values, and
//! nobody outside it sees a status code. No answer of Doppler ever means "delete".

mod client;
mod coordinates;
mod error;
mod limits;
mod pacing;
mod request;
mod snapshot;

pub use client::{Client, Download};
pub use coordinates::Coordinates;
pub use error::DopplerError;
pub use limits::RateLimit;
pub use snapshot::Snapshot;

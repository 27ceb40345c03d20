//! A stand-in for Doppler: the part of its API that clients read, over HTTP and TLS.
//!
//! Input: projects, configs, secrets, tokens and faults, as a test sets them. Output: HTTP
//! responses and watch streams, and a record of all requests.
//! Invariants: the record holds no token. The stand-in has its own thread, and stops with its
//! value. Doppler's own clients check it in `tests/doppler_clients.rs`.
//!
//! Reading order: `stand_in` is the interface for tests. `serve` listens, `door` applies faults and
//! rate limits and records each request, `answers` responds. `state` has the data, `identities` the
//! tokens that are exchanged for those of an OIDC provider, `streams` the open watch streams, and
//! `watch` opens them.

mod answers;
mod api_error;
mod config_id;
mod door;
mod faults;
mod formats;
mod identities;
mod limits;
mod names;
mod requests;
mod serve;
mod shared;
mod stand_in;
mod state;
mod streams;
mod watch;

pub use faults::{Fault, FaultId};
pub use identities::IdentityRules;
pub use limits::RateLimit;
pub use requests::{Counts, DOWNLOAD_PATH, RecordedRequest, WATCH_PATH, fingerprint, hex};
pub use stand_in::Doppler;
pub use state::Quirks;
pub use streams::{Framing, WatchMode};

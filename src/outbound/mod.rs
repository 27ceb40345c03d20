//! The one way out: which hosts may be asked, with which HTTP client, and how much of an answer is read.
//!
//! In: a URL that a binding names, time limits, certificate authorities. Out: leave to go there ([`AllowedHosts`]), a [`client`] or a
//! [`stream_client`] that follows no redirect, a body that is bounded ([`read_bounded`]), and errors that say what to do ([`TransportError`]). It
//! knows nothing of Prefect or Doppler, and never puts a URL's path or query, a header or a body into an error.

mod address;
mod body;
mod client;
mod hosts;
mod in_cluster;
mod pattern;
mod transport;

pub use body::{BodyError, read_bounded};
#[cfg(test)]
pub(crate) use client::install_crypto_provider;
pub use client::{ClientError, client, direct_client, stream_client};
pub use hosts::{AllowedHosts, HostRefused};
pub use in_cluster::in_cluster_url;
pub use pattern::PatternError;
pub use transport::TransportError;

//! HTTP to servers outside the API server: allowed hosts, HTTP clients, bounded bodies.
//!
//! Input: a URL from a binding, time limits, certificate authorities.
//! Output: a decision about the host ([`AllowedHosts`]), a [`client`] or a [`stream_client`], a
//! body ([`read_bounded`]), and errors that state the fix ([`TransportError`]).
//! Invariants: no client follows a redirect, and each body is bounded. No error contains a path, a
//! query, a header or a body. This module knows neither Prefect nor Doppler.

mod address;
mod body;
mod ca_bundle;
mod certificate_problem;
mod client;
mod client_error;
mod hosts;
mod in_cluster;
mod pattern;
mod services;
mod transport;

pub use body::{Body, BodyError, read_bounded};
#[cfg(test)]
pub(crate) use client::install_crypto_provider;
pub use client::{client, direct_client, stream_client};
pub use client_error::ClientError;
pub use hosts::{AllowedHosts, HostRefused};
pub use in_cluster::in_cluster_url;
pub use pattern::PatternError;
pub use services::{AllowedServers, AllowedServices, ServiceName};
pub use transport::TransportError;

//! The Prefect server: where it is, the block on it, and its work pools.
//!
//! In: the binding's `server` stanza and the values it refers to ([`connection`]). Out: a block's three fields ([`block`]), work pools and the namespaces
//! of their deployments ([`client`]), by a client that is shared ([`clients`], [`connection_interner`]), and word of what has changed ([`event_socket`]). Only this room knows
//! Prefect's paths, headers and statuses.

pub mod block;
pub mod client;
pub mod clients;
pub mod connection;
pub mod connection_interner;
mod csrf;
mod error;
mod event;
pub mod event_socket;

pub use client::{BlockDocument, Client, DeploymentNamespaces, WorkPool};
pub use clients::Clients;
pub use connection::{Connection, ServerError};
pub use connection_interner::ConnectionInterner;
pub use error::PrefectError;
pub use event::ServerEvent;
pub use event_socket::{SocketError, events};

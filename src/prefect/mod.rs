//! Prefect's API: blocks, work pools, and the event socket of one server.
//!
//! Input: the `server` field of a binding, and the values that it references ([`connection`]).
//! Output: [`source`] polls blocks; [`client`] reads work pools, and writes
//! them by `template_edit`; [`feed`] subscribes to the event socket; `run_events` sends events about
//! flow runs. An error of a request becomes a `Failure` in [`source`].
//! Invariants: only this module knows Prefect's paths, headers and statuses.

pub mod block;
mod block_document;
pub mod client;
pub mod connection;
mod connection_interner;
mod csrf;
mod error;
mod event;
pub mod event_socket;
mod feed;
mod flow_run;
mod http_client;
mod json_request;
mod page;
mod refused_template;
mod request_headers;
mod run_events;
mod source;
mod template_edit;
mod version;
mod work_pool;

pub use block_document::{BlockDocument, ResolvedBlock};
pub use client::Client;
pub use connection::{Connection, ServerError};
pub use connection_interner::ConnectionInterner;
pub use error::PrefectError;
pub use event::ServerEvent;
pub use event_socket::{SocketError, events};
pub use feed::{EventSockets, event_sockets};
pub use flow_run::{FlowRun, Named};
pub use run_events::{Chooser, RunEvent};
pub use source::{BlockKey, Blocks, blocks};
pub use version::ServerVersion;
pub use work_pool::{DeploymentGroup, DeploymentOverrides, WorkPool};

//! What every step of `detach` needs.
//!
//! Input: flags.
//! Output: the clients of the API server and of Prefect, and the deadline.
//! Invariants: the output contains no secret value.

use std::{
    io::{self, Write},
    time::Duration,
};

use kube::Client;
use tokio::time::Instant;

use crate::{
    controller::{
        cluster_servers::ClusterServers, key_refs::KeyRefs, object_cache::ObjectCache,
        service_types::ServiceTypes,
    },
    outbound::AllowedServers,
    prefect::ConnectionInterner,
    printable::{MAX_MESSAGE_BYTES, one_line},
    secret::SecretClient,
};

/// Timeout of one step at the API server.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Delay before a failed step is retried.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Everything that a step needs.
pub(super) struct Detacher {
    pub(super) client: Client,
    pub(super) secrets: SecretClient,
    pub(super) connections: ConnectionInterner,
    pub(super) references: KeyRefs,
    pub(super) objects: ObjectCache,
    pub(super) servers: AllowedServers,
    pub(super) service_types: ServiceTypes,
    pub(super) cluster_servers: ClusterServers,
    pub(super) keep_secrets: bool,
    /// Nothing is retried after it.
    pub(super) deadline: Instant,
}

/// Prints one line, whatever names are in it.
pub(super) fn print_line(line: &str) -> io::Result<()> {
    let line = one_line(line, MAX_MESSAGE_BYTES);
    writeln!(io::stdout(), "{line}")
}

//! The blocks that bindings read: one poller for each block.
//!
//! Input: a [`BlockKey`], and the client of its server.
//! Output: a [`ResolvedBlock`], or a [`Failure`].
//! Invariants: bindings that name the same block with the same credentials and pointer share one
//! read.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    block_document::ResolvedBlock, connection::Connection, connection_interner::ConnectionInterner,
    error::PrefectError,
};
use crate::{
    crd::{BindingRef, BlockSpec},
    failure::Failure,
    metrics::Metrics,
    upstream::{
        change_feed::ChangeFeed,
        poller::{Enqueue, Poll, PollerSpec, Pollers, ReadFn},
    },
};

/// A block of a Prefect server, as it is read with these credentials.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// The server, and how it is reached.
    pub connection: Arc<Connection>,
    /// Slug of the block type.
    pub type_slug: String,
    /// Name of the block document.
    pub name: String,
    /// Where in the data the fields are. It is part of the key so that the poller keeps the fields
    /// and not the data, which may be large.
    pub pointer: Option<String>,
}

impl BlockKey {
    /// The block that a binding names.
    #[must_use]
    pub fn new(connection: Arc<Connection>, block: &BlockSpec) -> Self {
        Self {
            connection,
            type_slug: block.type_slug.clone(),
            name: block.name.clone(),
            pointer: block.pointer.clone(),
        }
    }
}

/// Pollers of blocks.
pub type Blocks = Pollers<BindingRef, BlockKey, ResolvedBlock>;

impl From<PrefectError> for Failure {
    fn from(error: PrefectError) -> Self {
        Self {
            reason: error.reason(),
            message: error.to_string(),
            retry_after: error.retry_after(),
        }
    }
}

/// Pollers of blocks, which read through the clients of `connections`. Without a feed, blocks are
/// only polled.
#[must_use]
pub fn blocks(
    connections: Arc<ConnectionInterner>,
    feed: Option<ChangeFeed<BlockKey>>,
    metrics: Arc<Metrics>,
    enqueue: Enqueue<BindingRef>,
    shutdown: CancellationToken,
) -> Blocks {
    let read: ReadFn<BlockKey, ResolvedBlock> = Box::new(move |key: BlockKey, last, request| {
        let connections = Arc::clone(&connections);
        Box::pin(async move {
            let document = match connections.client(&key.connection) {
                Ok(client) => client.block(&key.type_slug, &key.name, &request).await,
                Err(error) => Err(error),
            };
            let block = document.map(|document| document.resolve(key.pointer.as_deref()));
            match block {
                Ok(block) if last.as_deref() == Some(&block) => Ok(Poll::Unchanged),
                Ok(block) => Ok(Poll::Changed(block)),
                Err(error) => Err(Failure::from(error)),
            }
        })
    });
    let spec = PollerSpec {
        upstream: "prefect",
        read,
        tenant: BindingRef::namespace,
        feed,
    };
    Pollers::new(spec, metrics, enqueue, shutdown)
}

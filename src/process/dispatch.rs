//! Words of changes, and the sources that they concern.
//!
//! In: [`Word`]s, from links and from upstreams that are back. Out: pushes to the sources and pools that depend on what has changed, and to no other. It
//! reads nothing itself.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    controller::context::{Blocks, Configs},
    inject::Pools,
    prefect::{Connection, ServerEvent},
};

/// A Prefect server tells of a change before it is committed: it is read at once, and again after these.
const ECHOES: [Duration; 2] = [Duration::from_millis(60), Duration::from_secs(1)];
/// Echoes that may wait; beyond that the poll has to do.
const MOST_ECHOES: usize = 1024;

/// What is to be delivered.
pub(super) enum ChangeEvent {
    /// A Prefect server that was dead has answered.
    PrefectRecovered(String),
    /// A host of Doppler that was dead has answered.
    DopplerRecovered(String),
    /// A Prefect server reported a change.
    Received(Arc<Connection>, ServerEvent, Instant),
}

/// Delivers words to the sources that they concern.
pub(super) async fn deliver(
    mut heard: mpsc::UnboundedReceiver<ChangeEvent>,
    blocks: Blocks,
    configs: Configs,
    pools: Pools,
    shutdown: CancellationToken,
) {
    let mut echoes = FuturesUnordered::new();
    loop {
        let word = tokio::select! {
            () = shutdown.cancelled() => return,
            word = heard.recv() => word,
            Some((connection, event, at)) = echoes.next() => {
                pass_on(&blocks, &pools, &connection, &event, at);
                continue;
            }
        };
        match word {
            Some(ChangeEvent::PrefectRecovered(name)) => {
                blocks.retry_failed(|key| {
                    key.connection.api_url.origin().ascii_serialization() == name
                });
                pools.trigger(&|server, _| server.starts_with(&name));
            }
            Some(ChangeEvent::DopplerRecovered(name)) => {
                configs.retry_failed(|key| key.host.origin().ascii_serialization() == name);
            }
            Some(ChangeEvent::Received(connection, event, at)) => {
                if pass_on(&blocks, &pools, &connection, &event, at) && echoes.len() < MOST_ECHOES {
                    for echo in ECHOES {
                        let (connection, event) = (Arc::clone(&connection), event.clone());
                        echoes.push(async move {
                            sleep(echo).await;
                            (connection, event, at)
                        });
                    }
                }
            }
            None => return,
        }
    }
}

/// Has whatever a change concerns read again. True if it concerns anything.
fn pass_on(
    blocks: &Blocks,
    pools: &Pools,
    connection: &Arc<Connection>,
    event: &ServerEvent,
    at: Instant,
) -> bool {
    match event {
        ServerEvent::Block { id, name } => blocks.refresh(at, |key, document| {
            key.connection == *connection
                && (name.as_ref() == Some(&key.name)
                    || document.is_some_and(|document| document.includes_document(id)))
        }),
        ServerEvent::Pool { name } => {
            pools.trigger(&|server, pool| server == connection.api_url.as_str() && pool == name)
        }
        ServerEvent::Heartbeat => false,
    }
}

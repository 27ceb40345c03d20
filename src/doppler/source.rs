//! The configs that bindings read: one poller for each config key.
//!
//! Input: a [`ConfigKey`], and the client of Doppler's API.
//! Output: a [`Snapshot`], or a [`Failure`].
//! Invariants: bindings with equal config keys share one download.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    client::{Client, Download},
    config_key::ConfigKey,
    error::DopplerError,
    snapshot::Snapshot,
};
use crate::{
    crd::BindingRef,
    failure::Failure,
    metrics::Metrics,
    upstream::{
        change_feed::ChangeFeed,
        poller::{Enqueue, Poll, PollerSpec, Pollers, ReadFn},
    },
};

/// Pollers of configs.
pub type Configs = Pollers<BindingRef, ConfigKey, Snapshot>;

impl From<DopplerError> for Failure {
    fn from(error: DopplerError) -> Self {
        Self {
            reason: error.reason(),
            message: error.to_string(),
            retry_after: error.retry_after(),
        }
    }
}

/// Pollers of configs, which download with `client`. Without a feed, configs are only polled.
#[must_use]
pub fn configs(
    client: Arc<Client>,
    feed: Option<ChangeFeed<ConfigKey>>,
    metrics: Arc<Metrics>,
    enqueue: Enqueue<BindingRef>,
    shutdown: CancellationToken,
) -> Configs {
    let read: ReadFn<ConfigKey, Snapshot> = Box::new(
        move |key: ConfigKey, last: Option<Arc<Snapshot>>, request| {
            let client = Arc::clone(&client);
            Box::pin(async move {
                let last = last.as_deref();
                match client.download(&key, last, &request).await {
                    Ok(download) => Ok(poll_of(download, last)),
                    Err(error) => Err(Failure::from(error)),
                }
            })
        },
    );
    let spec = PollerSpec {
        upstream: "doppler",
        read,
        feed,
    };
    Pollers::new(spec, metrics, enqueue, shutdown)
}

/// A download with the values of the last one still counts as changed: its new tag lets Doppler
/// answer the next read with 304. An empty config has no such answer.
fn poll_of(download: Download, last: Option<&Snapshot>) -> Poll<Snapshot> {
    match download {
        Download::Unchanged => Poll::Unchanged,
        Download::Changed(snapshot) if snapshot.is_empty() && last == Some(&snapshot) => {
            Poll::Unchanged
        }
        Download::Changed(snapshot) => Poll::Changed(snapshot),
    }
}

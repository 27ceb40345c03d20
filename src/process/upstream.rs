//! The sources of blocks and configs: how a key is read, and what counts as new.
//!
//! In: clients. Out: [`Blocks`] and [`Configs`]. Each read is counted by its outcome.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    controller::{
        context::{BlockKey, Blocks, Configs},
        wake::BindingRef,
    },
    doppler::{self, Coordinates, Download, Snapshot},
    metrics::{Metrics, ReadLabels},
    outbound::ClientError,
    prefect::{BlockDocument, Clients},
    source::{Answer, Fault, Read, Sources, Wake},
};

/// Blocks, read through `clients`.
#[must_use]
pub fn blocks(
    clients: Arc<Clients>,
    metrics: Arc<Metrics>,
    wake: Wake<BindingRef>,
    in_flight: usize,
    shutdown: CancellationToken,
) -> Blocks {
    let read: Read<BlockKey, BlockDocument> = Box::new(move |key: BlockKey, last| {
        let (clients, metrics) = (Arc::clone(&clients), Arc::clone(&metrics));
        Box::pin(async move {
            let document = match clients.get(&key.connection) {
                Ok(client) => client.block(&key.type_slug, &key.name).await,
                Err(error) => Err(error),
            };
            let answer = document
                .map(|document| {
                    if last.as_deref() == Some(&document) {
                        Answer::Same
                    } else {
                        Answer::New(document)
                    }
                })
                .map_err(|error| Fault {
                    reason: error.reason(),
                    message: error.to_string(),
                    retry_after: error.retry_after(),
                });
            count(&metrics, "prefect", &answer);
            answer
        })
    });
    Sources::new(read, wake, in_flight, shutdown)
}

/// Configs of Doppler.
///
/// # Errors
/// If no HTTP client can be made.
pub fn configs(
    timeout: Duration,
    metrics: &Arc<Metrics>,
    wake: Wake<BindingRef>,
    in_flight: usize,
    shutdown: CancellationToken,
) -> Result<Configs, ClientError> {
    let client = Arc::new(doppler::Client::new(timeout)?);
    let metrics = Arc::clone(metrics);
    let read: Read<Coordinates, Snapshot> =
        Box::new(move |key: Coordinates, last: Option<Arc<Snapshot>>| {
            let (client, metrics) = (Arc::clone(&client), Arc::clone(&metrics));
            Box::pin(async move {
                let answer = client
                    .download(&key, last.as_deref())
                    .await
                    .map(|download| match download {
                        Download::Unchanged => Answer::Same,
                        // A new tag of the same content is taken in, so that the next read can be answered with 304.
                        Download::New(snapshot)
                            if snapshot.is_empty() && last.as_deref() == Some(&snapshot) =>
                        {
                            Answer::Same
                        }
                        Download::New(snapshot) => Answer::New(snapshot),
                    })
                    .map_err(|error| Fault {
                        reason: error.reason(),
                        message: error.to_string(),
                        retry_after: error.retry_after(),
                    });
                count(&metrics, "doppler", &answer);
                answer
            })
        });
    Ok(Sources::new(read, wake, in_flight, shutdown))
}

fn count<V>(metrics: &Metrics, upstream: &'static str, answer: &Result<Answer<V>, Fault>) {
    let outcome = match answer {
        Ok(Answer::Same) => "same",
        Ok(Answer::New(_)) => "new",
        Err(fault) => fault.reason.as_str(),
    };
    metrics
        .reads
        .get_or_create(&ReadLabels { upstream, outcome })
        .inc();
}

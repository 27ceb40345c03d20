//! Dispatches change events to the pollers and work pools that they affect.
//!
//! Input: [`ChangeEvent`]s of event sockets, and of hosts that answer again.
//! Output: triggers of the affected blocks, configs and work pools, and of no other.
//! Invariants: it reads nothing itself. The queue of events is bounded; if events were dropped, all
//! blocks and work pools are read again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    doppler::Configs,
    inject::Pools,
    prefect::{Blocks, Connection, ServerEvent},
};

/// A Prefect server reports a change before it commits it. After the first read, the affected
/// objects are read again after each of these delays.
const REREAD_DELAYS: [Duration; 2] = [Duration::from_millis(60), Duration::from_secs(1)];
/// The maximum number of pending re-reads. Beyond it, polling has to suffice.
const MAX_PENDING_REREADS: usize = 1024;

/// The maximum number of events that wait to be dispatched.
const MAX_QUEUED_EVENTS: usize = 4096;

/// Something that makes pollers read again.
pub(super) enum ChangeEvent {
    /// A Prefect server answers again after failures.
    PrefectRecovered(String),
    /// A host of Doppler answers again after failures.
    DopplerRecovered(String),
    /// A Prefect server reported a change.
    Received(Arc<Connection>, ServerEvent, Instant),
}

/// Queues change events for the dispatcher.
#[derive(Clone)]
pub(super) struct EventSender {
    events: mpsc::Sender<ChangeEvent>,
    has_dropped: Arc<AtomicBool>,
}

/// The events that are to be dispatched.
pub(super) struct EventQueue {
    events: mpsc::Receiver<ChangeEvent>,
    has_dropped: Arc<AtomicBool>,
}

/// The queue of events, and who fills it.
pub(super) fn event_queue() -> (EventSender, EventQueue) {
    let (sender, events) = mpsc::channel(MAX_QUEUED_EVENTS);
    let has_dropped = Arc::new(AtomicBool::new(false));
    let sender = EventSender {
        events: sender,
        has_dropped: Arc::clone(&has_dropped),
    };
    (
        sender,
        EventQueue {
            events,
            has_dropped,
        },
    )
}

impl EventSender {
    /// Queues an event, unless very many wait. A closed queue means that the process shuts down.
    pub(super) fn send(&self, event: ChangeEvent) {
        if self.events.try_send(event).is_err() {
            self.has_dropped.store(true, SeqCst);
        }
    }
}

/// Receives change events and triggers what they affect.
pub(super) struct Dispatcher {
    pub(super) blocks: Blocks,
    pub(super) configs: Configs,
    pub(super) pools: Pools,
}

impl Dispatcher {
    /// Dispatches events until `shutdown`.
    pub(super) async fn run(self, mut queue: EventQueue, shutdown: CancellationToken) {
        let mut rereads = FuturesUnordered::new();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = queue.events.recv() => event,
                Some((connection, event, at)) = rereads.next() => {
                    self.trigger_affected(&connection, &event, at);
                    continue;
                }
            };
            if queue.has_dropped.swap(false, SeqCst) {
                self.trigger_all();
            }
            match event {
                Some(ChangeEvent::PrefectRecovered(origin)) => {
                    self.blocks.retry_failed(|key| {
                        key.connection.api_url.origin().ascii_serialization() == origin
                    });
                    self.pools.trigger(&|server, _| server.starts_with(&origin));
                }
                Some(ChangeEvent::DopplerRecovered(origin)) => {
                    self.configs
                        .retry_failed(|key| key.host.origin().ascii_serialization() == origin);
                }
                Some(ChangeEvent::Received(connection, event, at)) => {
                    if self.trigger_affected(&connection, &event, at)
                        && rereads.len() < MAX_PENDING_REREADS
                    {
                        for delay in REREAD_DELAYS {
                            let (connection, event) = (Arc::clone(&connection), event.clone());
                            rereads.push(async move {
                                sleep(delay).await;
                                (connection, event, at)
                            });
                        }
                    }
                }
                None => return,
            }
        }
    }

    /// Triggers a read of everything whose events may have been dropped.
    fn trigger_all(&self) {
        self.blocks.refresh(Instant::now(), |_, _| true);
        self.configs.retry_failed(|_| true);
        self.pools.trigger(&|_, _| true);
    }

    /// Triggers a read of everything that a change affects. True if there is any.
    fn trigger_affected(
        &self,
        connection: &Arc<Connection>,
        event: &ServerEvent,
        at: Instant,
    ) -> bool {
        match event {
            ServerEvent::Block { id, name } => self.blocks.refresh(at, |key, document| {
                key.connection == *connection
                    && (name.as_ref() == Some(&key.name)
                        || document.is_some_and(|document| document.includes_document(id)))
            }),
            ServerEvent::Pool { name } => self
                .pools
                .trigger(&|server, pool| server == connection.api_url.as_str() && pool == name),
            // A run has changed nothing: `run_starts` follows it.
            ServerEvent::RunPending(_) | ServerEvent::RunStarted(_) | ServerEvent::Heartbeat => {
                false
            }
        }
    }
}

//! The configs that bindings read: one poller for each config key.
//!
//! Input: a [`ConfigKey`], and the client of Doppler's API.
//! Output: a [`Snapshot`], or a [`Failure`].
//! Invariants: bindings with equal config keys share one download. An answer that is no config is
//! never a value, and one that lacks most names of the last one only once a later read confirms it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    client::{Client, Download},
    config_key::ConfigKey,
    error::DopplerError,
    loss::{Loss, loss},
    request::host_and_port,
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
                let downloaded = client.download(&key, last, &request).await;
                downloaded
                    .and_then(|download| {
                        poll_of(download, last, &key, request.interval, Instant::now())
                    })
                    .map_err(Failure::from)
            })
        },
    );
    let spec = PollerSpec {
        upstream: "doppler",
        read,
        tenant: BindingRef::namespace,
        feed,
    };
    Pollers::new(spec, metrics, enqueue, shutdown)
}

/// Polls have jitter: a read that comes after this part of the interval is the next poll.
const MIN_INTERVAL: f64 = 0.8;

/// A download with the values of the last one still counts as changed: its new tag lets Doppler
/// answer the next read with 304. An empty config has no such answer.
///
/// # Errors
/// If the download is no config, or lacks most names of the last one until a read one interval later
/// confirms it.
fn poll_of(
    download: Download,
    last: Option<&Snapshot>,
    key: &ConfigKey,
    interval: Duration,
    now: Instant,
) -> Result<Poll<Snapshot>, DopplerError> {
    let (snapshot, last) = match (download, last) {
        (Download::Unchanged, last) => {
            last.inspect(|last| last.clear_loss());
            return Ok(Poll::Unchanged);
        }
        (Download::Changed(snapshot), None) => return Ok(Poll::Changed(snapshot)),
        (Download::Changed(snapshot), Some(last)) => (snapshot, last),
    };
    let host = || host_and_port(&key.host);
    let before: Vec<&str> = last.names().collect();
    let after: Vec<&str> = snapshot.names().collect();
    let loss = loss(before.iter().copied(), after.iter().copied());
    match loss {
        None => {
            last.clear_loss();
            if snapshot.is_empty() && *last == snapshot {
                return Ok(Poll::Unchanged);
            }
            Ok(Poll::Changed(snapshot))
        }
        Some(Loss::NotAConfig(missing)) => Err(DopplerError::ConfigIncomplete {
            host: host(),
            missing: missing.join(", "),
        }),
        Some(Loss::Most(names)) => {
            let since = last.record_loss(now);
            let age = now.saturating_duration_since(since);
            if age > Duration::ZERO && age >= interval.mul_f64(MIN_INTERVAL) {
                return Ok(Poll::Changed(snapshot.confirmed()));
            }
            Err(DopplerError::NamesLost {
                host: host(),
                lost: names,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    const INTERVAL: Duration = Duration::from_mins(1);

    fn key() -> ConfigKey {
        ConfigKey {
            host: "https://api.doppler.com".parse().unwrap(),
            credential: "t".into(),
            project: "p".to_owned(),
            config: "c".to_owned(),
            transformer: None,
        }
    }

    fn snapshot(names: impl IntoIterator<Item = &'static str>) -> Snapshot {
        let values = names.into_iter().map(|name| (name.to_owned(), "v".into()));
        Snapshot::new(values.collect(), None)
    }

    fn full() -> Snapshot {
        let added = ["DOPPLER_PROJECT", "DOPPLER_CONFIG", "DOPPLER_ENVIRONMENT"];
        snapshot(added.into_iter().chain(["A", "B", "C", "D", "E", "F", "G"]))
    }

    fn poll(last: &Snapshot, after: &Snapshot, now: Instant) -> Result<Poll<Snapshot>, Reason> {
        let download = Download::Changed(after.clone());
        poll_of(download, Some(last), &key(), INTERVAL, now).map_err(|error| error.reason())
    }

    #[test]
    fn an_answer_that_is_no_config_is_never_accepted() {
        let (last, mut now) = (full(), Instant::now());
        for _ in 0..10 {
            for after in [snapshot([]), snapshot(["A", "B", "C", "D", "E", "F", "G"])] {
                assert_eq!(poll(&last, &after, now), Err(Reason::ConfigIncomplete));
            }
            now += INTERVAL;
        }
        assert_eq!(poll(&last, &full(), now), Ok(Poll::Changed(full())));
    }

    #[test]
    fn a_loss_of_most_names_is_accepted_one_interval_later() {
        let (last, start) = (full(), Instant::now());
        let added = ["DOPPLER_PROJECT", "DOPPLER_CONFIG", "DOPPLER_ENVIRONMENT"];
        let few = snapshot(added.into_iter().chain(["A"]));
        let refused = Err(Reason::NamesLost);
        assert_eq!(poll(&last, &few, start), refused);
        // A notification may cause a read at once.
        assert_eq!(poll(&last, &few, start + Duration::from_secs(1)), refused);
        // An answer with the names begins anew.
        assert_eq!(
            poll(&last, &full(), start + INTERVAL / 2),
            Ok(Poll::Changed(full()))
        );
        let again = start + INTERVAL;
        assert_eq!(poll(&last, &few, again), refused);
        let confirmed = poll(&last, &few, again + INTERVAL).unwrap();
        let Poll::Changed(confirmed) = confirmed else {
            panic!("unchanged")
        };
        assert!(confirmed.is_confirmed() && confirmed == few);
    }

    #[test]
    fn an_empty_config_that_never_had_added_names_is_confirmed_too() {
        let (last, now) = (snapshot(["A"]), Instant::now());
        assert_eq!(poll(&last, &snapshot([]), now), Err(Reason::NamesLost));
        assert!(poll(&last, &snapshot([]), now + INTERVAL).is_ok());
        assert_eq!(poll(&snapshot([]), &snapshot([]), now), Ok(Poll::Unchanged));
    }
}

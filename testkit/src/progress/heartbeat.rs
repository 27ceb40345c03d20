//! The lines of a step that runs for long.
//!
//! Input: what the step does, and how many parts are done. Output: a line in each interval.
//! Invariants: no line after the heartbeat is dropped, except one that is being written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// A thread that writes a line in each interval.
#[derive(Debug)]
pub(super) struct Heartbeat {
    done: Arc<AtomicUsize>,
    /// The thread ends when this is dropped.
    _alive: Sender<()>,
}

impl Heartbeat {
    pub(super) fn start(
        what: &str,
        total: Option<usize>,
        every: Duration,
        write: impl Fn(&str) + Send + 'static,
    ) -> Self {
        let (alive, ended) = channel();
        let done = Arc::new(AtomicUsize::new(0));
        let (what, counter, started_at) = (what.to_owned(), Arc::clone(&done), Instant::now());
        // A failure to start the thread only means that the lines are missing.
        let _ = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    let seconds = started_at.elapsed().as_secs();
                    let count = total.map_or_else(String::new, |total| {
                        format!(", {} of {total}", counter.load(Ordering::Relaxed))
                    });
                    write(&format!("{what} … {seconds} s{count}"));
                }
            });
        Self {
            done,
            _alive: alive,
        }
    }

    /// Sets how many parts are done.
    pub(super) fn set(&self, done: usize) {
        self.done.store(done, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const EVERY: Duration = Duration::from_millis(10);

    #[test]
    fn reports_progress_until_it_is_dropped() {
        let (sender, lines) = channel();
        let heartbeat = Heartbeat::start("building", None, EVERY, move |text| {
            let _ = sender.send(text.to_owned());
        });
        assert_eq!(lines.recv_timeout(LIMIT).unwrap(), "building … 0 s");
        drop(heartbeat);
        // The channel closes when the thread has ended.
        while lines.recv_timeout(LIMIT).is_ok() {}
        assert_eq!(
            lines.recv_timeout(LIMIT),
            Err(RecvTimeoutError::Disconnected)
        );
    }

    #[test]
    fn reports_the_count_of_a_counted_step() {
        let (sender, lines) = channel();
        let heartbeat = Heartbeat::start("syncing", Some(3), EVERY, move |text| {
            let _ = sender.send(text.to_owned());
        });
        heartbeat.set(2);
        let counted = std::iter::from_fn(|| lines.recv_timeout(LIMIT).ok())
            .find(|line| !line.ends_with("0 of 3"));
        assert_eq!(counted.unwrap(), "syncing … 0 s, 2 of 3");
    }
}

//! Pure: how the sources of one upstream fared.
//!
//! Input: what came of the requests of each source, and how long they took.
//! Output: whether a source is proven, and the [`Lane`] in which its requests wait.
//! Invariants: bounded; the least recently used half makes room. A source is known only by a digest.
//! It reads no clock.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// The maximum number of sources that are kept for each upstream.
const MAX_SOURCES: usize = 16_384;
/// So many host failures in a row make a proven source unproven: one may be an accident.
const MAX_FAILURES: u32 = 2;
/// An exchange that takes longer than this is slow.
const SLOW_AFTER: Duration = Duration::from_secs(2);
/// For how long the last quick success shows that the host itself is quick.
const QUICK_FOR: Duration = Duration::from_mins(10);
/// For how long the last success of a source shows that the host answers.
const PROVEN_FOR: Duration = Duration::from_hours(1);

/// Digest of everything that decides what a request returns: credentials, URL and headers.
pub type SourceId = [u8; 16];

/// Whether an exchange that took so long was slow.
pub(super) fn is_slow(elapsed: Duration) -> bool {
    elapsed >= SLOW_AFTER
}

/// In which queue the requests of a source wait. Each lane has a limit of requests in flight, so
/// that sources that stall leave room for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// The source is proven and quick.
    Proven,
    /// The source is new, or has failed.
    Unproven,
    /// The last exchange of the source was slow.
    Slow,
}

impl Lane {
    /// How many lanes there are.
    pub(super) const COUNT: usize = 3;
    /// All lanes.
    pub(super) const ALL: [Self; Self::COUNT] = [Self::Proven, Self::Unproven, Self::Slow];
}

/// What is known of one source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    succeeded_at: Option<Instant>,
    /// Failures in a row that may concern the host.
    failures: u32,
    /// When the last of them was recorded.
    pub(super) failed_at: Option<Instant>,
    is_slow: bool,
    used_at: Instant,
}

impl Source {
    const fn new(now: Instant) -> Self {
        Self {
            succeeded_at: None,
            failures: 0,
            failed_at: None,
            is_slow: false,
            used_at: now,
        }
    }

    /// Whether a request of this source has ever succeeded.
    pub(super) const fn has_succeeded(&self) -> bool {
        self.succeeded_at.is_some()
    }

    /// Whether the source succeeded before, and at most once failed since.
    pub(super) const fn is_proven(&self) -> bool {
        self.has_succeeded() && self.failures < MAX_FAILURES
    }
}

/// The sources of one upstream.
#[derive(Debug, Default)]
pub(super) struct Sources {
    by_id: HashMap<SourceId, Source>,
    quick_success_at: Option<Instant>,
}

impl Sources {
    /// What is known of a source.
    pub(super) fn get(&self, id: SourceId) -> Option<&Source> {
        self.by_id.get(&id)
    }

    /// Whether the source is proven.
    pub(super) fn is_proven(&self, id: SourceId) -> bool {
        self.get(id).is_some_and(Source::is_proven)
    }

    /// Whether any source is proven, and succeeded lately.
    pub(super) fn any_proven(&self, now: Instant) -> bool {
        self.by_id.values().any(|source| {
            source.is_proven()
                && source
                    .succeeded_at
                    .is_some_and(|at| now.saturating_duration_since(at) < PROVEN_FOR)
        })
    }

    /// The lane of a source's next request.
    pub(super) fn lane(&self, id: SourceId) -> Lane {
        match self.get(id) {
            Some(source) if source.is_slow => Lane::Slow,
            Some(source) if source.is_proven() => Lane::Proven,
            _ => Lane::Unproven,
        }
    }

    /// How many requests of the lane may be in flight, of `max_in_flight` of all lanes. Sources that
    /// stall get a quarter, as long as another source shows that the host is quick.
    pub(super) fn max_in_flight(&self, lane: Lane, max_in_flight: usize, now: Instant) -> usize {
        let quick = |at| now.saturating_duration_since(at) < QUICK_FOR;
        match lane {
            Lane::Proven => max_in_flight,
            Lane::Slow if self.quick_success_at.is_some_and(quick) => (max_in_flight / 4).max(1),
            Lane::Unproven | Lane::Slow => max_in_flight - max_in_flight / 8,
        }
    }

    /// The host answered with what was requested.
    pub(super) fn record_success(&mut self, id: SourceId, now: Instant) {
        let source = self.source(id, now);
        source.succeeded_at = Some(now);
        source.failures = 0;
    }

    /// The host answered otherwise: it is well, whatever that means for the source.
    pub(super) fn record_answer(&mut self, id: SourceId, now: Instant) {
        self.source(id, now).failures = 0;
    }

    /// The host did not answer.
    pub(super) fn record_failure(&mut self, id: SourceId, now: Instant) {
        let source = self.source(id, now);
        source.failures = source.failures.saturating_add(1);
        source.failed_at = Some(now);
    }

    /// How long an exchange took, whatever came of it.
    pub(super) fn record_duration(&mut self, id: SourceId, elapsed: Duration, now: Instant) {
        let is_slow = is_slow(elapsed);
        let source = self.source(id, now);
        source.is_slow = is_slow;
        if !is_slow && source.succeeded_at == Some(now) {
            self.quick_success_at = Some(now);
        }
    }

    fn source(&mut self, id: SourceId, now: Instant) -> &mut Source {
        if self.by_id.len() >= MAX_SOURCES && !self.by_id.contains_key(&id) {
            self.evict_half();
        }
        let source = self.by_id.entry(id).or_insert_with(|| Source::new(now));
        source.used_at = now;
        source
    }

    fn evict_half(&mut self) {
        let mut used: Vec<Instant> = self.by_id.values().map(|source| source.used_at).collect();
        let middle = used.len() / 2;
        let (_, median, _) = used.select_nth_unstable(middle);
        let median = *median;
        self.by_id.retain(|_, source| source.used_at > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SourceId = [1; 16];
    const QUICK: Duration = Duration::from_millis(10);

    fn succeed(sources: &mut Sources, id: SourceId, elapsed: Duration, now: Instant) {
        sources.record_success(id, now);
        sources.record_duration(id, elapsed, now);
    }

    #[test]
    fn a_source_is_proven_by_a_success_and_not_by_another_answer() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        assert_eq!(sources.lane(A), Lane::Unproven);
        sources.record_answer(A, now);
        assert!(!sources.is_proven(A));
        succeed(&mut sources, A, QUICK, now);
        assert_eq!(sources.lane(A), Lane::Proven);
        sources.record_answer(A, now);
        assert!(sources.is_proven(A), "its block may be missing for a while");
    }

    #[test]
    fn one_failure_is_forgiven_and_the_second_is_not() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        succeed(&mut sources, A, QUICK, now);
        sources.record_failure(A, now);
        assert!(sources.is_proven(A));
        sources.record_failure(A, now);
        assert!(!sources.is_proven(A) && !sources.any_proven(now));
        assert_eq!(sources.lane(A), Lane::Unproven);
        sources.record_answer(A, now);
        assert!(sources.is_proven(A), "the host answers it again");
        assert!(sources.any_proven(now));
        assert!(!sources.any_proven(now + PROVEN_FOR), "that was long ago");
    }

    #[test]
    fn slow_sources_get_a_quarter_while_another_one_is_quick() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        sources.record_duration(A, SLOW_AFTER, now);
        assert_eq!(sources.lane(A), Lane::Slow);
        assert_eq!(sources.max_in_flight(Lane::Slow, 8, now), 7, "all are slow");
        succeed(&mut sources, [2; 16], QUICK, now);
        assert_eq!(sources.max_in_flight(Lane::Slow, 8, now), 2);
        assert_eq!(sources.max_in_flight(Lane::Unproven, 32, now), 28);
        assert_eq!(sources.max_in_flight(Lane::Proven, 32, now), 32);
        for lane in Lane::ALL {
            assert_eq!(sources.max_in_flight(lane, 1, now), 1);
        }
        let later = now + QUICK_FOR;
        assert_eq!(sources.max_in_flight(Lane::Slow, 8, later), 7);
        succeed(&mut sources, A, QUICK, later);
        assert_eq!(sources.lane(A), Lane::Proven);
    }

    #[test]
    fn only_a_quick_success_shows_that_the_host_is_quick() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        succeed(&mut sources, A, SLOW_AFTER, now);
        assert_eq!(sources.max_in_flight(Lane::Slow, 8, now), 7);
        sources.record_failure([2; 16], now);
        sources.record_duration([2; 16], QUICK, now);
        assert_eq!(sources.max_in_flight(Lane::Slow, 8, now), 7);
    }

    #[test]
    fn a_full_list_drops_half_for_a_new_source_only() {
        let (mut sources, start) = (Sources::default(), Instant::now());
        let id = |index: usize| (index as u128).to_le_bytes();
        let at = |index: usize| start + Duration::from_millis(index as u64);
        for index in 0..MAX_SOURCES {
            sources.record_success(id(index), at(index));
        }
        sources.record_success(id(0), at(MAX_SOURCES));
        assert_eq!(sources.by_id.len(), MAX_SOURCES, "it was known");
        sources.record_success(id(MAX_SOURCES), at(MAX_SOURCES + 1));
        assert_eq!(sources.by_id.len(), MAX_SOURCES / 2);
        assert!(sources.is_proven(id(0)) && sources.is_proven(id(MAX_SOURCES)));
        assert!(!sources.is_proven(id(1)));
    }

    #[test]
    fn the_least_recently_used_sources_make_room() {
        let (mut sources, start) = (Sources::default(), Instant::now());
        let id = |index: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&index.to_le_bytes());
            id
        };
        for index in 0..=MAX_SOURCES {
            let now = start + Duration::from_millis(index as u64);
            succeed(&mut sources, id(index), QUICK, now);
            // One that is in use all the time.
            succeed(&mut sources, A, QUICK, now);
            assert!(sources.by_id.len() <= MAX_SOURCES);
        }
        assert!(sources.is_proven(A) && !sources.is_proven(id(0)));
        assert!(sources.is_proven(id(MAX_SOURCES)));
    }
}

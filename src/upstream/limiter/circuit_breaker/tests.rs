use super::*;
use proptest::prelude::*;

const VICTIM: SourceId = [0; 16];
const MAX_IN_FLIGHT: usize = 8;

fn source(index: u8) -> SourceId {
    [index; 16]
}

fn check(
    breaker: &mut CircuitBreaker<&'static str>,
    id: SourceId,
    now: Instant,
) -> Circuit<&'static str> {
    breaker.check(id, false, MAX_IN_FLIGHT, now)
}

fn fail(breaker: &mut CircuitBreaker<&'static str>, id: SourceId, now: Instant) -> bool {
    breaker.record_failure(id, "down", false, now)
}

#[test]
fn one_broken_answer_does_not_open_the_circuit() {
    let (mut breaker, now) = (CircuitBreaker::default(), Instant::now());
    for _ in 0..10 {
        assert!(!fail(&mut breaker, VICTIM, now));
        assert!(!fail(&mut breaker, VICTIM, now));
        assert!(!breaker.record_answer(VICTIM, true, now));
    }
    assert_eq!(check(&mut breaker, VICTIM, now), Circuit::Closed);
}

#[test]
fn an_open_circuit_sends_one_probe_of_a_source_at_a_time_with_backoff() {
    let (mut breaker, mut now) = (CircuitBreaker::default(), Instant::now());
    assert!(!fail(&mut breaker, VICTIM, now));
    assert!(!fail(&mut breaker, VICTIM, now));
    assert!(fail(&mut breaker, VICTIM, now));
    assert!(
        !breaker.record_failure(VICTIM, "late", false, now),
        "opens once"
    );
    let mut waits = Vec::new();
    for _ in 0..8 {
        let Circuit::Open("down", wait) = check(&mut breaker, VICTIM, now) else {
            panic!("not open")
        };
        waits.push(wait.as_secs());
        now += wait;
        assert_eq!(check(&mut breaker, VICTIM, now), Circuit::HalfOpen);
        assert!(
            matches!(check(&mut breaker, VICTIM, now), Circuit::Open(..)),
            "one at a time"
        );
        breaker.record_failure(VICTIM, "down", true, now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    let soon = now + MAX_INTERACTIVE_WAIT;
    let interactive = breaker.check(VICTIM, true, MAX_IN_FLIGHT, soon);
    assert_eq!(interactive, Circuit::HalfOpen);
    breaker.abandon_probe(VICTIM);
    now += Duration::from_mins(1);
    assert_eq!(check(&mut breaker, VICTIM, now), Circuit::HalfOpen);
    breaker.abandon_probe(VICTIM);
    now += MIN_WAIT;
    assert_eq!(
        check(&mut breaker, VICTIM, now),
        Circuit::HalfOpen,
        "the next one"
    );
    assert!(
        breaker.record_answer(VICTIM, false, now),
        "it has recovered"
    );
    assert_eq!(check(&mut breaker, VICTIM, now), Circuit::Closed);
    assert!(breaker.is_healthy());
}

#[test]
fn unproven_sources_cannot_open_the_circuit_of_a_proven_one() {
    let (mut breaker, now) = (CircuitBreaker::default(), Instant::now());
    breaker.record_answer(VICTIM, true, now);
    for index in 1..=200 {
        assert!(!fail(&mut breaker, source(index), now));
    }
    assert_eq!(check(&mut breaker, VICTIM, now), Circuit::Closed);
    assert_eq!(check(&mut breaker, source(1), now), Circuit::Closed);
}

/// Asks every 100 ms, and returns how long the source waits for its probe.
fn wait_for_probe(
    breaker: &mut CircuitBreaker<&'static str>,
    id: SourceId,
    now: &mut Instant,
) -> Duration {
    let asked_at = *now;
    while check(breaker, id, *now) != Circuit::HalfOpen {
        *now += Duration::from_millis(100);
        assert!(*now - asked_at < Duration::from_mins(5), "no probe");
    }
    *now - asked_at
}

#[test]
fn a_proven_source_gets_the_next_probe() {
    let (mut breaker, mut now) = (CircuitBreaker::default(), Instant::now());
    for index in 0..4 {
        breaker.record_answer(source(index), true, now);
    }
    // Sources that were well until now, such as those of an author who made them so.
    for index in 1..4 {
        for _ in 0..2 {
            fail(&mut breaker, source(index), now);
        }
    }
    assert!(wait_for_probe(&mut breaker, VICTIM, &mut now) <= MIN_WAIT);
    assert!(!breaker.record_failure(VICTIM, "down", true, now));
    assert!(
        wait_for_probe(&mut breaker, VICTIM, &mut now) <= MIN_WAIT,
        "once more"
    );
    assert!(breaker.record_answer(VICTIM, true, now));
}

#[test]
fn a_new_source_gets_its_probe_however_many_others_fail() {
    let (mut breaker, mut now) = (CircuitBreaker::default(), Instant::now());
    for index in 1..4 {
        fail(&mut breaker, source(index), now);
    }
    // Eight sources ask all the time, before the new one.
    for _ in 0..600 {
        now += Duration::from_millis(100);
        for index in 1..=8 {
            if check(&mut breaker, source(index), now) == Circuit::HalfOpen {
                breaker.record_failure(source(index), "down", true, now);
            }
        }
    }
    assert!(wait_for_probe(&mut breaker, VICTIM, &mut now) <= MIN_WAIT * 2);
}

#[test]
fn stalled_probes_leave_one_for_a_source_that_succeeded_before() {
    let (mut breaker, start) = (CircuitBreaker::default(), Instant::now());
    breaker.record_answer(VICTIM, true, start);
    for _ in 0..3 {
        fail(&mut breaker, VICTIM, start);
    }
    let mut now = start + Duration::from_mins(2);
    assert_eq!(check(&mut breaker, source(1), now), Circuit::HalfOpen);
    now += MIN_WAIT;
    assert!(matches!(
        check(&mut breaker, source(2), now),
        Circuit::Open(..)
    ));
    assert_eq!(check(&mut breaker, VICTIM, now), Circuit::HalfOpen);
}

proptest! {
    /// Whatever other sources do, a source that was well gets its probe soon.
    #[test]
    fn a_source_that_was_well_is_served(
        steps in prop::collection::vec((1_u8..20, 0_u8..4, 0_u64..3000), 0..300),
    ) {
        let (mut breaker, mut now) = (CircuitBreaker::default(), Instant::now());
        breaker.record_answer(VICTIM, true, now);
        let mut refused_since = None;
        for (index, outcome, millis) in steps {
            now += Duration::from_millis(millis);
            let circuit = check(&mut breaker, VICTIM, now);
            if let Circuit::Open(..) = circuit {
                let since = *refused_since.get_or_insert(now);
                prop_assert!(now - since < MIN_WAIT * 20 * 2, "each other source fails twice");
            } else {
                breaker.record_answer(VICTIM, true, now);
                refused_since = None;
            }
            let id = source(index);
            let circuit = check(&mut breaker, id, now);
            if !matches!(circuit, Circuit::Open(..)) {
                let is_probe = circuit == Circuit::HalfOpen;
                match outcome {
                    0 => drop(breaker.record_answer(id, true, now)),
                    1 => drop(breaker.record_answer(id, false, now)),
                    _ => drop(breaker.record_failure(id, "down", is_probe, now)),
                }
            }
        }
    }
}

/// Lets three of 20 sources that were well open the circuit.
fn open(breaker: &mut CircuitBreaker<&'static str>, now: Instant) {
    for index in 0..20 {
        breaker.record_answer(source(index), true, now);
    }
    assert!(breaker.is_healthy());
    assert!(!fail(breaker, source(0), now));
    assert!(!breaker.is_healthy());
    assert!(!fail(breaker, source(1), now));
    assert!(fail(breaker, source(2), now));
    assert!(!breaker.is_healthy());
}

#[test]
fn probes_of_all_sources_keep_a_distance() {
    let (mut breaker, now) = (CircuitBreaker::default(), Instant::now());
    open(&mut breaker, now);
    let wait = Circuit::Open("down", MIN_WAIT);
    assert_eq!(check(&mut breaker, source(3), now), wait);
    let next = now + MIN_WAIT;
    assert_eq!(check(&mut breaker, source(3), next), Circuit::HalfOpen);
    assert_eq!(check(&mut breaker, source(4), next), wait);
    // Other sources have probes of their own.
    assert_eq!(check(&mut breaker, source(40), next), Circuit::HalfOpen);
    assert_eq!(check(&mut breaker, source(41), next), wait);
}

#[test]
fn each_kind_of_source_has_its_share_of_probes() {
    let (mut breaker, mut now) = (CircuitBreaker::default(), Instant::now());
    for index in 20..30 {
        breaker.record_answer(source(index), true, now);
        assert!(!fail(&mut breaker, source(index), now));
        assert!(!fail(&mut breaker, source(index), now));
        // The host answers another source.
        breaker.record_answer(source(0), true, now);
        assert!(!breaker.sources.is_proven(source(index)));
    }
    open(&mut breaker, now);
    let mut probes = |sources: std::ops::Range<u8>| {
        let sent = sources.filter(|index| {
            now += MIN_WAIT;
            breaker.check(source(*index), false, 16, now) == Circuit::HalfOpen
        });
        sent.count()
    };
    assert_eq!(probes(3..18), 8, "proven sources");
    assert_eq!(probes(40..50), 2, "sources that never succeeded");
    assert_eq!(probes(20..30), 2, "and sources that succeeded once: four");
}

#[test]
fn a_lane_has_the_permits_that_the_sources_allow() {
    let (mut breaker, now) = (CircuitBreaker::<()>::default(), Instant::now());
    breaker.record_answer(VICTIM, true, now);
    assert_eq!(breaker.lane(VICTIM), Lane::Proven);
    assert_eq!(breaker.max_in_flight(Lane::Proven, 8, now), 8);
    assert_eq!(breaker.max_in_flight(Lane::Unproven, 8, now), 7);
    breaker.record_duration(VICTIM, Duration::from_mins(1), now);
    assert_eq!(breaker.lane(VICTIM), Lane::Slow);
}

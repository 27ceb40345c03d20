use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn lease_of(holder: Option<&str>, since: Instant) -> ObservedLease {
    ObservedLease {
        holder: holder.map(ToOwned::to_owned),
        version: "7".to_owned(),
        duration: LEASE_DURATION,
        observed_at: since,
    }
}

fn standby() -> Candidate<'static> {
    Candidate {
        identity: "me",
        renewed_at: None,
    }
}

fn leading(renewed: Instant) -> Candidate<'static> {
    Candidate {
        identity: "me",
        renewed_at: Some(renewed),
    }
}

#[test]
fn acquires_a_lease_without_holder_at_once() {
    let now = Instant::now();
    assert_eq!(decide(now, None, &standby()), Step::Create);
    assert_eq!(
        decide(now, Some(&lease_of(None, now)), &standby()),
        Step::Acquire
    );
}

#[test]
fn acquires_a_lease_that_has_not_changed_for_its_duration() {
    let since = Instant::now();
    let lease = lease_of(Some("other"), since);
    assert_eq!(
        decide(since, Some(&lease), &standby()),
        Step::Wait(RETRY_PERIOD)
    );
    let almost = since + LEASE_DURATION - SECOND;
    assert_eq!(decide(almost, Some(&lease), &standby()), Step::Wait(SECOND));
    assert_eq!(
        decide(since + LEASE_DURATION, Some(&lease), &standby()),
        Step::Acquire
    );
}

#[test]
fn only_a_renewal_restarts_the_wait() {
    let first = Instant::now();
    let before = lease_of(Some("other"), first);
    let again = lease_of(Some("other"), first + LEASE_DURATION).or_first_seen(Some(&before));
    assert_eq!(again.observed_at, first);
    let renewed = ObservedLease {
        version: "8".to_owned(),
        ..lease_of(Some("other"), first + LEASE_DURATION)
    };
    let renewed = renewed.or_first_seen(Some(&before));
    assert_eq!(renewed.observed_at, first + LEASE_DURATION);
    let now = first + LEASE_DURATION;
    assert_eq!(
        decide(now, Some(&renewed), &standby()),
        Step::Wait(RETRY_PERIOD)
    );
}

#[test]
fn bounds_the_duration_that_a_holder_writes() {
    let since = Instant::now();
    let mut lease = lease_of(Some("other"), since);
    lease.duration = Duration::ZERO;
    assert_eq!(
        decide(since, Some(&lease), &standby()),
        Step::Wait(RETRY_PERIOD)
    );
    lease.duration = Duration::MAX;
    assert_eq!(
        decide(since + MAX_LEASE_DURATION, Some(&lease), &standby()),
        Step::Acquire
    );
}

#[test]
fn leader_steps_down_before_the_lease_expires() {
    let renewed = Instant::now();
    let lease = lease_of(Some("me"), renewed);
    let at = |after| decide(renewed + after, Some(&lease), &leading(renewed));
    assert_eq!(at(Duration::ZERO), Step::Wait(RENEW_INTERVAL));
    assert_eq!(at(RENEW_INTERVAL), Step::Renew);
    assert_eq!(at(Duration::from_secs(9)), Step::Renew);
    assert_eq!(at(RENEW_DEADLINE), Step::Resign);
    const { assert!(RENEW_DEADLINE.as_secs() < LEASE_DURATION.as_secs()) };
}

#[test]
fn leader_steps_down_when_it_is_not_the_holder() {
    let now = Instant::now();
    for holder in [Some("other"), None] {
        assert_eq!(
            decide(now, Some(&lease_of(holder, now)), &leading(now)),
            Step::Resign
        );
    }
    assert_eq!(
        decide(now, None, &leading(now)),
        Step::Create,
        "a user deleted it"
    );
}

#[test]
fn acquires_a_lease_with_its_own_identity() {
    let now = Instant::now();
    assert_eq!(
        decide(now, Some(&lease_of(Some("me"), now)), &standby()),
        Step::Acquire
    );
}

#[test]
fn suspended_process_does_not_continue_to_lead() {
    let renewed = Instant::now();
    let lease = lease_of(Some("me"), renewed);
    let awake = renewed + Duration::from_hours(1);
    assert_eq!(decide(awake, Some(&lease), &leading(renewed)), Step::Resign);
}

#[test]
fn clock_that_goes_back_acquires_nothing_early() {
    let since = Instant::now() + Duration::from_hours(1);
    let back = since.checked_sub(Duration::from_mins(30)).unwrap();
    let other = lease_of(Some("other"), since);
    assert_eq!(
        decide(back, Some(&other), &standby()),
        Step::Wait(RETRY_PERIOD)
    );
    let lease = lease_of(Some("me"), since);
    assert_eq!(
        decide(back, Some(&lease), &leading(since)),
        Step::Wait(RENEW_INTERVAL)
    );
}

proptest! {
    /// Two replicas with their own clocks: the first has stepped down when the second acquires.
    #[test]
    fn two_replicas_never_lead_at_the_same_time(sent in 0..1000_u64, delay in 0..3000_u64, looks in 0..2000_u64, now in 0..60_000_u64) {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        // The renewal was sent, took effect, and was then observed by the other replica.
        let lease = lease_of(Some("me"), at(sent + delay + looks));
        let other = Candidate { identity: "other", renewed_at: None };
        let now = at(now);
        if decide(now, Some(&lease), &other) == Step::Acquire {
            let own = lease_of(Some("me"), at(sent));
            prop_assert_eq!(decide(now, Some(&own), &leading(at(sent))), Step::Resign);
        }
    }
}

//! What to do about the lease, from what was seen of it.
//!
//! In: the time of the local clock, the lease as it was seen last, and the own claim. Out: one [`Step`]. Pure. Times that others wrote are never
//! compared with the local clock: another's lease is over when it has not changed here for as long as it lasts.

use std::time::Duration;

use tokio::time::Instant;

/// How long a lease lasts without a renewal.
pub const LASTS: Duration = Duration::from_secs(15);
/// How often the leader renews it.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// A leader that has not managed to renew for so long ends. The rest of [`LASTS`] is for its work to stop before anybody else starts.
pub const GIVE_UP: Duration = Duration::from_secs(10);
/// How often a replica that does not lead looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// No holder can make the others wait longer than this for it.
const LONGEST: Duration = Duration::from_mins(5);

/// The lease as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it, if anybody does.
    pub holder: Option<String>,
    /// Its resourceVersion.
    pub version: String,
    /// How long it lasts, as its holder says.
    pub lasts: Duration,
    /// When this version was first seen here.
    pub since: Instant,
}

impl Seen {
    /// Takes in another look. One that shows the same version again starts nothing anew.
    #[must_use]
    pub fn or_newer(before: Option<&Self>, now: Self) -> Self {
        match before {
            Some(before) if before.version == now.version => Self {
                since: before.since,
                ..now
            },
            _ => now,
        }
    }
}

/// The own claim.
#[derive(Clone, Copy, Debug)]
pub struct Mine<'a> {
    /// Who this replica is. It is random in part, so no other replica has it.
    pub identity: &'a str,
    /// When the last renewal that succeeded was sent, if this replica leads.
    pub renewed: Option<Instant>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the lease, as its holder.
    Create,
    /// Write oneself in as the holder, guarded by the version that was seen.
    Take,
    /// Renew it, guarded likewise.
    Renew,
    /// Look again after this.
    Wait(Duration),
    /// Stop leading, at once.
    Lose,
}

/// The next step.
#[must_use]
pub fn decide(now: Instant, seen: Option<&Seen>, mine: &Mine<'_>) -> Step {
    let holder = seen.and_then(|seen| seen.holder.as_deref());
    match (mine.renewed, seen) {
        (Some(renewed), _) if now.saturating_duration_since(renewed) >= GIVE_UP => Step::Lose,
        // There is none yet, or a user deleted it.
        (_, None) => Step::Create,
        (Some(_), Some(_)) if holder != Some(mine.identity) => Step::Lose,
        (Some(renewed), Some(_)) => {
            let rest = RENEW_EVERY.saturating_sub(now.saturating_duration_since(renewed));
            if rest.is_zero() {
                Step::Renew
            } else {
                Step::Wait(rest)
            }
        }
        // Its own identity: a write whose answer was lost.
        (None, Some(_)) if holder.is_none_or(|holder| holder == mine.identity) => Step::Take,
        (None, Some(seen)) => {
            let lasts = seen.lasts.clamp(LASTS, LONGEST);
            let rest = lasts.saturating_sub(now.saturating_duration_since(seen.since));
            if rest.is_zero() {
                Step::Take
            } else {
                Step::Wait(rest.min(LOOK_EVERY))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seen(holder: Option<&str>, since: Instant) -> Seen {
        Seen {
            holder: holder.map(ToOwned::to_owned),
            version: "7".to_owned(),
            lasts: LASTS,
            since,
        }
    }

    fn standby() -> Mine<'static> {
        Mine {
            identity: "me",
            renewed: None,
        }
    }

    fn leading(renewed: Instant) -> Mine<'static> {
        Mine {
            identity: "me",
            renewed: Some(renewed),
        }
    }

    #[test]
    fn a_lease_that_nobody_holds_is_taken_at_once() {
        let now = Instant::now();
        assert_eq!(decide(now, None, &standby()), Step::Create);
        assert_eq!(decide(now, Some(&seen(None, now)), &standby()), Step::Take);
    }

    #[test]
    fn anothers_lease_is_taken_once_unchanged_for_its_duration() {
        let since = Instant::now();
        let lease = seen(Some("other"), since);
        assert_eq!(
            decide(since, Some(&lease), &standby()),
            Step::Wait(LOOK_EVERY)
        );
        let almost = since + LASTS - SECOND;
        assert_eq!(decide(almost, Some(&lease), &standby()), Step::Wait(SECOND));
        assert_eq!(decide(since + LASTS, Some(&lease), &standby()), Step::Take);
    }

    #[test]
    fn a_renewal_starts_the_wait_anew_and_a_look_does_not() {
        let first = Instant::now();
        let before = seen(Some("other"), first);
        let again = Seen::or_newer(Some(&before), seen(Some("other"), first + LASTS));
        assert_eq!(again.since, first);
        let renewed = Seen {
            version: "8".to_owned(),
            ..seen(Some("other"), first + LASTS)
        };
        let renewed = Seen::or_newer(Some(&before), renewed);
        assert_eq!(renewed.since, first + LASTS);
        let now = first + LASTS;
        assert_eq!(
            decide(now, Some(&renewed), &standby()),
            Step::Wait(LOOK_EVERY)
        );
    }

    #[test]
    fn what_a_holder_says_of_its_lease_is_heard_within_bounds() {
        let since = Instant::now();
        let mut lease = seen(Some("other"), since);
        lease.lasts = Duration::ZERO;
        assert_eq!(
            decide(since, Some(&lease), &standby()),
            Step::Wait(LOOK_EVERY)
        );
        lease.lasts = Duration::MAX;
        assert_eq!(
            decide(since + LONGEST, Some(&lease), &standby()),
            Step::Take
        );
    }

    #[test]
    fn the_leader_gives_up_before_a_standby_can_take_over() {
        let renewed = Instant::now();
        let lease = seen(Some("me"), renewed);
        let at = |after| decide(renewed + after, Some(&lease), &leading(renewed));
        assert_eq!(at(Duration::ZERO), Step::Wait(RENEW_EVERY));
        assert_eq!(at(RENEW_EVERY), Step::Renew);
        assert_eq!(at(Duration::from_secs(9)), Step::Renew);
        assert_eq!(at(GIVE_UP), Step::Lose);
        const { assert!(GIVE_UP.as_secs() < LASTS.as_secs()) };
    }

    #[test]
    fn a_leader_that_sees_another_holder_or_none_has_lost() {
        let now = Instant::now();
        for holder in [Some("other"), None] {
            assert_eq!(
                decide(now, Some(&seen(holder, now)), &leading(now)),
                Step::Lose
            );
        }
        assert_eq!(
            decide(now, None, &leading(now)),
            Step::Create,
            "it was deleted"
        );
    }

    #[test]
    fn a_write_whose_answer_was_lost_is_ones_own() {
        let now = Instant::now();
        assert_eq!(
            decide(now, Some(&seen(Some("me"), now)), &standby()),
            Step::Take
        );
    }

    #[test]
    fn a_process_that_stood_still_does_not_go_on_leading() {
        let renewed = Instant::now();
        let lease = seen(Some("me"), renewed);
        let awake = renewed + Duration::from_hours(1);
        assert_eq!(decide(awake, Some(&lease), &leading(renewed)), Step::Lose);
    }

    #[test]
    fn a_clock_that_goes_back_takes_nothing_early() {
        let since = Instant::now() + Duration::from_hours(1);
        let back = since.checked_sub(Duration::from_mins(30)).unwrap();
        let other = seen(Some("other"), since);
        assert_eq!(
            decide(back, Some(&other), &standby()),
            Step::Wait(LOOK_EVERY)
        );
        let lease = seen(Some("me"), since);
        assert_eq!(
            decide(back, Some(&lease), &leading(since)),
            Step::Wait(RENEW_EVERY)
        );
    }

    proptest! {
        /// Two replicas on clocks of their own: whatever the first does, it has given up when the second takes over.
        #[test]
        fn two_never_lead_at_once(sent in 0..1000_u64, delay in 0..3000_u64, looks in 0..2000_u64, now in 0..60_000_u64) {
            let start = Instant::now();
            let at = |millis| start + Duration::from_millis(millis);
            // The renewal was sent, took effect, and was then seen by the other.
            let lease = seen(Some("me"), at(sent + delay + looks));
            let other = Mine { identity: "other", renewed: None };
            let now = at(now);
            if decide(now, Some(&lease), &other) == Step::Take {
                let own = seen(Some("me"), at(sent));
                prop_assert_eq!(decide(now, Some(&own), &leading(at(sent))), Step::Lose);
            }
        }
    }
}

use super::*;
use crate::controller::run_pods::pod_state::Cause;

const WAITS: PodState = PodState::Troubled(Trouble {
    cause: Cause::SecretMissing,
    reason: "CreateContainerConfigError",
});
const FAILED: PodState = PodState::Troubled(Trouble {
    cause: Cause::TooLarge,
    reason: "StartError",
});

/// Observes a pod that was created at second `created`, which is also its name.
fn observe(troubles: &mut PodTroubles, created: i64, state: PodState) -> bool {
    observe_in(troubles, created, state, 1)
}

fn observe_in(troubles: &mut PodTroubles, created: i64, state: PodState, seen: u64) -> bool {
    let name = created.to_string();
    let uid = Uid::from(&*name);
    let pod = SeenPod {
        name: &name,
        uid: &uid,
        run: None,
        created,
        seen,
    };
    troubles.observe(pod, state)
}

fn names(troubles: &PodTroubles) -> Vec<&str> {
    troubles.pods().iter().map(|pod| &*pod.name).collect()
}

#[test]
fn pods_to_report_follow_from_what_happened() {
    use PodState::{Pending, Started};
    for (what, events, expected) in [
        ("a pod waits", &[(1, WAITS)][..], &["1"][..]),
        ("it starts", &[(1, WAITS), (1, Started)], &[]),
        ("it can be created", &[(1, WAITS), (1, Pending)], &[]),
        ("a pod fails", &[(1, FAILED)], &["1"]),
        ("a newer one starts", &[(1, FAILED), (2, Started)], &[]),
        ("a newer one started", &[(2, Started), (1, FAILED)], &[]),
        ("an older one starts", &[(2, FAILED), (1, Started)], &["2"]),
        (
            "a newer one waits for its image",
            &[(1, FAILED), (2, Pending)],
            &["1"],
        ),
        (
            "a newer one fails",
            &[(1, FAILED), (2, FAILED)],
            &["2", "1"],
        ),
        (
            "a start does not end a wait",
            &[(1, WAITS), (2, Started)],
            &["1"],
        ),
        (
            "a wait that became a failure",
            &[(1, WAITS), (1, FAILED)],
            &["1"],
        ),
        (
            "order of creation",
            &[(2, WAITS), (3, WAITS), (1, WAITS)],
            &["3", "2", "1"],
        ),
    ] {
        let mut troubles = PodTroubles::default();
        for (created, state) in events {
            observe(&mut troubles, *created, *state);
        }
        assert_eq!(names(&troubles), expected, "{what}");
    }
}

#[test]
fn says_whether_something_changed() {
    let mut troubles = PodTroubles::default();
    for (created, state, changed) in [
        (1, PodState::Started, false),
        (2, PodState::Pending, false),
        (2, WAITS, true),
        (2, WAITS, false),
        (2, FAILED, true),
        (3, PodState::Started, true),
        (3, PodState::Started, false),
        (2, FAILED, false),
    ] {
        let found = observe(&mut troubles, created, state);
        assert_eq!(found, changed, "{created}: {state:?}");
    }
    observe(&mut troubles, 4, WAITS);
    assert!(!troubles.remove(&Uid::from("5")));
    assert!(troubles.remove(&Uid::from("4")));
}

#[test]
fn keeps_a_bounded_number_of_the_newest_pods() {
    let mut troubles = PodTroubles::default();
    for created in 0..100 {
        assert!(observe(&mut troubles, created, WAITS));
    }
    assert_eq!(
        names(&troubles),
        ["99", "98", "97", "96", "95", "94", "93", "92"]
    );
    assert!(!observe(&mut troubles, 50, WAITS), "an older one");
    assert_eq!(troubles.pods().len(), MAX_PODS);
}

#[test]
fn a_pod_that_a_list_does_not_show_is_gone() {
    let mut troubles = PodTroubles::default();
    observe_in(&mut troubles, 1, WAITS, 1);
    observe_in(&mut troubles, 2, WAITS, 1);
    assert!(!observe_in(&mut troubles, 2, WAITS, 2));
    assert!(troubles.remove_unseen(2));
    assert_eq!(names(&troubles), ["2"]);
    assert!(!troubles.remove_unseen(2));
}

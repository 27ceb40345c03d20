//! The pods that do not start because of one Secret. Pure.
//!
//! Input: the states of pods that load the Secret, in any order.
//! Output: the pods to report, the newest first, and whether an input changed them.
//! Invariants: a bounded number of pods. A pod that started clears the failures of older ones; a pod
//! that waits is cleared only by its own start or end.

use super::pod_state::{PodState, Trouble};
use crate::crd::Uid;

/// Pods that are kept for one Secret.
pub const MAX_PODS: usize = 8;

/// A pod that does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TroubledPod {
    /// Its name.
    pub name: Box<str>,
    /// Its UID.
    pub uid: Uid,
    /// The name or the id of its flow run.
    pub run: Option<Box<str>>,
    /// Why it does not start.
    pub trouble: Trouble,
    /// When it was created, in seconds.
    created: i64,
    /// The number of the list or watch that showed it last.
    seen: u64,
}

/// What identifies a pod, and when it was seen.
#[derive(Clone, Copy, Debug)]
pub struct SeenPod<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a Uid,
    /// The name or the id of its flow run.
    pub run: Option<&'a str>,
    /// When it was created, in seconds.
    pub created: i64,
    /// The number of the list or watch that shows it.
    pub seen: u64,
}

/// The pods that do not start because of one Secret.
#[derive(Debug, Default)]
pub struct PodTroubles {
    /// The newest first.
    pods: Vec<TroubledPod>,
    /// When the newest pod was created that started.
    last_started: Option<i64>,
}

impl PodTroubles {
    /// The pods, the newest first.
    #[must_use]
    pub fn pods(&self) -> &[TroubledPod] {
        &self.pods
    }

    /// Handles the state of a pod. Returns whether the pods to report changed.
    pub fn observe(&mut self, pod: SeenPod<'_>, state: PodState) -> bool {
        match state {
            PodState::Pending => self.remove(pod.uid),
            PodState::Started => {
                self.last_started = self.last_started.max(Some(pod.created));
                self.retain(|known| {
                    let is_older = known.created <= pod.created;
                    known.uid != *pod.uid && (known.trouble.is_wait() || !is_older)
                })
            }
            PodState::Troubled(trouble) => {
                let was_followed = self.last_started.is_some_and(|at| at >= pod.created);
                if was_followed && !trouble.is_wait() {
                    return self.remove(pod.uid);
                }
                self.insert(pod, trouble)
            }
        }
    }

    /// Handles the end of a pod. Returns whether the pods to report changed.
    pub fn remove(&mut self, uid: &Uid) -> bool {
        self.retain(|known| known.uid != *uid)
    }

    /// Removes the pods that list or watch `number` has not shown. Returns whether there were any.
    pub fn remove_unseen(&mut self, number: u64) -> bool {
        self.retain(|known| known.seen >= number)
    }

    fn retain(&mut self, keep: impl FnMut(&TroubledPod) -> bool) -> bool {
        let before = self.pods.len();
        self.pods.retain(keep);
        self.pods.len() != before
    }

    fn insert(&mut self, pod: SeenPod<'_>, trouble: Trouble) -> bool {
        if let Some(known) = self.pods.iter_mut().find(|known| known.uid == *pod.uid) {
            known.seen = pod.seen;
            return std::mem::replace(&mut known.trouble, trouble) != trouble;
        }
        let newer = |known: &TroubledPod| (known.created, &*known.name) > (pod.created, pod.name);
        let at = self.pods.partition_point(newer);
        if at >= MAX_PODS {
            return false;
        }
        self.pods.truncate(MAX_PODS - 1);
        let pod = TroubledPod {
            name: pod.name.into(),
            uid: pod.uid.clone(),
            run: pod.run.map(Into::into),
            trouble,
            created: pod.created,
            seen: pod.seen,
        };
        self.pods.insert(at, pod);
        true
    }
}

#[cfg(test)]
mod tests;

//! Whether a container started, and if not, whether a Secret of its variables is the cause. Pure.
//!
//! Input: the status of a container, as kubelets and container runtimes write it.
//! Output: [`PodState`].
//! Invariants: it keeps no message. Another cause than a Secret of the variables is no trouble.

use serde::{Deserialize, de::IgnoredAny};

/// The kubelet's reason for a container that waits for an object that its variables refer to.
const CONFIG_ERROR: &str = "CreateContainerConfigError";
/// The reasons of kubelets and container runtimes for a container whose process did not start.
const START_ERRORS: [&str; 4] = [
    "StartError",
    "RunContainerError",
    "CreateContainerError",
    "ContainerCannotRun",
];
/// The kubelet waits before it tries again. Why is in the last state.
const BACK_OFF: &str = "CrashLoopBackOff";
/// The kubelet does not know what became of the container.
const UNKNOWN: &str = "ContainerStatusUnknown";

/// Why a pod does not start, if a Secret of its variables is the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The Secret does not exist.
    SecretMissing,
    /// The variables of the container are larger than the system allows.
    TooLarge,
    /// The program of the container is not in its `PATH`, which the Secret may set.
    ProgramNotFound,
}

/// Why a pod does not start, and how Kubernetes calls that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The cause.
    pub cause: Cause,
    /// The reason in the status of the pod.
    pub reason: &'static str,
}

impl Trouble {
    /// Whether the pod waits, and starts by itself once it can.
    #[must_use]
    pub fn is_wait(self) -> bool {
        self.cause == Cause::SecretMissing
    }
}

/// What the containers that load a Secret do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// None of them has started, and the Secret is not known to be the cause.
    Pending,
    /// One of them does not start because of the Secret.
    Troubled(Trouble),
    /// One of them has started.
    Started,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerStatus {
    /// The name of the container.
    pub(super) name: String,
    #[serde(default)]
    state: State,
    #[serde(default)]
    last_state: State,
}

#[derive(Default, Deserialize)]
struct State {
    running: Option<IgnoredAny>,
    waiting: Option<Details>,
    terminated: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl Details {
    /// The reason, if the process did not start.
    fn start_error(&self) -> Option<&'static str> {
        START_ERRORS.into_iter().find(|known| self.reason == *known)
    }
}

impl ContainerStatus {
    /// The state of the container, as far as `secret` is concerned.
    pub(super) fn state_for(&self, secret: &str) -> PodState {
        let state = &self.state;
        if state.running.is_some() {
            return PodState::Started;
        }
        if let Some(waiting) = &state.waiting {
            if waiting.reason == CONFIG_ERROR && names_missing(&waiting.message, secret) {
                return PodState::Troubled(Trouble {
                    cause: Cause::SecretMissing,
                    reason: CONFIG_ERROR,
                });
            }
            if waiting.reason == BACK_OFF {
                let last = self.last_state.terminated.as_ref();
                return last.map_or(PodState::Pending, ended);
            }
            return failed(waiting).unwrap_or(PodState::Pending);
        }
        state.terminated.as_ref().map_or(PodState::Pending, ended)
    }
}

/// The state of a container that ended.
fn ended(details: &Details) -> PodState {
    if details.start_error().is_some() || details.reason == UNKNOWN {
        return failed(details).unwrap_or(PodState::Pending);
    }
    PodState::Started
}

/// The trouble of a container whose process did not start, if variables can be the cause.
fn failed(details: &Details) -> Option<PodState> {
    let reason = details.start_error()?;
    let cause = if details.message.contains("argument list too long") {
        Cause::TooLarge
    } else if details
        .message
        .contains("executable file not found in $PATH")
    {
        Cause::ProgramNotFound
    } else {
        return None;
    };
    Some(PodState::Troubled(Trouble { cause, reason }))
}

/// Whether the kubelet's message says that this Secret does not exist.
fn names_missing(message: &str, secret: &str) -> bool {
    ["secret", "secrets"]
        .iter()
        .any(|kind| message.contains(&format!("{kind} \"{secret}\" not found")))
}

/// The state of the pod, from two of its containers.
pub(super) fn join(one: PodState, other: PodState) -> PodState {
    match (one, other) {
        (troubled @ PodState::Troubled(_), _) | (_, troubled @ PodState::Troubled(_)) => troubled,
        (PodState::Started, _) | (_, PodState::Started) => PodState::Started,
        (PodState::Pending, PodState::Pending) => PodState::Pending,
    }
}
